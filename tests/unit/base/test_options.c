#include "runtime/base/memory.h"
#include "runtime/base/options.h"
#include "runtime/base/text.h"
#include "suites.h"

typedef struct everything {
    bool flag;
    int64_t count;
    double rate;
    const char *path;
    int choice;
    lks_option_integers list;
} everything;

static const lks_option table[] = {
    {"flag", LKS_OPTION_BOOL, offsetof(everything, flag), "false", 0, 0, NULL, LKS_OPTION_FREE,
     "f"},
    {"count", LKS_OPTION_INTEGER, offsetof(everything, count), "1", 1, 100, NULL, LKS_OPTION_FREE,
     "c"},
    {"rate", LKS_OPTION_NUMBER, offsetof(everything, rate), "0", 0, 0, NULL, LKS_OPTION_FREE, "r"},
    {"path", LKS_OPTION_TEXT, offsetof(everything, path), "", 0, 0, NULL, LKS_OPTION_FREE, "p"},
    {"choice", LKS_OPTION_CHOICE, offsetof(everything, choice), "f32", 0, 0, "f32|bf16|f",
     LKS_OPTION_FREE, "x"},
    {"list", LKS_OPTION_LIST, offsetof(everything, list), "", 1, 1e18, NULL, LKS_OPTION_FREE, "l"},
    LKS_OPTIONS_END,
};

static everything value;
static lks_arena *arena;

static void setup(void)
{
    ASSERT_OK(lks_arena_create(&arena));
}
static void teardown(void)
{
    lks_arena_destroy(arena);
}

static lks_status set(int option, const char *text)
{
    return lks_option_set(&table[option], &value, "s.key", text, "gpt.yaml:4", arena);
}

START_TEST(every_type_is_set)
{
    ASSERT_OK(set(0, "yes"));
    ck_assert(value.flag);
    ASSERT_OK(set(1, "1e2"));
    ck_assert_int_eq(value.count, 100);
    ASSERT_OK(set(2, "-1e-3"));
    ck_assert(value.rate == -1e-3);
    ASSERT_OK(set(2, "65_536"));
    ck_assert(value.rate == 65536);
    char original[] = "a b,c";
    ASSERT_OK(set(3, original));
    original[0] = 'x';
    ck_assert_str_eq(value.path, "a b,c");
    ASSERT_OK(set(4, "bf16"));
    ck_assert_int_eq(value.choice, 1);
    ASSERT_OK(set(4, "f"));
    ck_assert_int_eq(value.choice, 2);
}
END_TEST

START_TEST(lists_are_written_in_two_ways)
{
    static const char *const same[] = {"64,32,7", "[64, 32, 7]", " 64 ,\t32,7 ", "[64,32,7]"};
    for (int i = 0; i < 4; ++i) {
        ASSERT_OK(set(5, same[i]));
        ck_assert_uint_eq(value.list.count, 3);
        ck_assert_int_eq(value.list.values[0], 64);
        ck_assert_int_eq(value.list.values[1], 32);
        ck_assert_int_eq(value.list.values[2], 7);
    }
    ASSERT_OK(set(5, ""));
    ck_assert_uint_eq(value.list.count, 0);
    ASSERT_OK(set(5, "[ ]"));
    ck_assert_uint_eq(value.list.count, 0);
    static const char *const wrong[] = {"1,,2", "1,", ",", "[1", "1]", "1 2", "0", "1,x"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; ++i)
        ASSERT_FAILS(set(5, wrong[i]), LKS_ERR_USAGE,
                     "want a list like [64, 32], each an integer from 1 to 1e+18");
}
END_TEST

START_TEST(messages_name_what_is_allowed)
{
    ASSERT_FAILS(set(0, "maybe"), LKS_ERR_USAGE, "s.key is maybe (gpt.yaml:4), want true or false");
    ASSERT_FAILS(set(1, "-3"), LKS_ERR_USAGE,
                 "s.key is -3 (gpt.yaml:4), want an integer from 1 to 100");
    ASSERT_FAILS(set(1, "101"), LKS_ERR_USAGE, "want an integer from 1 to 100");
    ASSERT_FAILS(set(1, "1.5"), LKS_ERR_USAGE, "want an integer from 1 to 100");
    ASSERT_FAILS(set(1, ""), LKS_ERR_USAGE, "s.key is \"\" (gpt.yaml:4)");
    ASSERT_FAILS(set(2, "nan"), LKS_ERR_USAGE, "want a number");
    ASSERT_FAILS(set(4, "f3"), LKS_ERR_USAGE, "want one of f32, bf16, f");
    ASSERT_FAILS(set(4, "f32|bf16"), LKS_ERR_USAGE, "want one of");
    ASSERT_FAILS(set(4, ""), LKS_ERR_USAGE, "want one of");
    lks_option open_ended = table[1];
    open_ended.maximum = 1e300;
    ASSERT_FAILS(lks_option_set(&open_ended, &value, "k", "0", "o", arena), LKS_ERR_USAGE,
                 "want an integer of at least 1");
}
END_TEST

START_TEST(printed_values_read_back)
{
    static const struct {
        int option;
        const char *text, *printed;
    } cases[] = {{0, "on", "true"},
                 {1, "1e1", "10"},
                 {2, "0.001", "0.001"},
                 {2, "1e-3", "0.001"},
                 {2, "0.1", "0.1"},
                 {2, "1e300", "1e+300"},
                 {3, "", ""},
                 {3, "a", "a"},
                 {4, "f", "f"},
                 {4, "f32", "f32"},
                 {5, "[1, 2]", "1,2"},
                 {5, "", ""},
                 {2, "0.30000000000000004", "0.30000000000000004"},
                 {2, "-0", "-0"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        lks_text text = {0};
        ASSERT_OK(set(cases[i].option, cases[i].text));
        lks_option_print(&table[cases[i].option], &value, &text);
        ck_assert_str_eq(text.data, cases[i].printed);
        ASSERT_OK(set(cases[i].option, text.data));
        lks_text_release(&text);
    }
}
END_TEST

TCase *case_options(void)
{
    TCase *tcase = tcase_create("options");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, every_type_is_set);
    tcase_add_test(tcase, lists_are_written_in_two_ways);
    tcase_add_test(tcase, messages_name_what_is_allowed);
    tcase_add_test(tcase, printed_values_read_back);
    return tcase;
}
