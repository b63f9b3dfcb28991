#include "support.h"

#include "runtime/base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static void check_alike_at_any_size(prep what)
{
    char first[65], hex[65], output[32];
    for (int ranks = 1; ranks <= 4; ++ranks) {
        snprintf(output, sizeof output, "at-%d", ranks);
        what.ranks = ranks;
        what.output = output;
        ck_assert_msg(run_prepare(&what) == LKS_OK, "%s", lks_status_message());
        digest_tree(output, hex);
        if (ranks == 1)
            strcpy(first, hex);
        ck_assert_str_eq(hex, first);
    }
}

START_TEST(text_is_alike_at_any_size)
{
    enum { BYTES = 400000 };
    char *text = malloc(BYTES);
    for (int i = 0; i < BYTES; ++i)
        text[i] = (char)random_word(1, (uint64_t)i);
    write_bytes("a", text, BYTES);
    write_bytes("b", text, 777);
    free(text);
    check_alike_at_any_size(
        (prep){.format = "text", .inputs = {"a", "b"}, .split = 0.1, .shard_bytes = 60000});
}
END_TEST

START_TEST(images_are_alike_at_any_size)
{
    enum { COUNT = 2000 };
    uint8_t *pixels = malloc(COUNT * 64 * 3), *labels = malloc(COUNT);
    for (int i = 0; i < COUNT * 64 * 3; ++i)
        pixels[i] = (uint8_t)random_word(1, (uint64_t)i);
    for (int i = 0; i < COUNT; ++i)
        labels[i] = (uint8_t)(random_word(2, (uint64_t)i) % 10);
    write_idx("i.gz", true, 4, (uint32_t[]){COUNT, 8, 8, 3}, pixels);
    write_idx("l", false, 1, (uint32_t[]){COUNT}, labels);
    free(pixels);
    free(labels);
    prep what = {.format = "images", .inputs = {"i.gz", "l"}, .split = 0.2, .shard_bytes = 60000};
    check_alike_at_any_size(what);
    ck_assert_int_eq(lks_files_remove_tree("at-1"), LKS_OK);
    ck_assert_int_eq(lks_files_remove_tree("at-2"), LKS_OK);
    ck_assert_int_eq(lks_files_remove_tree("at-3"), LKS_OK);
    ck_assert_int_eq(lks_files_remove_tree("at-4"), LKS_OK);
    what.shuffle = true;
    check_alike_at_any_size(what);
}
END_TEST

/* Enough rows for three chunks of statistics, whose sums are not exact. */
START_TEST(tables_are_alike_at_any_size)
{
    FILE *file = fopen("t.csv", "w"), *more = fopen("u.csv", "w");
    fputs("a,b,c,y\n", file);
    fputs("a,b,c,y\n", more);
    for (uint64_t i = 0; i < 142000; ++i)
        fprintf(i < 120000 ? file : more, "%g,%g,k%u,%g\n", random_word(1, i) / 3.0,
                random_word(2, i) / 1e20, random_word(3, i) % 3, random_word(4, i) / 7.0);
    fclose(file);
    fclose(more);
    check_alike_at_any_size((prep){.format = "table",
                                   .inputs = {"t.csv", "u.csv"},
                                   .settings = {"target=y"},
                                   .split = 0.05,
                                   .shard_bytes = 700000});
    write_text("v.csv", "a,b,c,y\n1,,x,3.5\n2,7,y,4\n?,8,z,5\n1e3,9,y,\n4,-1,x,2\n");
    for (int ranks = 1; ranks <= 4; ++ranks) {
        char path[16];
        snprintf(path, sizeof path, "at-%d", ranks);
        ck_assert_int_eq(lks_files_remove_tree(path), LKS_OK);
    }
    check_alike_at_any_size((prep){.format = "table",
                                   .inputs = {"v.csv"},
                                   .settings = {"target=y"},
                                   .split = 0.2,
                                   .shuffle = true,
                                   .seed = 3,
                                   .shard_bytes = 40});
}
END_TEST

START_TEST(every_rank_learns_of_a_failure)
{
    write_text("t.csv", "a,y\n1,u\n2,v\n3,u\n4,w\n");
    write_text("ragged.csv", "a,y\n1,u\n2\n");
    for (int ranks = 2; ranks <= 4; ++ranks) {
        check_refused(PREPARE("table", "out", {"t.csv"}, {"target=y"}, .split = 0.25,
                              .ranks = ranks, .shard_bytes = 1),
                      LKS_ERR_CORRUPT, "a class that the training part lacks");
        check_refused(
            PREPARE("table", "out", {"t.csv", "ragged.csv"}, {"target=y"}, .ranks = ranks),
            LKS_ERR_CORRUPT, "ragged.csv:3: 1 field");
        check_refused(PREPARE("table", "out", {"none"}, {"target=y"}, .ranks = ranks),
                      LKS_ERR_USAGE, "none");
        check_refused(PREPARE("text", "/proc/out", {"t.csv"}, .ranks = ranks), LKS_ERR_IO,
                      "/proc/out: cannot be made");
    }
    ck_assert_uint_eq(count_entries("."), 2);
}
END_TEST

START_TEST(does_not_overwrite)
{
    write_text("a", "hello");
    write_text("b", "other");
    mkdir("taken", 0777);
    write_text("taken/notes", "mine");
    ck_assert_int_eq(PREPARE("text", "out", {"a"}), LKS_OK);
    check_refused(PREPARE("text", "out", {"b"}), LKS_ERR_USAGE, "--force to replace it");
    check_refused(PREPARE("text", "taken", {"a"}), LKS_ERR_USAGE, "exists already");
    check_refused(PREPARE("text", "taken", {"a"}, .force = true), LKS_ERR_USAGE,
                  "holds something other than a dataset");
    check_refused(PREPARE("text", "a", {"b"}, .force = true), LKS_ERR_USAGE, "something other");
    size_t bytes;
    char *tokens = read_array("out", "tokens", &bytes);
    ck_assert_mem_eq(tokens, "hello", 5);
    free(tokens);
    ck_assert(lks_files_exists("taken/notes"));
    ck_assert_uint_eq(count_entries("."), 4);
}
END_TEST

START_TEST(replaces_datasets_when_forced)
{
    write_text("a", "hello world, hello world");
    write_text("empty", "");
    ck_assert_int_eq(PREPARE("text", "out", {"a"}), LKS_OK);
    ck_assert_int_eq(PREPARE("text", "out/", {"a"}, .split = 0.2, .force = true), LKS_OK);
    ck_assert_uint_eq(count_entries("out"), 2);
    char before[65], after[65];
    digest_tree("out", before);
    check_refused(PREPARE("text", "out", {"empty"}, .force = true), LKS_ERR_CORRUPT, "is empty");
    digest_tree("out", after);
    ck_assert_str_eq(before, after);
    ck_assert_int_eq(PREPARE("text", "out", {"a"}, .force = true), LKS_OK);
    ck_assert(lks_files_exists("out/manifest.json"));
    ck_assert_uint_eq(count_entries("."), 3);
}
END_TEST

START_TEST(makes_and_removes_parents)
{
    write_text("a", "hello");
    write_text("t.csv", "a,y\n1,u\n2\n");
    check_refused(PREPARE("table", "x/y/z", {"t.csv"}, {"target=y"}), LKS_ERR_CORRUPT, "1 field");
    ck_assert(!lks_files_exists("x"));
    mkdir("x", 0777);
    check_refused(PREPARE("table", "x/y/z", {"t.csv"}, {"target=y"}), LKS_ERR_CORRUPT, "1 field");
    ck_assert_uint_eq(count_entries("x"), 0);
    ck_assert_int_eq(PREPARE("text", "x/y/z", {"a"}), LKS_OK);
    ck_assert(lks_files_exists("x/y/z/manifest.json"));
    check_refused(PREPARE("text", "a/out", {"a"}), LKS_ERR_IO, "a");
    ck_assert_uint_eq(count_entries("."), 3);
}
END_TEST

/* A disk that is full part of the way through, by the limit on a file's size. */
START_TEST(cleans_up_when_the_disk_is_full)
{
    char *text = calloc(1, 600000);
    write_bytes("a", text, 600000);
    free(text);
    signal(SIGXFSZ, SIG_IGN);
    struct rlimit old, limit;
    getrlimit(RLIMIT_FSIZE, &old);
    limit = (struct rlimit){.rlim_cur = 400000, .rlim_max = old.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    lks_status status = PREPARE("text", "out", {"a"});
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    check_refused(status, LKS_ERR_IO, "shard-00000.h5");
    ck_assert_uint_eq(count_entries("."), 1);
    ck_assert_int_eq(PREPARE("text", "out", {"a"}), LKS_OK);
}
END_TEST

/* No path, time or host; the same wherever it is made. */
START_TEST(provenance_names_no_place)
{
    write_text("a", "hello");
    char absolute[256], here[256], first[65], second[65];
    snprintf(absolute, sizeof absolute, "%s/a", getcwd(here, 200));
    ck_assert_int_eq(PREPARE("text", "one", {"a"}), LKS_OK);
    ck_assert_int_eq(PREPARE("text", "two", {absolute}), LKS_OK);
    digest_tree("one", first);
    digest_tree("two", second);
    ck_assert_str_eq(first, second);
    json_t *manifest = load_manifest("one");
    json_t *provenance = json_object_get(manifest, "provenance");
    json_t *input = json_array_get(json_object_get(provenance, "inputs"), 0);
    ck_assert_str_eq(json_string_value(json_object_get(input, "sha256")),
                     "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
    ck_assert_int_eq(json_integer_value(json_object_get(input, "bytes")), 5);
    json_t *separator = json_object_get(json_object_get(provenance, "options"), "separator");
    ck_assert_str_eq(json_string_value(separator), "none");
    json_decref(manifest);
}
END_TEST

TCase *output_tests(void)
{
    TCase *tcase = tcase_create("output");
    tcase_add_test(tcase, text_is_alike_at_any_size);
    tcase_add_test(tcase, images_are_alike_at_any_size);
    tcase_add_test(tcase, tables_are_alike_at_any_size);
    tcase_add_test(tcase, every_rank_learns_of_a_failure);
    tcase_add_test(tcase, does_not_overwrite);
    tcase_add_test(tcase, replaces_datasets_when_forced);
    tcase_add_test(tcase, makes_and_removes_parents);
    tcase_add_test(tcase, cleans_up_when_the_disk_is_full);
    tcase_add_test(tcase, provenance_names_no_place);
    return tcase;
}
