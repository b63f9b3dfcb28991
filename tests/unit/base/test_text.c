#include "runtime/base/text.h"
#include "suites.h"

START_TEST(integers_are_read_strictly)
{
    static const struct {
        const char *text;
        int64_t value;
    } right[] = {{"0", 0},
                 {"-0", 0},
                 {"+7", 7},
                 {"1e3", 1000},
                 {"2E+2", 200},
                 {"-5e1", -50},
                 {"0e999", 0},
                 {"65_536", 65536},
                 {"1_2_3", 123},
                 {"007", 7},
                 {"9223372036854775807", INT64_MAX},
                 {"-9223372036854775808", INT64_MIN}};
    for (size_t i = 0; i < sizeof right / sizeof *right; ++i) {
        int64_t value = -99;
        ck_assert_msg(lks_text_parse_integer(right[i].text, &value), "%s", right[i].text);
        ck_assert_int_eq(value, right[i].value);
    }
    static const char *const wrong[] = {"",
                                        " 1",
                                        "1 ",
                                        "-",
                                        "+",
                                        "1.0",
                                        "1e",
                                        "e3",
                                        "1e-3",
                                        "_1",
                                        "1_",
                                        "1__0",
                                        "0x10",
                                        "1e19",
                                        "12a",
                                        "1e1_",
                                        "--1",
                                        "1\n",
                                        "9223372036854775808",
                                        "-9223372036854775809",
                                        "99999999999999999999999999",
                                        "1e99999999999999999999"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
        int64_t value = -99;
        ck_assert_msg(!lks_text_parse_integer(wrong[i], &value), "%s", wrong[i]);
        ck_assert_int_eq(value, -99);
    }
}
END_TEST

START_TEST(numbers_are_read_strictly)
{
    static const struct {
        const char *text;
        double value;
    } right[] = {{"0", 0},       {"-1.5", -1.5},
                 {"1e-3", 1e-3}, {".5", 0.5},
                 {"5.", 5},      {"+2", 2},
                 {"1E+2", 100},  {"1e-400", 0},
                 {"0.1", 0.1},   {"1.7976931348623157e308", 1.7976931348623157e308}};
    for (size_t i = 0; i < sizeof right / sizeof *right; ++i) {
        double value = -99;
        ck_assert_msg(lks_text_parse_number(right[i].text, &value), "%s", right[i].text);
        ck_assert(value == right[i].value);
    }
    static const char *const wrong[] = {"",   ".",   "nan", "inf", "-inf", "1e400", "0x1p3", " 1",
                                        "1 ", "1,5", "1e",  "1e+", "e1",   "--1",   "1.2.3", "-"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i) {
        double value = -99;
        ck_assert_msg(!lks_text_parse_number(wrong[i], &value), "%s", wrong[i]);
        ck_assert(value == -99);
    }
}
END_TEST

START_TEST(booleans_are_words)
{
    bool value = false;
    ck_assert(lks_text_parse_bool("true", &value) && value);
    ck_assert(lks_text_parse_bool("off", &value) && !value);
    ck_assert(lks_text_parse_bool("Yes", &value) && value);
    ck_assert(lks_text_parse_bool("no", &value) && !value);
    ck_assert(lks_text_parse_bool("on", &value) && value);
    ck_assert(lks_text_parse_bool("false", &value) && !value);
    ck_assert(!lks_text_parse_bool("1", &value));
    ck_assert(!lks_text_parse_bool("", &value));
    ck_assert(!lks_text_parse_bool("truee", &value));
}
END_TEST

START_TEST(the_nearest_word_is_near)
{
    static const char *const words[] = {"train.steps", "model.width", "model.depth", "a"};
    ck_assert_str_eq(lks_text_nearest("model.widht", words, 4), "model.width");
    ck_assert_str_eq(lks_text_nearest("train.step", words, 4), "train.steps");
    ck_assert_str_eq(lks_text_nearest("modle.depth", words, 4), "model.depth");
    ck_assert_ptr_null(lks_text_nearest("optimizer.lr", words, 4));
    ck_assert_ptr_null(lks_text_nearest("b", words, 4));
    ck_assert_ptr_null(lks_text_nearest("", words, 4));
    ck_assert_ptr_null(lks_text_nearest("train.steps", NULL, 0));
}
END_TEST

START_TEST(a_text_grows)
{
    lks_text text = {0};
    for (int i = 0; i < 1000; ++i)
        lks_text_append(&text, "%d,", i);
    ck_assert(!text.failed);
    ck_assert_uint_eq(text.length, 10 * 2 + 90 * 3 + 900 * 4);
    ck_assert_uint_eq(strlen(text.data), text.length);
    lks_text_clear(&text);
    ck_assert_str_eq(text.data, "");
    lks_text_append_bytes(&text, "a\0b", 3);
    ck_assert_uint_eq(text.length, 3);
    ck_assert_int_eq(text.data[3], 0);
    lks_text_release(&text);
    ck_assert_ptr_null(text.data);
}
END_TEST

START_TEST(sizes_are_for_people)
{
    char out[32];
    ck_assert_str_eq(lks_text_bytes(out, sizeof out, 0), "0 B");
    ck_assert_str_eq(lks_text_bytes(out, sizeof out, 1023), "1023 B");
    ck_assert_str_eq(lks_text_bytes(out, sizeof out, 12 * 1024), "12 KiB");
    ck_assert_str_eq(lks_text_bytes(out, sizeof out, 3ull << 29), "1.5 GiB");
    ck_assert_str_eq(lks_text_bytes(out, sizeof out, (1 << 20) - 1), "1 MiB");
    ck_assert_str_eq(lks_text_bytes(out, sizeof out, UINT64_MAX), "16 EiB");
}
END_TEST

START_TEST(counts_have_their_noun)
{
    char text[32];
    ck_assert_str_eq(lks_text_count(text, sizeof text, 0, "rank"), "0 ranks");
    ck_assert_str_eq(lks_text_count(text, sizeof text, 1, "rank"), "1 rank");
    ck_assert_str_eq(lks_text_count(text, sizeof text, 12, "node"), "12 nodes");
}
END_TEST

TCase *case_text(void)
{
    TCase *tcase = tcase_create("text");
    tcase_add_test(tcase, counts_have_their_noun);
    tcase_add_test(tcase, integers_are_read_strictly);
    tcase_add_test(tcase, numbers_are_read_strictly);
    tcase_add_test(tcase, booleans_are_words);
    tcase_add_test(tcase, the_nearest_word_is_near);
    tcase_add_test(tcase, a_text_grows);
    tcase_add_test(tcase, sizes_are_for_people);
    return tcase;
}
