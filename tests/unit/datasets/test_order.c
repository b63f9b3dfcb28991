#include "suites.h"

#include "runtime/datasets/order.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static void assert_permutation(const lks_order *order, uint64_t epoch)
{
    bool *seen = calloc(order->samples, sizeof *seen);
    for (uint64_t i = 0; i < order->samples; ++i) {
        uint64_t sample = lks_order_sample(order, epoch * order->samples + i);
        ck_assert_msg(sample < order->samples && !seen[sample],
                      "N %lu run %lu window %lu epoch %lu: sample %lu twice or out of range",
                      order->samples, order->run_samples, order->window_runs, epoch, sample);
        seen[sample] = true;
    }
    free(seen);
}

START_TEST(one_level_is_a_permutation)
{
    for (uint64_t samples = 1; samples <= 520; ++samples) {
        lks_order order = {samples, 1 + samples, 1, 1024};
        assert_permutation(&order, 0);
        assert_permutation(&order, 1);
    }
    const uint64_t larger[] = {1023, 1024, 1025, 2039, 2048, 4093, 4096, 4099};
    for (size_t i = 0; i < sizeof larger / sizeof *larger; ++i) {
        lks_order order = {larger[i], 7, 1, 1024};
        assert_permutation(&order, 12345678901);
    }
}
END_TEST

START_TEST(two_levels_are_a_permutation)
{
    const uint64_t sizes[] = {1, 2, 3, 13, 16, 64, 97, 128, 257, 1000, 1021, 1024, 2039, 3000};
    const uint64_t runs[] = {2, 3, 7, 16, 100, 5000};
    const uint64_t windows[] = {1, 2, 5, 1024};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i)
        for (size_t j = 0; j < sizeof runs / sizeof *runs; ++j)
            for (size_t k = 0; k < sizeof windows / sizeof *windows; ++k) {
                lks_order order = {sizes[i], 5, runs[j], windows[k]};
                for (uint64_t epoch = 0; epoch < 4; ++epoch)
                    assert_permutation(&order, epoch);
            }
}
END_TEST

static int count_equal(const lks_order *a, uint64_t epoch_a, const lks_order *b, uint64_t epoch_b)
{
    int equal = 0;
    for (uint64_t i = 0; i < a->samples; ++i)
        equal += lks_order_sample(a, epoch_a * a->samples + i) ==
                 lks_order_sample(b, epoch_b * b->samples + i);
    return equal;
}

/* Two random permutations agree in about one place; in 15 or more with probability 1e-12. */
START_TEST(epochs_and_seeds_differ)
{
    const uint64_t runs[] = {1, 8};
    for (size_t i = 0; i < 2; ++i) {
        lks_order a = {1000, 1, runs[i], 4}, b = {1000, 2, runs[i], 4};
        ck_assert_int_lt(count_equal(&a, 0, &a, 1), 15);
        ck_assert_int_lt(count_equal(&a, 1, &a, 2), 15);
        ck_assert_int_lt(count_equal(&a, 0, &b, 0), 15);
        ck_assert_int_lt(count_equal(&a, 0, &b, 1), 15);
        ck_assert_int_eq(count_equal(&a, 3, &a, 3), 1000);
    }
}
END_TEST

static double chi_square(const uint64_t *counts, size_t cells, double expected)
{
    double sum = 0;
    for (size_t i = 0; i < cells; ++i)
        sum += ((double)counts[i] - expected) * ((double)counts[i] - expected) / expected;
    return sum;
}

/* Five standard deviations of chi-square above its mean: one run in 10^5 for a true random one. */
static void assert_uniform(const char *what, const uint64_t *counts, size_t cells, double expected,
                           double freedom)
{
    double found = chi_square(counts, cells, expected);
    double most = freedom + 5 * sqrt(2 * freedom);
    ck_assert_msg(found < most, "%s: chi-square %.1f, at most %.1f wanted", what, found, most);
}

static size_t rank_of_permutation(const uint64_t *items, size_t count)
{
    size_t rank = 0;
    for (size_t i = 0; i < count; ++i) {
        size_t smaller = 0;
        for (size_t j = i + 1; j < count; ++j)
            smaller += items[j] < items[i];
        rank = rank * (count - i) + smaller;
    }
    return rank;
}

START_TEST(all_permutations_of_five_come_equally_often)
{
    uint64_t by_epoch[120] = {0}, by_seed[120] = {0}, items[5];
    for (uint64_t trial = 0; trial < 24000; ++trial) {
        lks_order order = {5, 3, 1, 1024};
        for (uint64_t i = 0; i < 5; ++i)
            items[i] = lks_order_sample(&order, trial * 5 + i);
        ++by_epoch[rank_of_permutation(items, 5)];
        order.seed = trial;
        for (uint64_t i = 0; i < 5; ++i)
            items[i] = lks_order_sample(&order, i);
        ++by_seed[rank_of_permutation(items, 5)];
    }
    assert_uniform("epochs", by_epoch, 120, 200, 119);
    assert_uniform("seeds", by_seed, 120, 200, 119);
}
END_TEST

/* Where the first sample goes over many epochs, and how a large permutation spreads its input. */
START_TEST(places_look_uniform)
{
    const uint64_t runs[] = {1, 4};
    for (size_t k = 0; k < 2; ++k) {
        uint64_t counts[97] = {0}, grid[16 * 16] = {0};
        lks_order small = {97, 11, runs[k], 8}, large = {1 << 16, 11, runs[k], 8};
        for (uint64_t epoch = 0; epoch < 97 * 200; ++epoch)
            ++counts[lks_order_sample(&small, epoch * 97)];
        assert_uniform("first place", counts, 97, 200, 96);
        for (uint64_t i = 0; i < large.samples && runs[k] == 1; ++i)
            ++grid[(i >> 12) * 16 + (lks_order_sample(&large, i) >> 12)];
        if (runs[k] == 1)
            assert_uniform("spread", grid, 256, 256, 15 * 15);
    }
}
END_TEST

/* A window's positions hold exactly its runs; its first quarter holds nearly all of them, and
 * neighbours seldom come from one run. */
START_TEST(windows_mix_their_runs)
{
    enum { RUN = 16, RUNS = 64, WINDOW = RUN * RUNS, WINDOWS = 20 };
    lks_order order = {WINDOW * WINDOWS, 9, RUN, RUNS};
    uint64_t neighbours = 0;
    for (uint64_t window = 0; window < WINDOWS; ++window) {
        int taken[RUNS * WINDOWS] = {0}, distinct = 0, early = 0;
        uint64_t before = UINT64_MAX;
        for (uint64_t i = 0; i < WINDOW; ++i) {
            uint64_t run = lks_order_sample(&order, window * WINDOW + i) / RUN;
            distinct += taken[run]++ == 0;
            early += i < WINDOW / 4 && taken[run] == 1;
            neighbours += run == before;
            before = run;
        }
        ck_assert_int_eq(distinct, RUNS);
        for (int run = 0; run < RUNS * WINDOWS; ++run)
            ck_assert(taken[run] == 0 || taken[run] == RUN);
        /* expected 64 (1 - 0.75^16) = 63.4 */
        ck_assert_int_ge(early, 58);
    }
    /* expected 15/1023 of the pairs: 300 of 20460; six standard deviations are about 104 */
    ck_assert_uint_lt(neighbours, 404);
    ck_assert_uint_gt(neighbours, 196);
}
END_TEST

START_TEST(rule_follows_from_sizes)
{
    lks_order order = lks_order_create(256 * 1024, 1024, 3);
    ck_assert_uint_eq(order.run_samples, 1);
    ck_assert_uint_eq(order.samples, 256 * 1024);
    ck_assert_uint_eq(order.seed, 3);
    order = lks_order_create(256 * 1024 + 1, 1024, 3);
    ck_assert_uint_eq(order.run_samples, 64);
    ck_assert_uint_eq(order.window_runs, 1024);
    order = lks_order_create((uint64_t)1 << 60, 3, 3);
    ck_assert_uint_eq(order.run_samples, 21845);
    order = lks_order_create(100000, 150528, 3);
    ck_assert_uint_eq(order.run_samples, 1);
}
END_TEST

/* A job's samples depend on these: they must not change. */
START_TEST(order_is_fixed_for_ever)
{
    const uint64_t one[] = {3, 841, 774, 728, 112, 624, 284, 710},
                   two[] = {171789, 961297, 961342, 988615, 131864, 928265, 171830, 158509};
    lks_order a = {1000, 42, 1, 1024}, b = {1000003, 42, 64, 16};
    for (uint64_t i = 0; i < 8; ++i) {
        ck_assert_uint_eq(lks_order_sample(&a, 3000 + i), one[i]);
        ck_assert_uint_eq(lks_order_sample(&b, 5000000000 + i), two[i]);
    }
}
END_TEST

Suite *order_suite(void)
{
    Suite *suite = suite_create("order");
    TCase *group = tcase_create("order");
    tcase_set_timeout(group, 60);
    tcase_add_test(group, one_level_is_a_permutation);
    tcase_add_test(group, two_levels_are_a_permutation);
    tcase_add_test(group, epochs_and_seeds_differ);
    tcase_add_test(group, all_permutations_of_five_come_equally_often);
    tcase_add_test(group, places_look_uniform);
    tcase_add_test(group, windows_mix_their_runs);
    tcase_add_test(group, rule_follows_from_sizes);
    tcase_add_test(group, order_is_fixed_for_ever);
    suite_add_tcase(suite, group);
    return suite;
}
