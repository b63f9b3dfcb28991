#include "fixture.h"
#include "suites.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static lks_dataset *open_fixture(int64_t context)
{
    lks_dataset *dataset = NULL;
    assert_ok(lks_dataset_open(&dataset, fixture_directory, context));
    return dataset;
}

/* Every window of the text, in one call, against the definition. */
static void check_windows(uint64_t total, int64_t context, int32_t factor)
{
    lks_dataset *dataset = open_fixture(context);
    uint64_t count = lks_dataset_samples(dataset);
    ck_assert_uint_eq(count, (total - 1 + (uint64_t)context - 1) / (uint64_t)context);
    uint64_t *samples = calloc(count, sizeof *samples);
    size_t cells = count * (size_t)context;
    int32_t *tokens = calloc(cells, sizeof *tokens), *targets = calloc(cells, sizeof *targets);
    memset(tokens, 0x55, cells * sizeof *tokens);
    for (uint64_t i = 0; i < count; ++i)
        samples[i] = i;
    assert_ok(lks_dataset_read(dataset, samples, (int64_t)count, (void *[]){tokens, targets}));
    for (uint64_t at = 0; at < cells; ++at) {
        ck_assert_int_eq(tokens[at], at < total ? fixture_token(at) * factor : 0);
        ck_assert_int_eq(targets[at], at + 1 < total ? fixture_token(at + 1) * factor : -1);
    }
    free(samples);
    free(tokens);
    free(targets);
    lks_dataset_close(dataset);
}

START_TEST(text_windows_cross_shards)
{
    fixture_layout layout = FIXTURE_LAYOUT(16, 7, 1, 40, 1, 2, 50);
    fixture_text(_i == 0 ? LKS_U8 : LKS_U16, &layout);
    const int64_t contexts[] = {1, 2, 5, 7, 10, 20, 25, 33, 50, 99, 100, 101, 5000};
    for (size_t i = 0; i < sizeof contexts / sizeof *contexts; ++i)
        check_windows(101, contexts[i], _i == 0 ? 1 : 100);
}
END_TEST

START_TEST(text_of_two_tokens)
{
    fixture_layout layout = FIXTURE_LAYOUT(262144, 2);
    fixture_text(LKS_U8, &layout);
    check_windows(2, 1, 1);
    check_windows(2, 64, 1);
}
END_TEST

START_TEST(long_windows_are_read_in_pieces)
{
    fixture_layout layout = FIXTURE_LAYOUT(1000, 9000, 12345);
    fixture_text(LKS_U16, &layout);
    check_windows(21345, 4095, 100);
    check_windows(21345, 4096, 100);
    check_windows(21345, 10000, 100);
}
END_TEST

START_TEST(text_schema)
{
    fixture_layout layout = FIXTURE_LAYOUT(64, 30);
    fixture_text(LKS_U16, &layout);
    lks_dataset *dataset = open_fixture(8);
    const lks_schema *schema = lks_dataset_schema(dataset);
    ck_assert_int_eq(schema->kind, LKS_DATA_TEXT);
    ck_assert_int_eq(schema->vocabulary, 25501);
    ck_assert_int_eq(schema->context, 8);
    ck_assert_int_eq(schema->field_count, 2);
    ck_assert_str_eq(schema->fields[0].name, "tokens");
    ck_assert_str_eq(schema->fields[1].name, "targets");
    ck_assert(schema->fields[1].target && !schema->fields[0].target);
    ck_assert(lks_shape_equal(&schema->fields[1].shape, &LKS_SHAPE(8)));
    ck_assert_uint_eq(lks_dataset_sample_bytes(dataset), 16);
    ck_assert_str_eq(lks_dataset_directory(dataset), fixture_directory);
    ck_assert_uint_eq(strlen(lks_dataset_digest(dataset)), 64);
    ck_assert_str_eq(json_string_value(json_object_get(lks_dataset_manifest(dataset), "kind")),
                     "text");
    lks_dataset_close(dataset);
    assert_status(lks_dataset_open(&dataset, fixture_directory, 0), LKS_ERR_USAGE);
}
END_TEST

/* Scattered, repeated, consecutive across shards, and masked. */
static const uint64_t picks[] = {0, 1, 2, 3, 4, 11, 10, 3, LKS_SAMPLE_NONE, 5, 6, 7, 19, 0, 18};
enum { PICKS = sizeof picks / sizeof *picks };

START_TEST(images_are_read)
{
    fixture_layout layout = FIXTURE_LAYOUT(37, 5, 1, 6, 8);
    fixture_images(&layout);
    lks_dataset *dataset = open_fixture(0);
    const lks_schema *schema = lks_dataset_schema(dataset);
    ck_assert_uint_eq(lks_dataset_samples(dataset), 20);
    ck_assert(lks_shape_equal(&schema->fields[0].shape, &LKS_SHAPE(4, 3, 2)));
    ck_assert_int_eq(schema->fields[1].shape.axes, 0);
    ck_assert_int_eq(schema->classes, FIXTURE_CLASSES);
    ck_assert(schema->channel_mean[1] == 100.25f && schema->channel_deviation[0] == 3.5f);
    ck_assert_uint_eq(lks_dataset_sample_bytes(dataset), FIXTURE_PIXELS + 4);
    uint8_t images[PICKS][FIXTURE_PIXELS];
    int32_t targets[PICKS];
    memset(images, 0xee, sizeof images);
    assert_ok(lks_dataset_read(dataset, picks, PICKS, (void *[]){images, targets}));
    for (int i = 0; i < PICKS; ++i) {
        bool masked = picks[i] == LKS_SAMPLE_NONE;
        ck_assert_int_eq(targets[i], masked ? -1 : fixture_label(picks[i], FIXTURE_CLASSES));
        for (uint64_t j = 0; j < FIXTURE_PIXELS; ++j)
            ck_assert_uint_eq(images[i][j], masked ? 0 : fixture_pixel(picks[i], j));
    }
    lks_dataset_close(dataset);
}
END_TEST

START_TEST(tables_are_read)
{
    int32_t classes = _i == 0 ? 0 : FIXTURE_CLASSES;
    fixture_layout layout = FIXTURE_LAYOUT(50, 3, 9, 8);
    fixture_table(classes, &layout);
    lks_dataset *dataset = open_fixture(0);
    const lks_schema *schema = lks_dataset_schema(dataset);
    ck_assert_int_eq(schema->fields[1].dtype, classes == 0 ? LKS_F32 : LKS_I32);
    ck_assert_int_eq(schema->fields[1].shape.axes, classes == 0 ? 1 : 0);
    float features[PICKS][FIXTURE_FEATURES];
    union {
        float number;
        int32_t label;
    } targets[PICKS];
    assert_ok(lks_dataset_read(dataset, picks, PICKS, (void *[]){features, targets}));
    for (int i = 0; i < PICKS; ++i) {
        bool masked = picks[i] == LKS_SAMPLE_NONE;
        if (classes > 0)
            ck_assert_int_eq(targets[i].label, masked ? -1 : fixture_label(picks[i], classes));
        else if (masked || picks[i] % 7 == 3)
            ck_assert(isnan(targets[i].number));
        else
            ck_assert(targets[i].number == (float)picks[i] * 0.5f);
        for (uint64_t j = 0; j < FIXTURE_FEATURES; ++j)
            ck_assert(features[i][j] == (masked ? 0.0f : fixture_feature(picks[i], j)));
    }
    lks_dataset_close(dataset);
}
END_TEST

START_TEST(sample_out_of_range)
{
    fixture_layout layout = FIXTURE_LAYOUT(64, 10);
    fixture_table(0, &layout);
    lks_dataset *dataset = open_fixture(0);
    float features[FIXTURE_FEATURES], target;
    assert_status(lks_dataset_read(dataset, (uint64_t[]){10}, 1, (void *[]){features, &target}),
                  LKS_ERR_INTERNAL);
    lks_dataset_close(dataset);
}
END_TEST

/* The digest names contents: neither provenance nor place nor context changes it. */
START_TEST(digest_is_of_the_contents)
{
    fixture_layout layout = FIXTURE_LAYOUT(64, 30);
    fixture_text(LKS_U8, &layout);
    lks_dataset *dataset = open_fixture(4);
    char before[65];
    strcpy(before, lks_dataset_digest(dataset));
    lks_dataset_close(dataset);
    json_t *manifest = fixture_load_manifest();
    json_object_set_new(manifest, "provenance", json_pack("{s:s}", "made", "elsewhere"));
    fixture_save_manifest(manifest, false);
    json_decref(manifest);
    dataset = open_fixture(5);
    ck_assert_str_eq(lks_dataset_digest(dataset), before);
    lks_dataset_close(dataset);
}
END_TEST

/* More shards than the process may hold files. */
START_TEST(many_shards_need_few_files)
{
    uint64_t records[100];
    for (int i = 0; i < 100; ++i)
        records[i] = 3;
    fixture_layout layout = {records, 100, 64};
    fixture_table(0, &layout);
    lks_dataset *dataset = open_fixture(0);
    lks_dataset_close(dataset);
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = 48;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    dataset = open_fixture(0);
    for (uint64_t round = 0; round < 2; ++round)
        for (uint64_t i = 0; i < 300; ++i) {
            float features[FIXTURE_FEATURES], target;
            uint64_t sample = i * 7 % 300;
            assert_ok(lks_dataset_read(dataset, &sample, 1, (void *[]){features, &target}));
            ck_assert(features[1] == fixture_feature(sample, 1));
        }
    lks_dataset_close(dataset);
}
END_TEST

static void *read_all(void *argument)
{
    lks_dataset *dataset = argument;
    uintptr_t wrong = 0;
    for (uint64_t i = 0; i < lks_dataset_samples(dataset); ++i) {
        int32_t tokens[5], targets[5];
        uint64_t sample = i * 11 % lks_dataset_samples(dataset);
        wrong += lks_dataset_read(dataset, &sample, 1, (void *[]){tokens, targets}) != LKS_OK;
        wrong += tokens[2] != fixture_token(sample * 5 + 2);
    }
    return (void *)wrong;
}

START_TEST(threads_share_a_dataset)
{
    fixture_layout layout = FIXTURE_LAYOUT(8, 1000, 1000, 1001);
    fixture_text(LKS_U8, &layout);
    lks_dataset *dataset = open_fixture(5);
    pthread_t threads[4];
    for (int i = 0; i < 4; ++i)
        ck_assert_int_eq(pthread_create(&threads[i], NULL, read_all, dataset), 0);
    for (int i = 0; i < 4; ++i) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        ck_assert_ptr_null(wrong);
    }
    lks_dataset_close(dataset);
}
END_TEST

Suite *dataset_suite(void)
{
    Suite *suite = suite_create("dataset");
    TCase *group = tcase_create("reading");
    tcase_set_timeout(group, 30);
    tcase_add_checked_fixture(group, fixture_setup, fixture_teardown);
    tcase_add_loop_test(group, text_windows_cross_shards, 0, 2);
    tcase_add_test(group, text_of_two_tokens);
    tcase_add_test(group, long_windows_are_read_in_pieces);
    tcase_add_test(group, text_schema);
    tcase_add_test(group, images_are_read);
    tcase_add_loop_test(group, tables_are_read, 0, 2);
    tcase_add_test(group, sample_out_of_range);
    tcase_add_test(group, digest_is_of_the_contents);
    tcase_add_test(group, many_shards_need_few_files);
    tcase_add_test(group, threads_share_a_dataset);
    suite_add_tcase(suite, group);
    return suite;
}
