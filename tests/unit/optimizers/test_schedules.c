#include "runtime/base/memory.h"
#include "runtime/optimizers/optimizer.h"

#include <check.h>
#include <math.h>
#include <string.h>

TCase *case_schedules(void);

static lks_schedule *open_schedule(const char *name, const char *warmup, const char *fraction)
{
    lks_schedule *schedule;
    lks_arena *arena;
    ck_assert_int_eq(lks_schedule_open(&schedule, name), LKS_OK);
    ck_assert_str_eq(lks_schedule_name(schedule), name);
    ck_assert_int_eq(lks_arena_create(&arena), LKS_OK);
    for (const lks_option *option = lks_schedule_options(schedule); option->name; ++option) {
        const char *text = strcmp(option->name, "warmup_steps") == 0 ? warmup : fraction;
        ck_assert_int_eq(lks_option_set(option, lks_schedule_option_values(schedule), option->name,
                                        text, "test", arena),
                         LKS_OK);
        ck_assert_int_eq(option->change, LKS_OPTION_SCHEDULED);
    }
    lks_arena_destroy(arena);
    return schedule;
}

static void check_factor(const lks_schedule *schedule, uint64_t step, uint64_t steps, double want)
{
    ck_assert_double_eq_tol(lks_schedule_factor(schedule, step, steps), want, 1e-15);
}

START_TEST(warm_up_rises_to_the_peak)
{
    static const char *const names[] = {"constant", "linear", "cosine"};
    for (int i = 0; i < 3; ++i) {
        lks_schedule *schedule = open_schedule(names[i], "4", "0.1");
        for (uint64_t step = 0; step < 4; ++step)
            check_factor(schedule, step, 100, (double)(step + 1) / 5);
        check_factor(schedule, 4, 100, 1);
        /* A job that ends within its warm-up. */
        check_factor(schedule, 2, 3, 3.0 / 5);
        check_factor(schedule, 3, 3, 4.0 / 5);
        lks_schedule_close(schedule);
        schedule = open_schedule(names[i], "0", "0.1");
        check_factor(schedule, 0, 100, 1);
        check_factor(schedule, 0, 1, 1);
        lks_schedule_close(schedule);
    }
}
END_TEST

START_TEST(decays_are_their_formulas)
{
    lks_schedule *constant = open_schedule("constant", "20", "0");
    lks_schedule *linear = open_schedule("linear", "20", "0.2");
    lks_schedule *cosine = open_schedule("cosine", "20", "0.2");
    for (uint64_t step = 20; step <= 120; ++step) {
        double r = (double)(step - 20) / 100;
        check_factor(constant, step, 120, 1);
        check_factor(linear, step, 120, 1 - 0.8 * r);
        check_factor(cosine, step, 120, 0.2 + 0.8 * (1 + cos(acos(-1) * r)) / 2);
    }
    check_factor(linear, 70, 120, 0.6);
    check_factor(cosine, 70, 120, 0.6);
    check_factor(linear, 120, 120, 0.2);
    check_factor(cosine, 120, 120, 0.2);
    check_factor(cosine, 100000, 120, 0.2); /* a job continued beyond its goal */
    check_factor(constant, 100000, 120, 1);
    lks_schedule_close(constant);
    lks_schedule_close(linear);
    lks_schedule_close(cosine);
}
END_TEST

START_TEST(factors_stay_between_0_and_1)
{
    static const char *const names[] = {"constant", "linear", "cosine"};
    static const char *const fractions[] = {"0", "0.3", "1"};
    for (int i = 0; i < 9; ++i) {
        lks_schedule *schedule = open_schedule(names[i / 3], "7", fractions[i % 3]);
        for (uint64_t steps = 1; steps < 40; ++steps) {
            for (uint64_t step = 0; step < 50; ++step) {
                double factor = lks_schedule_factor(schedule, step, steps);
                ck_assert_double_ge(factor, 0);
                ck_assert_double_le(factor, 1);
            }
        }
        lks_schedule_close(schedule);
    }
}
END_TEST

START_TEST(unknown_schedules_are_refused)
{
    lks_schedule *none = NULL;
    ck_assert_int_eq(lks_schedule_open(&none, "cosin"), LKS_ERR_USAGE);
    ck_assert_str_eq(lks_status_message(), "schedule.name is cosin, want one of constant, cosine, "
                                           "linear; did you mean cosine?");
    ck_assert_ptr_null(none);
    lks_schedule_close(NULL);
}
END_TEST

TCase *case_schedules(void)
{
    TCase *tcase = tcase_create("schedules");
    tcase_add_test(tcase, warm_up_rises_to_the_peak);
    tcase_add_test(tcase, decays_are_their_formulas);
    tcase_add_test(tcase, factors_stay_between_0_and_1);
    tcase_add_test(tcase, unknown_schedules_are_refused);
    return tcase;
}
