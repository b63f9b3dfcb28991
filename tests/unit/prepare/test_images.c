#include "support.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COUNT = 50, HEIGHT = 3, WIDTH = 2, PIXELS = HEIGHT * WIDTH };

static void write_pair(const char *images, const char *labels, bool gzip, uint32_t count,
                       uint32_t first)
{
    uint8_t pixels[COUNT * PIXELS], classes[COUNT];
    for (uint32_t i = 0; i < count * PIXELS; ++i)
        pixels[i] = (uint8_t)random_word(1, first * PIXELS + i);
    for (uint32_t i = 0; i < count; ++i)
        classes[i] = (uint8_t)(random_word(2, first + i) % 4);
    classes[0] = 3;
    write_idx(images, gzip, 3, (uint32_t[]){count, HEIGHT, WIDTH}, pixels);
    write_idx(labels, gzip, 1, (uint32_t[]){count}, classes);
}

static void check_pixels(const char *directory, uint32_t first, uint32_t count)
{
    size_t bytes;
    uint8_t *images = read_array(directory, "images", &bytes);
    ck_assert_uint_eq(bytes, count * PIXELS);
    for (uint32_t i = 0; i < count * PIXELS; ++i)
        ck_assert_uint_eq(images[i], (uint8_t)random_word(1, first * PIXELS + i));
    int32_t *labels = read_array(directory, "labels", &bytes);
    ck_assert_uint_eq(bytes, count * sizeof *labels);
    for (uint32_t i = 0; i < count; ++i)
        ck_assert_int_eq(labels[i], first + i == 0 ? 3 : (int)(random_word(2, first + i) % 4));
    free(images);
    free(labels);
}

static double statistic(const char *directory, const char *name, size_t channel)
{
    json_t *manifest = load_manifest(directory);
    json_t *list = json_object_get(json_object_get(manifest, "statistics"), name);
    double value = json_number_value(json_array_get(list, channel));
    json_decref(manifest);
    return value;
}

START_TEST(prepares_plain_and_gzip_alike)
{
    char plain[65], gzip[65];
    write_pair("i", "l", false, COUNT, 0);
    ck_assert_msg(PREPARE("images", "plain", {"i", "l"}, .split = 0.1) == LKS_OK, "%s",
                  lks_status_message());
    check_pixels("plain/train", 0, 45);
    check_pixels("plain/validation", 45, 5);
    write_pair("i", "l", true, COUNT, 0);
    ck_assert_int_eq(PREPARE("images", "gzip", {"l", "i"}, .split = 0.1), LKS_OK);
    ck_assert_int_eq(remove("plain/train/manifest.json"), 0);
    ck_assert_int_eq(remove("gzip/train/manifest.json"), 0);
    ck_assert_int_eq(remove("plain/validation/manifest.json"), 0);
    ck_assert_int_eq(remove("gzip/validation/manifest.json"), 0);
    digest_tree("plain", plain);
    digest_tree("gzip", gzip);
    ck_assert_str_eq(plain, gzip);
}
END_TEST

START_TEST(takes_statistics_of_the_training_part)
{
    write_pair("i", "l", false, COUNT, 0);
    ck_assert_int_eq(PREPARE("images", "out", {"i", "l"}, .split = 0.5), LKS_OK);
    double n = 25 * PIXELS, sum = 0, squares = 0;
    for (uint32_t i = 0; i < 25 * PIXELS; ++i)
        sum += (uint8_t)random_word(1, i);
    for (uint32_t i = 0; i < 25 * PIXELS; ++i)
        squares += pow((uint8_t)random_word(1, i) - sum / n, 2);
    for (int part = 0; part < 2; ++part) {
        const char *directory = part ? "out/validation" : "out/train";
        ck_assert_double_eq_tol(statistic(directory, "channel_mean", 0), sum / n, 1e-12);
        ck_assert_double_eq_tol(statistic(directory, "channel_deviation", 0), sqrt(squares / n),
                                1e-12);
    }
}
END_TEST

START_TEST(has_channels_and_constant_ones)
{
    uint8_t pixels[2 * 2 * 2 * 3], labels[2] = {0, 1};
    for (int i = 0; i < 24; ++i)
        pixels[i] = i % 3 == 2 ? 9 : (uint8_t)(i * (i % 3 + 1));
    write_idx("i", false, 4, (uint32_t[]){2, 2, 2, 3}, pixels);
    write_idx("l", false, 1, (uint32_t[]){2}, labels);
    ck_assert_int_eq(PREPARE("images", "out", {"i", "l"}), LKS_OK);
    ck_assert_double_eq(statistic("out", "channel_mean", 2), 9);
    ck_assert_double_eq(statistic("out", "channel_deviation", 2), 1);
    ck_assert_double_eq_tol(statistic("out", "channel_mean", 0), 10.5, 1e-12);
    size_t bytes;
    uint8_t *images = read_array("out", "images", &bytes);
    ck_assert_uint_eq(bytes, 24);
    ck_assert_mem_eq(images, pixels, 24);
    free(images);
}
END_TEST

START_TEST(counts_classes)
{
    uint8_t pixels[2] = {1, 2}, zeros[2] = {0, 0};
    write_idx("i", false, 3, (uint32_t[]){2, 1, 1}, pixels);
    write_idx("l", false, 1, (uint32_t[]){2}, zeros);
    ck_assert_int_eq(PREPARE("images", "least", {"i", "l"}), LKS_OK);
    ck_assert_int_eq(PREPARE("images", "stated", {"i", "l"}, {"classes=7"}), LKS_OK);
    json_t *manifest = load_manifest("least");
    json_t *classes = json_object_get(json_object_get(manifest, "schema"), "classes");
    ck_assert_int_eq(json_integer_value(classes), 2);
    json_decref(manifest);
    manifest = load_manifest("stated");
    classes = json_object_get(json_object_get(manifest, "schema"), "classes");
    ck_assert_int_eq(json_integer_value(classes), 7);
    json_decref(manifest);
}
END_TEST

START_TEST(joins_pairs)
{
    write_pair("i1", "l1", false, 20, 0);
    write_pair("i2.gz", "l2.gz", true, 30, 20);
    ck_assert_int_eq(PREPARE("images", "out", {"i1", "l1", "i2.gz", "l2.gz"}, .shard_bytes = 100),
                     LKS_OK);
    size_t bytes;
    uint8_t *images = read_array("out", "images", &bytes);
    ck_assert_uint_eq(bytes, COUNT * PIXELS);
    for (uint32_t i = 0; i < COUNT * PIXELS; ++i)
        ck_assert_uint_eq(images[i], (uint8_t)random_word(1, i));
    free(images);
}
END_TEST

/* Image i consists of the byte i, and so does its label. */
START_TEST(shuffles_before_the_cut)
{
    uint8_t pixels[200], labels[200];
    bool seen[200] = {false};
    for (int i = 0; i < 200; ++i)
        pixels[i] = labels[i] = (uint8_t)i;
    write_idx("i.gz", true, 3, (uint32_t[]){200, 1, 1}, pixels);
    write_idx("l", false, 1, (uint32_t[]){200}, labels);
    ck_assert_int_eq(
        PREPARE("images", "a", {"i.gz", "l"}, .split = 0.25, .shuffle = true, .seed = 1), LKS_OK);
    int moved = 0;
    for (int part = 0; part < 2; ++part) {
        size_t count, bytes;
        uint8_t *images = read_array(part ? "a/validation" : "a/train", "images", &count);
        int32_t *classes = read_array(part ? "a/validation" : "a/train", "labels", &bytes);
        ck_assert_uint_eq(count, part ? 50 : 150);
        for (size_t i = 0; i < count; ++i) {
            ck_assert_int_eq(images[i], classes[i]);
            ck_assert(!seen[images[i]]);
            seen[images[i]] = true;
            moved += images[i] != i + (part ? 150 : 0);
        }
        free(images);
        free(classes);
    }
    ck_assert_int_gt(moved, 150);
    ck_assert_int_eq(
        PREPARE("images", "b", {"i.gz", "l"}, .split = 0.25, .shuffle = true, .seed = 1), LKS_OK);
    ck_assert_int_eq(
        PREPARE("images", "c", {"i.gz", "l"}, .split = 0.25, .shuffle = true, .seed = 2), LKS_OK);
    char a[65], b[65], c[65];
    digest_tree("a", a);
    digest_tree("b", b);
    digest_tree("c", c);
    ck_assert_str_eq(a, b);
    ck_assert_str_ne(a, c);
}
END_TEST

START_TEST(refuses)
{
    uint8_t pixels[12] = {0}, labels[3] = {0, 5, 1};
    write_idx("i", false, 3, (uint32_t[]){3, 2, 2}, pixels);
    write_idx("l", false, 1, (uint32_t[]){3}, labels);
    write_idx("l2", false, 1, (uint32_t[]){2}, labels);
    write_idx("wide", false, 3, (uint32_t[]){3, 1, 2}, pixels);
    write_bytes("short", "\0\0\10\3\0\0\0\3\0\0\0\2\0\0\0\2abc", 19);
    write_gzip("short.gz", "\0\0\10\3\0\0\0\3\0\0\0\2\0\0\0\2abc", 19);
    write_bytes("long", "\0\0\10\1\0\0\0\3\0\1\0\1", 12);
    write_text("text", "not an image");
    size_t before = count_entries(".");
    check_refused(PREPARE("images", "out", {"i", "l"}, {"classes=5"}), LKS_ERR_CORRUPT,
                  "l: record 1 has label 5, with 5 classes labels are 0 to 4");
    check_refused(PREPARE("images", "out", {"i", "l2"}), LKS_ERR_CORRUPT,
                  "i has 3 images, l2 has 2 labels");
    check_refused(PREPARE("images", "out", {"i"}), LKS_ERR_USAGE,
                  "1 files of images and 0 of labels");
    check_refused(PREPARE("images", "out", {"i", "l", "wide", "l"}), LKS_ERR_CORRUPT,
                  "wide: its images are 1x2x1, those of i are 2x2x1");
    check_refused(PREPARE("images", "out", {"short", "l"}), LKS_ERR_CORRUPT,
                  "short: cut short: found 19 bytes, its header says 28");
    check_refused(PREPARE("images", "out", {"short.gz", "l"}), LKS_ERR_CORRUPT,
                  "short.gz: cut short: found 19 bytes uncompressed, its header says 28");
    check_refused(PREPARE("images", "out", {"i", "long"}), LKS_ERR_CORRUPT, "more than the 11");
    check_refused(PREPARE("images", "out", {"text", "l"}), LKS_ERR_CORRUPT, "not an IDX file");
    check_refused(PREPARE("images", "out", {"i", "l"}, .split = 0.2), LKS_ERR_USAGE, "0 to valid");
    ck_assert_uint_eq(count_entries("."), before);
}
END_TEST

TCase *images_tests(void)
{
    TCase *tcase = tcase_create("images");
    tcase_add_test(tcase, prepares_plain_and_gzip_alike);
    tcase_add_test(tcase, takes_statistics_of_the_training_part);
    tcase_add_test(tcase, has_channels_and_constant_ones);
    tcase_add_test(tcase, counts_classes);
    tcase_add_test(tcase, joins_pairs);
    tcase_add_test(tcase, shuffles_before_the_cut);
    tcase_add_test(tcase, refuses);
    return tcase;
}
