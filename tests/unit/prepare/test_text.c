#include "support.h"

#include "runtime/datasets/dataset.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void check_tokens(const char *directory, const char *wanted, size_t count)
{
    size_t bytes;
    char *tokens = read_array(directory, "tokens", &bytes);
    ck_assert_uint_eq(bytes, count);
    ck_assert_mem_eq(tokens, wanted, count);
    free(tokens);
}

START_TEST(joins_files)
{
    write_text("a", "hello");
    write_text("b", "w");
    write_text("c", "orld");
    ck_assert_int_eq(PREPARE("text", "plain", {"a", "b", "c"}), LKS_OK);
    check_tokens("plain", "helloworld", 10);
    ck_assert_int_eq(PREPARE("text", "nul", {"a", "b", "c"}, {"separator=nul"}), LKS_OK);
    check_tokens("nul", "hello\0w\0orld", 12);
    ck_assert_int_eq(PREPARE("text", "line", {"a", "b", "c"}, {"separator=newline"}), LKS_OK);
    check_tokens("line", "hello\nw\norld", 12);
}
END_TEST

START_TEST(splits_off_the_end)
{
    char text[1005];
    for (int i = 0; i < 1005; ++i)
        text[i] = (char)random_word(1, (uint64_t)i);
    write_bytes("a", text, 1005);
    ck_assert_int_eq(PREPARE("text", "out", {"a"}, .split = 0.1), LKS_OK);
    check_tokens("out/train", text, 905);
    check_tokens("out/validation", text + 905, 100);
    ck_assert_uint_eq(count_entries("out"), 2);
    ck_assert_uint_eq(count_entries("."), 2);
}
END_TEST

START_TEST(cuts_shards)
{
    enum { BYTES = 1000000, SHARD = 300000 };
    char *text = malloc(BYTES);
    for (int i = 0; i < BYTES; ++i)
        text[i] = (char)random_word(1, (uint64_t)i);
    write_bytes("a", text, BYTES / 2);
    write_bytes("b", text + BYTES / 2, BYTES / 2);
    ck_assert_int_eq(PREPARE("text", "out", {"a", "b"}, .shard_bytes = SHARD), LKS_OK);
    ck_assert_uint_eq(count_entries("out"), 5);
    check_tokens("out", text, BYTES);
    json_t *manifest = load_manifest("out");
    json_t *shard = json_array_get(json_object_get(manifest, "shards"), 3);
    ck_assert_int_eq(json_integer_value(json_object_get(shard, "records")), 100000);
    shard = json_array_get(json_object_get(manifest, "shards"), 0);
    json_t *dataset = json_array_get(json_object_get(shard, "datasets"), 0);
    ck_assert_uint_eq(json_array_size(json_object_get(dataset, "xxh3")), 2);
    json_decref(manifest);
    free(text);
}
END_TEST

START_TEST(is_read_by_dataset)
{
    write_text("a", "abcdefghij");
    ck_assert_int_eq(PREPARE("text", "out", {"a"}), LKS_OK);
    lks_dataset *dataset;
    ck_assert_msg(lks_dataset_open(&dataset, "out", 3) == LKS_OK, "%s", lks_status_message());
    int32_t tokens[3], targets[3];
    ck_assert_int_eq(lks_dataset_read(dataset, (uint64_t[]){1}, 1, (void *[]){tokens, targets}),
                     LKS_OK);
    ck_assert_int_eq(tokens[0], 'd');
    ck_assert_int_eq(targets[2], 'g');
    lks_dataset_close(dataset);
}
END_TEST

START_TEST(walks_directories)
{
    mkdir("in", 0777);
    mkdir("in/b", 0777);
    write_text("in/c", "3");
    write_text("in/a", "1");
    write_text("in/b/x", "2");
    write_text("in/.hidden", "no");
    ck_assert_int_eq(symlink(".", "in/loop"), 0);
    ck_assert_int_eq(PREPARE("text", "out", {"in"}), LKS_OK);
    check_tokens("out", "123", 3);
    json_t *manifest = load_manifest("out");
    json_t *inputs = json_object_get(json_object_get(manifest, "provenance"), "inputs");
    const char *name = json_string_value(json_object_get(json_array_get(inputs, 1), "name"));
    ck_assert_str_eq(name, "b/x");
    json_decref(manifest);
}
END_TEST

START_TEST(refuses)
{
    write_text("a", "hello");
    write_text("one", "h");
    write_text("empty", "");
    mkdir("hollow", 0777);
    size_t before = count_entries(".");
    check_refused(PREPARE("text", "out", {"none"}), LKS_ERR_USAGE, "none: cannot be opened");
    check_refused(PREPARE("text", "out", {"a", "empty"}), LKS_ERR_CORRUPT, "empty: is empty");
    check_refused(PREPARE("text", "out", {"hollow"}), LKS_ERR_USAGE, "holds no file");
    check_refused(PREPARE("text", "out", {"/dev/null"}), LKS_ERR_USAGE, "neither a file nor");
    check_refused(PREPARE("text", "out", {NULL}), LKS_ERR_USAGE, "no input");
    check_refused(PREPARE("text", "out", {"a"}, .shuffle = true), LKS_ERR_USAGE,
                  "leave --shuffle out");
    check_refused(PREPARE("text", "out", {"one"}), LKS_ERR_CORRUPT, "1 record,");
    check_refused(PREPARE("text", "out", {"a"}, .split = 0.1), LKS_ERR_USAGE,
                  "--split validation=0.1 of 5 records leaves 5 to train and 0 to validate");
    check_refused(PREPARE("text", "out", {"a"}, .split = 1.5), LKS_ERR_USAGE, "between 0 and 1");
    check_refused(PREPARE("texts", "out", {"a"}), LKS_ERR_USAGE, "no format texts");
    ck_assert_uint_eq(count_entries("."), before);
}
END_TEST

TCase *text_tests(void)
{
    TCase *tcase = tcase_create("text");
    tcase_add_test(tcase, joins_files);
    tcase_add_test(tcase, splits_off_the_end);
    tcase_add_test(tcase, cuts_shards);
    tcase_add_test(tcase, is_read_by_dataset);
    tcase_add_test(tcase, walks_directories);
    tcase_add_test(tcase, refuses);
    return tcase;
}
