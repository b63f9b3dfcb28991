#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "suites.h"

#include <stdio.h>
#include <stdlib.h>

static json_t *parse(const char *text)
{
    json_t *json = NULL;
    ASSERT_OK(lks_json_parse(text, strlen(text), "m.json", &json));
    return json;
}

START_TEST(members_are_found_by_path)
{
    json_t *json = parse("{\"a\": {\"b\": {\"c\": 5}, \"s\": \"x\", \"n\": 1.5}, \"l\": [1]}");
    int64_t integer;
    double number;
    const char *string;
    json_t *member;
    ASSERT_OK(lks_json_get_integer(json, "m.json", "a.b.c", 5, 5, &integer));
    ck_assert_int_eq(integer, 5);
    ASSERT_OK(lks_json_get_number(json, "m.json", "a.n", &number));
    ck_assert(number == 1.5);
    ASSERT_OK(lks_json_get_number(json, "m.json", "a.b.c", &number));
    ck_assert(number == 5);
    ASSERT_OK(lks_json_get_string(json, "m.json", "a.s", &string));
    ck_assert_str_eq(string, "x");
    ASSERT_OK(lks_json_get_array(json, "m.json", "l", &member));
    ck_assert_uint_eq(json_array_size(member), 1);
    ASSERT_OK(lks_json_get_object(json, "m.json", "a.b", &member));
    ck_assert_uint_eq(json_object_size(member), 1);
    json_decref(json);
}
END_TEST

START_TEST(wrong_members_are_named)
{
    json_t *json = parse("{\"a\": {\"b\": 7, \"z\": null}, \"s\": \"x\"}"), *member;
    int64_t integer;
    const char *string;
    double number;
    ASSERT_FAILS(lks_json_get_integer(json, "m.json", "a.c", 0, 9, &integer), LKS_ERR_CORRUPT,
                 "m.json: a.c is missing, want an integer");
    ASSERT_FAILS(lks_json_get_integer(json, "m.json", "s.c", 0, 9, &integer), LKS_ERR_CORRUPT,
                 "s.c is missing");
    ASSERT_FAILS(lks_json_get_integer(json, "m.json", "a.b", 8, 9, &integer), LKS_ERR_CORRUPT,
                 "a.b is 7, want 8 to 9");
    ASSERT_FAILS(lks_json_get_integer(json, "m.json", "a.b", 0, 6, &integer), LKS_ERR_CORRUPT,
                 "a.b is 7, want 0 to 6");
    ASSERT_FAILS(lks_json_get_string(json, "m.json", "a.b", &string), LKS_ERR_CORRUPT,
                 "a.b is an integer, want a string");
    ASSERT_FAILS(lks_json_get_number(json, "m.json", "a.z", &number), LKS_ERR_CORRUPT,
                 "a.z is null, want a number");
    ASSERT_FAILS(lks_json_get_array(json, "m.json", "a", &member), LKS_ERR_CORRUPT,
                 "a is an object, want an array");
    ASSERT_FAILS(lks_json_get_object(json, "m.json", "s", &member), LKS_ERR_CORRUPT,
                 "s is a string, want an object");
    json_decref(json);
}
END_TEST

START_TEST(syntax_errors_name_the_line)
{
    static const struct {
        const char *text, *part;
    } wrong[] = {{"{\n\"a\": 1,\n}", "m.json:3: not valid JSON"},
                 {"", "m.json:1: not valid JSON"},
                 {"{\"a\": 1, \"a\": 2}", "duplicate"},
                 {"{} {}", "not valid JSON"},
                 {"[1e999]", "not valid JSON"},
                 {"\"\xff\"", "not valid JSON"},
                 {"[99999999999999999999]", "not valid JSON"}};
    json_t *json = NULL;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i)
        ASSERT_FAILS(lks_json_parse(wrong[i].text, strlen(wrong[i].text), "m.json", &json),
                     LKS_ERR_CORRUPT, wrong[i].part);
    ck_assert_ptr_null(json);
    ASSERT_FAILS(lks_json_load("/no/such", &json), LKS_ERR_USAGE, "/no/such");
}
END_TEST

START_TEST(a_saved_file_comes_back_the_same)
{
    char folder[] = "/tmp/lks-base-XXXXXX", path[64];
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a.json", folder);
    json_t *json = json_pack("{s:f, s:f, s:I, s:s}", "z", 0.1, "y", 1.0 / 3, "x",
                             (json_int_t)INT64_MIN, "a", "\xc3\xa4\n"),
           *back;
    ASSERT_OK(lks_json_save(path, json));
    ASSERT_OK(lks_json_load(path, &back));
    ck_assert(json_equal(json, back));
    const char *key = json_object_iter_key(json_object_iter(back));
    ck_assert_str_eq(key, "z"); /* insertion order */
    char *text;
    size_t bytes;
    ASSERT_OK(lks_files_read(path, 1000, &text, &bytes));
    ck_assert_int_eq(text[bytes - 1], '\n');
    free(text);
    json_decref(json);
    json_decref(back);
    ASSERT_OK(lks_files_remove_tree(folder));
}
END_TEST

START_TEST(any_bytes_become_a_string)
{
    const struct {
        const char *text, *want;
    } texts[] = {
        {"", ""},
        {"plain \xc3\xa4 \xf0\x9f\x9a\x80", "plain \xc3\xa4 \xf0\x9f\x9a\x80"},
        {"a\xff"
         "b",
         "a\\xffb"},
        {"\xc3", "\\xc3"},
        {"\xe2\x82 \xc3\xa4", "\\xe2\\x82 \xc3\xa4"},
        {"\xed\xa0\x80", "\\xed\\xa0\\x80"}, /* a surrogate */
        {"\xc0\xaf/", "\\xc0\\xaf/"},        /* longer than needed */
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; ++i) {
        json_t *json = lks_json_text(texts[i].text);
        ck_assert_str_eq(json_string_value(json), texts[i].want);
        json_decref(json);
    }
    ck_assert(json_is_null(lks_json_text(NULL)));
}
END_TEST

TCase *case_json(void)
{
    TCase *tcase = tcase_create("json");
    tcase_add_test(tcase, members_are_found_by_path);
    tcase_add_test(tcase, wrong_members_are_named);
    tcase_add_test(tcase, syntax_errors_name_the_line);
    tcase_add_test(tcase, a_saved_file_comes_back_the_same);
    tcase_add_test(tcase, any_bytes_become_a_string);
    return tcase;
}
