#include "runtime/base/memory.h"
#include "runtime/base/rng.h"
#include "runtime/optimizers/optimizer.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

TCase *case_schedules(void);

#define ASSERT_OK(expression)                                                                      \
    do {                                                                                           \
        lks_status got_ = (expression);                                                            \
        ck_assert_msg(got_ == LKS_OK, "%s: %s", #expression, lks_status_message());                \
    } while (0)

enum { ELEMENTS = 1003, STEPS = 20 };

static lks_device *device;
static lks_arena *arena;
static lks_optimizer *optimizer;

static void setup(void)
{
    ASSERT_OK(lks_device_open(&device, "cpu", 0));
    ASSERT_OK(lks_arena_create(&arena));
}

static void teardown(void)
{
    lks_optimizer_close(optimizer);
    lks_arena_destroy(arena);
    lks_device_close(device);
}

/* Defaults, then `settings`: pairs of name and value that end in NULL. */
static void open_optimizer(const char *name, const char *const *settings)
{
    ASSERT_OK(lks_optimizer_open(&optimizer, name));
    void *values = lks_optimizer_option_values(optimizer);
    const lks_option *table = lks_optimizer_options(optimizer);
    for (const lks_option *option = table; option->name; ++option) {
        const char *text = option->fallback;
        for (int i = 0; settings && settings[i]; i += 2)
            if (strcmp(settings[i], option->name) == 0)
                text = settings[i + 1];
        ASSERT_OK(lks_option_set(option, values, option->name, text, "test", arena));
        ck_assert_int_eq(option->change, LKS_OPTION_SCHEDULED);
    }
}

/* What the formula in kernels/device.h says, in f64, for one element. */
typedef struct reference {
    double lr, weight_decay, momentum, beta1, beta2, epsilon;
    bool adam, decoupled, nesterov;
} reference;

static void reference_step(const reference *r, int step, double gradient, double *p, double *s0,
                           double *s1)
{
    if (r->adam) {
        if (r->decoupled)
            *p -= r->lr * r->weight_decay * *p;
        else
            gradient += r->weight_decay * *p;
        *s0 = r->beta1 * *s0 + (1 - r->beta1) * gradient;
        *s1 = r->beta2 * *s1 + (1 - r->beta2) * gradient * gradient;
        double m = *s0 / (1 - pow(r->beta1, step + 1)), v = *s1 / (1 - pow(r->beta2, step + 1));
        *p -= r->lr * m / (sqrt(v) + r->epsilon);
        return;
    }
    gradient += r->weight_decay * *p;
    *s0 = step == 0 ? gradient : r->momentum * *s0 + gradient;
    double move = r->nesterov ? gradient + r->momentum * *s0 : *s0;
    *p -= r->lr * (r->momentum == 0 ? gradient : move);
}

static const lks_layout_tensor matrix = {.name = "w", .role = LKS_ROLE_PARAMETER, .decay = true};
static const lks_layout_tensor bias = {.name = "b", .role = LKS_ROLE_PARAMETER, .decay = false};
static const lks_layout_tensor buffer = {.name = "mean", .role = LKS_ROLE_BUFFER};

static float parameter[ELEMENTS], state0[ELEMENTS], state1[ELEMENTS], gradient[ELEMENTS];
static double want[ELEMENTS], want0[ELEMENTS], want1[ELEMENTS];

/* Elements [first, first + count) of the arrays, with all of a gradient's scale in its totals. */
static lks_status update_range(const lks_optimizer_step *at, double scale,
                               const lks_layout_tensor *tensor, uint64_t first, uint64_t count)
{
    const lks_totals totals = {.bad_lane = -1, .bad_block = -1, .gradient_scale = (float)scale};
    const lks_layout_block block = {.offset = first, .elements = (uint32_t)count};
    const lks_update_blocks what = {.blocks = &block,
                                    .host_blocks = &block,
                                    .count = 1,
                                    .gradient = gradient,
                                    .parameter = parameter,
                                    .states = {state0, state1}};
    lks_optimizer_step step = *at;
    step.totals = &totals;
    return lks_optimizer_update(optimizer, device, &step, lks_optimizer_part_of(tensor), &what);
}

static void run_both(const reference *r, const lks_layout_tensor *tensor)
{
    static const double gradient_scale = 1.0 / 37;
    lks_rng_normal(1, 0, ELEMENTS, parameter);
    for (int i = 0; i < ELEMENTS; ++i) {
        want[i] = parameter[i];
        want0[i] = want1[i] = 0;
        state0[i] = state1[i] = 0;
    }
    for (int step = 0; step < STEPS; ++step) {
        lks_rng_normal(2 + (uint64_t)step, 0, ELEMENTS, gradient);
        lks_optimizer_step at = {.step = (uint64_t)step, .lr = r->lr};
        ASSERT_OK(update_range(&at, gradient_scale, tensor, 0, ELEMENTS));
        for (int i = 0; i < ELEMENTS; ++i)
            reference_step(r, step, gradient_scale * gradient[i], &want[i], &want0[i], &want1[i]);
    }
}

/* Each f32 step rounds p a few times: 20 steps stay within 20 * 2 * 2^-24 of the largest
 * |p|, which is below 8. */
static void check_formula(const reference *r, const lks_layout_tensor *tensor)
{
    run_both(r, tensor);
    double moved = 0;
    for (int i = 0; i < ELEMENTS; ++i) {
        ck_assert_double_le(fabs(want[i]), 8);
        ck_assert_double_eq_tol(parameter[i], want[i], STEPS * 2 * 8 * 0x1p-24);
        if (lks_optimizer_state_count(optimizer) > 0)
            ck_assert_double_eq_tol(state0[i], want0[i], 1e-5);
        if (lks_optimizer_state_count(optimizer) > 1)
            ck_assert_double_eq_tol(state1[i], want1[i], 1e-6);
    }
    float start[ELEMENTS];
    lks_rng_normal(1, 0, ELEMENTS, start);
    for (int i = 0; i < ELEMENTS; ++i)
        moved += fabs(parameter[i] - start[i]);
    ck_assert_double_gt(moved / ELEMENTS, 1e-3); /* the formula did something */
}

START_TEST(adamw_is_its_formula)
{
    open_optimizer("adamw", NULL);
    ck_assert_str_eq(lks_optimizer_name(optimizer), "adamw");
    ck_assert(lks_optimizer_learning_rate(optimizer) == 1e-3);
    ck_assert(lks_optimizer_clip_norm(optimizer) == 1);
    ck_assert_int_eq(lks_optimizer_state_count(optimizer), 2);
    ck_assert_str_eq(lks_optimizer_state_name(optimizer, 0), "m");
    ck_assert_str_eq(lks_optimizer_state_name(optimizer, 1), "v");
    ck_assert_str_eq(lks_optimizer_state_group(optimizer, 1), "optimizer/v");
    reference r = {.lr = 1e-2,
                   .weight_decay = 0.1,
                   .beta1 = 0.9,
                   .beta2 = 0.95,
                   .epsilon = 1e-8,
                   .adam = true,
                   .decoupled = true};
    check_formula(&r, &matrix);
    r.weight_decay = 0;
    check_formula(&r, &bias);
}
END_TEST

START_TEST(adam_is_its_formula)
{
    open_optimizer("adam", (const char *[]){"weight_decay", "0.2", "beta1", "0.8", "beta2", "0.999",
                                            "epsilon", "1e-3", NULL});
    reference r = {.lr = 1e-2,
                   .weight_decay = 0.2,
                   .beta1 = 0.8,
                   .beta2 = 0.999,
                   .epsilon = 1e-3,
                   .adam = true};
    check_formula(&r, &matrix);
    r.weight_decay = 0;
    check_formula(&r, &bias);
}
END_TEST

START_TEST(sgd_is_its_formula)
{
    static const char *const momenta[] = {"0.9", "0.5", "0"};
    for (int nesterov = 0; nesterov < 2; ++nesterov) {
        for (int i = 0; i < 3; ++i) {
            open_optimizer("sgd", (const char *[]){"weight_decay", "0.01", "momentum", momenta[i],
                                                   "nesterov", nesterov ? "yes" : "no", NULL});
            reference r = {.lr = 0.1,
                           .weight_decay = 0.01,
                           .momentum = strtod(momenta[i], NULL),
                           .nesterov = nesterov};
            ck_assert_int_eq(lks_optimizer_state_count(optimizer), r.momentum != 0);
            check_formula(&r, &matrix);
            r.weight_decay = 0;
            check_formula(&r, &bias);
            lks_optimizer_close(optimizer);
            optimizer = NULL;
        }
    }
}
END_TEST

START_TEST(buffers_are_running_averages)
{
    static const char *const names[] = {"sgd", "adam", "adamw"};
    for (int n = 0; n < 3; ++n) {
        open_optimizer(names[n], NULL);
        lks_rng_normal(1, 0, ELEMENTS, parameter);
        for (int i = 0; i < ELEMENTS; ++i)
            want[i] = parameter[i];
        for (int step = 0; step < STEPS; ++step) {
            lks_rng_normal(2 + (uint64_t)step, 0, ELEMENTS, gradient);
            lks_optimizer_step at = {.step = (uint64_t)step, .lr = 1e9, .buffer_scale = 0.25};
            ASSERT_OK(update_range(&at, 1e9, &buffer, 0, ELEMENTS));
            for (int i = 0; i < ELEMENTS; ++i)
                want[i] = 0.9 * want[i] + 0.1 * 0.25 * gradient[i];
        }
        for (int i = 0; i < ELEMENTS; ++i)
            ck_assert_double_eq_tol(parameter[i], want[i], 2e-6);
        lks_optimizer_close(optimizer);
        optimizer = NULL;
    }
}
END_TEST

/* However the elements are cut into calls, the bits are the same. */
START_TEST(pieces_give_the_same_bits)
{
    static float whole[ELEMENTS];
    open_optimizer("adamw", NULL);
    reference r = {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .adam = true};
    run_both(&r, &matrix);
    memcpy(whole, parameter, sizeof whole);
    lks_rng_normal(1, 0, ELEMENTS, parameter);
    memset(state0, 0, sizeof state0);
    memset(state1, 0, sizeof state1);
    for (int step = 0; step < STEPS; ++step) {
        lks_rng_normal(2 + (uint64_t)step, 0, ELEMENTS, gradient);
        lks_optimizer_step at = {.step = (uint64_t)step, .lr = r.lr};
        for (uint64_t first = 0, count = 1; first < ELEMENTS; first += count, count += 16) {
            if (count > ELEMENTS - first)
                count = ELEMENTS - first;
            ASSERT_OK(update_range(&at, 1.0 / 37, &matrix, first, count));
        }
    }
    ck_assert_mem_eq(parameter, whole, sizeof whole);
}
END_TEST

START_TEST(unknown_names_are_refused)
{
    lks_optimizer *none = NULL;
    ck_assert_int_eq(lks_optimizer_open(&none, "adamx"), LKS_ERR_USAGE);
    ck_assert_str_eq(lks_status_message(),
                     "optimizer.name is adamx, want one of adam, adamw, sgd; did you mean adam?");
    ck_assert_int_eq(lks_optimizer_open(&none, "lion"), LKS_ERR_USAGE);
    ck_assert_str_eq(lks_status_message(), "optimizer.name is lion, want one of adam, adamw, sgd");
    ck_assert_ptr_null(none);
    lks_optimizer_close(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("optimizers");
    TCase *tcase = tcase_create("optimizers");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, adamw_is_its_formula);
    tcase_add_test(tcase, adam_is_its_formula);
    tcase_add_test(tcase, sgd_is_its_formula);
    tcase_add_test(tcase, buffers_are_running_averages);
    tcase_add_test(tcase, pieces_give_the_same_bits);
    tcase_add_test(tcase, unknown_names_are_refused);
    suite_add_tcase(suite, tcase);
    suite_add_tcase(suite, case_schedules());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
