#include "support.h"

#include "runtime/datasets/dataset.h"
#include "runtime/datasets/encode.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static lks_encoder *open_encoder(const json_t *manifest, const char *path, int64_t context)
{
    lks_encoder *encoder;
    ck_assert_msg(lks_encoder_open(&encoder, manifest, path, context) == LKS_OK, "%s",
                  lks_status_message());
    return encoder;
}

static lks_status try_open(const json_t *manifest, const char *path)
{
    lks_encoder *encoder;
    lks_status status = lks_encoder_open(&encoder, manifest, path, 4);
    if (status == LKS_OK)
        lks_encoder_close(encoder);
    return status;
}

enum { ROWS = 1000, BATCH = 7 };

/* Awkward numbers, missing values, unseen categories. */
static void write_tables(void)
{
    FILE *with = fopen("with.csv", "w"), *without = fopen("without.csv", "w");
    fputs("skip,a,b,c,y\n", with);
    fputs("c,b,a\n", without);
    for (uint64_t i = 0; i < ROWS; ++i) {
        char a[32] = "?", b[32], c[32];
        if (random_word(1, i) % 9)
            snprintf(a, sizeof a, "%.9g", random_word(2, i) / 7.0 - 1e8);
        snprintf(b, sizeof b, "1e-%u", random_word(3, i) % 30);
        snprintf(c, sizeof c, "k%u", random_word(4, i) % (i < 700 ? 5 : 9));
        fprintf(with, "s,%s,%s,%s,%.5g\n", a, b, c, random_word(5, i) / 1e9 + 0.5);
        fprintf(without, "%s,%s,%s\n", c, b, a);
    }
    fclose(with);
    fclose(without);
}

START_TEST(encodes_rows_as_prepared)
{
    write_tables();
    ck_assert_msg(
        PREPARE("table", "out", {"with.csv"}, {"target=y", "ignore=skip"}, .split = 0.3) == LKS_OK,
        "%s", lks_status_message());
    json_t *manifest = load_manifest("out/train");
    size_t train_bytes, validation_bytes;
    char *train = read_array("out/train", "features", &train_bytes);
    char *validation = read_array("out/validation", "features", &validation_bytes);
    size_t width = train_bytes / 700;
    ck_assert_uint_eq(width, (2 + 1 + 5) * sizeof(float));
    lks_encoder *encoder = open_encoder(manifest, "without.csv", 0);
    size_t done = 0;
    for (;;) {
        char features[BATCH * 8 * sizeof(float)];
        float targets[BATCH];
        int64_t count;
        ck_assert_int_eq(lks_encoder_next(encoder, BATCH, (void *[]){features, targets}, &count),
                         LKS_OK);
        if (count == 0)
            break;
        for (size_t i = 0; i < (size_t)count; ++i, ++done) {
            const char *wanted =
                done < 700 ? train + done * width : validation + (done - 700) * width;
            ck_assert_mem_eq(features + i * width, wanted, width);
            ck_assert(isnan(targets[i]));
        }
    }
    ck_assert_uint_eq(done, ROWS);
    ck_assert_ptr_null(lks_encoder_class_name(encoder, 0));
    lks_encoder_close(encoder);
    json_decref(manifest);
    free(train);
    free(validation);
}
END_TEST

START_TEST(decodes_targets)
{
    write_text("n.csv", "a,y\n1,10.5\n2,20.5\n");
    ck_assert_int_eq(PREPARE("table", "number", {"n.csv"}, {"target=y"}), LKS_OK);
    json_t *manifest = load_manifest("number");
    lks_encoder *encoder = open_encoder(manifest, NULL, 0);
    ck_assert_double_eq(lks_encoder_number(encoder, -1), 10.5);
    ck_assert_double_eq(lks_encoder_number(encoder, 0.5), 18);
    lks_encoder_close(encoder);
    json_decref(manifest);
    write_text("c.csv", "a,y\n1,no way\n2,yes\n");
    ck_assert_int_eq(PREPARE("table", "class", {"c.csv"}, {"target=y"}), LKS_OK);
    manifest = load_manifest("class");
    encoder = open_encoder(manifest, "c.csv", 0);
    ck_assert_str_eq(lks_encoder_class_name(encoder, 0), "no way");
    ck_assert_str_eq(lks_encoder_class_name(encoder, 1), "yes");
    ck_assert_ptr_null(lks_encoder_class_name(encoder, 2));
    ck_assert_ptr_null(lks_encoder_class_name(encoder, -1));
    float features[2];
    int32_t targets[2];
    int64_t count;
    ck_assert_int_eq(lks_encoder_next(encoder, 2, (void *[]){features, targets}, &count), LKS_OK);
    ck_assert_int_eq(count, 2);
    ck_assert_int_eq(targets[0], -1);
    lks_encoder_close(encoder);
    json_decref(manifest);
}
END_TEST

START_TEST(encodes_images)
{
    uint8_t pixels[5 * 4], labels[5] = {0, 1, 2, 1, 0};
    for (int i = 0; i < 20; ++i)
        pixels[i] = (uint8_t)(i * 7);
    write_idx("i.gz", true, 3, (uint32_t[]){5, 2, 2}, pixels);
    write_idx("l", false, 1, (uint32_t[]){5}, labels);
    write_idx("wide", false, 3, (uint32_t[]){5, 1, 4}, pixels);
    ck_assert_int_eq(PREPARE("images", "out", {"i.gz", "l"}), LKS_OK);
    json_t *manifest = load_manifest("out");
    lks_encoder *encoder = open_encoder(manifest, "i.gz", 0);
    uint8_t found[3 * 4];
    int32_t targets[3];
    int64_t count;
    void *const fields[] = {found, targets};
    ck_assert_int_eq(lks_encoder_next(encoder, 3, fields, &count), LKS_OK);
    ck_assert_int_eq(count, 3);
    ck_assert_mem_eq(found, pixels, 12);
    ck_assert_int_eq(targets[2], -1);
    ck_assert_int_eq(lks_encoder_next(encoder, 3, fields, &count), LKS_OK);
    ck_assert_int_eq(count, 2);
    ck_assert_mem_eq(found, pixels + 12, 8);
    ck_assert_int_eq(lks_encoder_next(encoder, 3, fields, &count), LKS_OK);
    ck_assert_int_eq(count, 0);
    ck_assert_str_eq(lks_encoder_class_name(encoder, 2), "2");
    ck_assert_ptr_null(lks_encoder_class_name(encoder, 3));
    lks_encoder_close(encoder);
    check_refused(try_open(manifest, "wide"), LKS_ERR_CORRUPT,
                  "wide: its images are 1x4x1, those trained on were 2x2x1");
    check_refused(try_open(manifest, "l"), LKS_ERR_CORRUPT, "holds labels");
    check_refused(try_open(manifest, "none"), LKS_ERR_USAGE, "none");
    json_decref(manifest);
}
END_TEST

START_TEST(encodes_prompts)
{
    write_text("text", "some text");
    write_text("prompts", "ab\nabcdefgh\r\nx");
    ck_assert_int_eq(PREPARE("text", "out", {"text"}), LKS_OK);
    json_t *manifest = load_manifest("out");
    lks_encoder *encoder = open_encoder(manifest, "prompts", 4);
    int32_t tokens[2 * 4], targets[2 * 4];
    int64_t count;
    void *const fields[] = {tokens, targets};
    ck_assert_int_eq(lks_encoder_next(encoder, 2, fields, &count), LKS_OK);
    ck_assert_int_eq(count, 2);
    const int32_t wanted[] = {'a', 'b', 0, 0, 'e', 'f', 'g', 'h'};
    ck_assert_mem_eq(tokens, wanted, sizeof wanted);
    ck_assert_int_eq(targets[7], -1);
    ck_assert_int_eq(lks_encoder_prompt_length(encoder, 0), 2);
    ck_assert_int_eq(lks_encoder_prompt_length(encoder, 1), 4);
    ck_assert_str_eq(lks_encoder_prompt(encoder, 1), "abcdefgh");
    ck_assert_int_eq(lks_encoder_next(encoder, 2, fields, &count), LKS_OK);
    ck_assert_int_eq(count, 1);
    ck_assert_str_eq(lks_encoder_prompt(encoder, 0), "x");
    ck_assert_int_eq(lks_encoder_next(encoder, 2, fields, &count), LKS_OK);
    ck_assert_int_eq(count, 0);
    lks_encoder_close(encoder);
    write_text("prompts", "ab\n\nc\n");
    encoder = open_encoder(manifest, "prompts", 4);
    check_refused(lks_encoder_next(encoder, 2, fields, &count), LKS_ERR_CORRUPT,
                  "prompts:2: an empty line");
    lks_encoder_close(encoder);
    check_refused(try_open(manifest, "none"), LKS_ERR_USAGE, "none");
    json_decref(manifest);
}
END_TEST

START_TEST(refuses_tables)
{
    write_text("t.csv", "age,y\n1,a\n2,b\n");
    ck_assert_int_eq(PREPARE("table", "out", {"t.csv"}, {"target=y"}), LKS_OK);
    json_t *manifest = load_manifest("out");
    write_text("other.csv", "ages\n1\n");
    check_refused(try_open(manifest, "other.csv"), LKS_ERR_CORRUPT,
                  "other.csv: has no column age, with which the dataset was prepared");
    write_text("ragged.csv", "age,x\n1,2\n3\n");
    lks_encoder *encoder = open_encoder(manifest, "ragged.csv", 0);
    float features[4];
    int32_t targets[4];
    int64_t count;
    check_refused(lks_encoder_next(encoder, 4, (void *[]){features, targets}, &count),
                  LKS_ERR_CORRUPT, "ragged.csv:3: 1 field, the header has 2");
    lks_encoder_close(encoder);
    json_object_set_new(json_object_get(manifest, "schema"), "features", json_integer(9));
    check_refused(try_open(manifest, "t.csv"), LKS_ERR_CORRUPT, "says 9 features");
    json_decref(manifest);
}
END_TEST

TCase *encode_tests(void)
{
    TCase *tcase = tcase_create("encode");
    tcase_add_test(tcase, encodes_rows_as_prepared);
    tcase_add_test(tcase, decodes_targets);
    tcase_add_test(tcase, encodes_images);
    tcase_add_test(tcase, encodes_prompts);
    tcase_add_test(tcase, refuses_tables);
    return tcase;
}
