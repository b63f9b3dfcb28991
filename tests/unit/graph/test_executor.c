#include "cases.h"

#include "runtime/base/memory.h"
#include "runtime/base/rng.h"
#include "runtime/base/text.h"
#include "runtime/graph/executor_internal.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- What a run promises, on every case ------------------------------------------ */

typedef struct watcher {
    fixture *f;
    int *times;        /* by layout tensor */
    float *when_final; /* flat: the gradients as they were when they were called final */
    int ops, ops_limit;
} watcher;

static void watch_final(void *user, uint32_t t)
{
    watcher *w = user;
    const lks_layout_tensor *tensor = &lks_graph_layout(w->f->graph)->tensors[t];
    ++w->times[t];
    memcpy(w->when_final + tensor->offset, w->f->gradients + tensor->offset,
           tensor->elements * sizeof(float));
}

static lks_status watch_op(void *user)
{
    watcher *w = user;
    if (++w->ops == w->ops_limit)
        return LKS_FAIL(LKS_ERR_PEER, "the peer went away");
    return LKS_OK;
}

static void watch(watcher *w, fixture *f)
{
    *w = (watcher){.f = f};
    w->times = calloc(lks_graph_layout(f->graph)->tensor_count, sizeof *w->times);
    w->when_final = calloc(f->elements, sizeof(float));
    f->call.gradient_final = watch_final;
    f->call.between_ops = watch_op;
    f->call.user = w;
}

static void unwatch(watcher *w)
{
    free(w->times);
    free(w->when_final);
}

START_TEST(every_gradient_is_final_once)
{
    fixture f;
    watcher w;
    fixture_open(&f, LKS_GRAPH_TRAIN, graph_cases[_i].build);
    watch(&w, &f);
    fixture_run(&f);
    const lks_layout *layout = lks_graph_layout(f.graph);
    for (uint32_t t = 0; t < layout->tensor_count; ++t) {
        uint64_t at = layout->tensors[t].offset;
        ck_assert_int_eq(w.times[t], 1);
        ck_assert_msg(memcmp(w.when_final + at, f.gradients + at,
                             layout->tensors[t].elements * sizeof(float)) == 0,
                      "%s: %s was written after it was final", graph_cases[_i].name,
                      layout->tensors[t].name);
    }
    ck_assert_int_eq(w.ops, (int)f.executor->plan.step_count);
    unwatch(&w);
    fixture_close(&f);
}
END_TEST

START_TEST(runs_allocate_nothing_and_repeat_their_bits)
{
    fixture f;
    fixture_open(&f, LKS_GRAPH_TRAIN, graph_cases[_i].build);
    fixture_run(&f);
    size_t bytes = f.elements * sizeof(float);
    float *first = malloc(bytes);
    memcpy(first, f.gradients, bytes);
    uint64_t allocations = lks_memory_allocation_count();
    fixture_run(&f);
    ck_assert_uint_eq(lks_memory_allocation_count(), allocations);
    ck_assert_mem_eq(first, f.gradients, bytes);
    free(first);
    fixture_close(&f);
}
END_TEST

/* The sum of two calls; added in another order than here, hence the tolerance of a few roundings
 * of the terms. */
START_TEST(gradients_accumulate_over_calls)
{
    fixture f;
    fixture_open(&f, LKS_GRAPH_TRAIN, graph_cases[_i].build);
    float *a = malloc(f.elements * sizeof *a), *b = malloc(f.elements * sizeof *b);
    f.call.inputs = other_inputs();
    fixture_run(&f);
    memcpy(b, f.gradients, f.elements * sizeof *b);
    f.call.inputs = test_inputs();
    fixture_run(&f);
    memcpy(a, f.gradients, f.elements * sizeof *a);
    f.call.inputs = other_inputs();
    f.call.accumulate = true;
    fixture_run(&f);
    double scale = 0;
    for (uint64_t i = 0; i < f.elements; ++i)
        scale = fmax(scale, fabs(a[i]) + fabs(b[i]));
    for (uint64_t i = 0; i < f.elements; ++i)
        ck_assert_msg(fabs((double)a[i] + b[i] - f.gradients[i]) <= 1e-6 * scale,
                      "%s: element %llu: %.9g and %.9g gave %.9g", graph_cases[_i].name,
                      (unsigned long long)i, a[i], b[i], f.gradients[i]);
    free(a);
    free(b);
    fixture_close(&f);
}
END_TEST

/* --- By hand --------------------------------------------------------------------- */

START_TEST(unused_tensors_get_zeros)
{
    fixture f;
    fixture_open(&f, LKS_GRAPH_TRAIN, build_unused);
    const lks_layout *layout = lks_graph_layout(f.graph);
    for (uint64_t i = 0; i < f.elements; ++i)
        f.gradients[i] = 3;
    fixture_run(&f);
    for (uint32_t t = 0; t < 3; ++t)
        for (uint64_t i = 0; i < layout->tensors[t].elements; ++i)
            ck_assert_float_eq(f.gradients[layout->tensors[t].offset + i], 0);
    for (uint64_t i = 0; i < f.elements; ++i)
        f.gradients[i] = 3;
    f.call.accumulate = true;
    fixture_run(&f);
    for (uint32_t t = 0; t < 3; ++t)
        for (uint64_t i = 0; i < layout->tensors[t].elements; ++i)
            ck_assert_float_eq(f.gradients[layout->tensors[t].offset + i], 3);
    fixture_close(&f);
}
END_TEST

START_TEST(batch_statistics_are_contributed_once)
{
    fixture kept, recomputed;
    fixture_open(&kept, LKS_GRAPH_TRAIN, build_cnn);
    fixture_open_recomputed(&recomputed, build_cnn);
    fixture_run(&kept);
    fixture_run(&recomputed);
    const lks_layout *layout = lks_graph_layout(kept.graph);
    int buffers = 0;
    for (uint32_t t = 0; t < layout->tensor_count; ++t) {
        const lks_layout_tensor *tensor = &layout->tensors[t];
        if (tensor->role != LKS_ROLE_BUFFER)
            continue;
        ++buffers;
        ck_assert_mem_eq(kept.gradients + tensor->offset, recomputed.gradients + tensor->offset,
                         tensor->elements * sizeof(float));
        bool variance = strncmp(tensor->name, "variance", 8) == 0;
        for (uint64_t i = 0; i < tensor->elements; ++i)
            ck_assert(kept.gradients[tensor->offset + i] != 0 &&
                      (!variance || kept.gradients[tensor->offset + i] > 0));
    }
    ck_assert_int_eq(buffers, 4);
    const lks_plan *plan = &kept.executor->plan; /* final after the forward nodes */
    for (size_t n = kept.executor->program.backward_start; n < plan->step_count; ++n)
        for (uint32_t t = 0; t < plan->steps[n].final_count; ++t)
            ck_assert_int_eq(layout->tensors[plan->steps[n].finals[t]].role, LKS_ROLE_PARAMETER);
    fixture_close(&kept);
    fixture_close(&recomputed);
}
END_TEST

static void build_linear(lks_graph *g)
{
    lks_tensor *w = variable(g, "w", LKS_SHAPE(3, 4));
    lks_tensor *x = lks_op_slice(g, lks_input(g, "features"), 1, 0, 1);
    x = lks_op_reshape(g, x, LKS_SHAPE(BATCH, 4));
    lks_tensor *y = lks_op_linear(g, x, w, NULL, LKS_IDENTITY);
    lks_graph_output(g, "prediction", y);
    if (lks_graph_get_mode(g) != LKS_GRAPH_PREDICT)
        lks_graph_loss(g, lks_op_squared_error(g, y, lks_input(g, "values")));
}

START_TEST(evaluating_gives_the_loss_of_training)
{
    fixture train, evaluate;
    watcher w;
    fixture_open(&train, LKS_GRAPH_TRAIN, build_linear);
    fixture_open(&evaluate, LKS_GRAPH_EVALUATE, build_linear);
    watch(&w, &evaluate);
    evaluate.call.gradients = NULL;
    fixture_run(&train);
    fixture_run(&evaluate);
    ck_assert_mem_eq(train.stats, evaluate.stats, sizeof train.stats);
    ck_assert_double_gt(train.stats[0], 0);
    ck_assert_double_eq(train.stats[1], 1); /* the other row is masked */
    ck_assert_int_eq(w.times[0], 0);
    unwatch(&w);
    fixture_close(&train);
    fixture_close(&evaluate);
}
END_TEST

START_TEST(predicting_needs_no_targets)
{
    fixture f;
    fixture_open(&f, LKS_GRAPH_PREDICT, build_linear);
    const void *data;
    lks_shape shape;
    ck_assert_int_eq(lks_executor_output(f.executor, "prediction", &data, &shape),
                     LKS_ERR_INTERNAL);
    const void *inputs[5] = {NULL, NULL, NULL, f.call.inputs[3], NULL};
    f.call.inputs = inputs;
    f.call.gradients = NULL;
    f.stats[0] = 5;
    fixture_run(&f);
    ck_assert_double_eq(f.stats[0], 5); /* untouched */
    OK(lks_executor_output(f.executor, "prediction", &data, &shape));
    ck_assert(lks_shape_equal(&shape, &LKS_SHAPE(BATCH, 3)));
    const float *features = inputs[3], *y = data;
    for (int b = 0; b < BATCH; ++b)
        for (int n = 0; n < 3; ++n) {
            double expected = 0, scale = 0;
            for (int k = 0; k < 4; ++k) {
                double term = (double)features[b * PLACES * 4 + k] * f.parameters[n * 4 + k];
                expected += term;
                scale += fabs(term);
            }
            ck_assert_double_eq_tol(y[b * 3 + n], expected, 8 * scale / (1 << 24));
        }
    ck_assert_int_eq(lks_executor_output(f.executor, "logits", &data, &shape), LKS_ERR_USAGE);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "logits"));
    inputs[3] = NULL;
    ck_assert_int_eq(lks_executor_run(f.executor, &f.call, f.stats), LKS_ERR_INTERNAL);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "features"));
    fixture_close(&f);
}
END_TEST

START_TEST(a_failure_between_ops_ends_the_run)
{
    fixture f;
    watcher w;
    fixture_open(&f, LKS_GRAPH_TRAIN, build_tied);
    watch(&w, &f);
    w.ops_limit = 2;
    ck_assert_int_eq(lks_executor_run(f.executor, &f.call, f.stats), LKS_ERR_PEER);
    ck_assert_int_eq(w.ops, 2);
    ck_assert_str_eq(lks_status_message(), "the peer went away");
    unwatch(&w);
    fixture_close(&f);
}
END_TEST

START_TEST(a_second_executor_of_a_graph_computes_the_same)
{
    fixture f;
    fixture_open(&f, LKS_GRAPH_TRAIN, build_cnn);
    fixture_run(&f);
    size_t bytes = f.elements * sizeof(float);
    float *first = malloc(bytes);
    memcpy(first, f.gradients, bytes);
    lks_executor *mine = f.executor;
    OK(lks_executor_open(&f.executor, f.graph, f.device));
    memset(f.gradients, 0, bytes);
    fixture_run(&f);
    ck_assert_mem_eq(first, f.gradients, bytes);
    lks_executor_close(mine);
    fixture_run(&f);
    ck_assert_mem_eq(first, f.gradients, bytes);
    free(first);
    fixture_close(&f);
}
END_TEST

/* Dropout follows the number of the op, the seed and the positions, not the order of calls. */
static void build_dropout(lks_graph *g)
{
    lks_tensor *x = variable(g, "x", LKS_SHAPE(BATCH, 64));
    x = lks_op_dropout(g, x, 0); /* counts, and does nothing */
    loss_of(g, lks_op_dropout(g, x, 0.5));
}

START_TEST(dropout_is_keyed_by_op_seed_and_position)
{
    fixture f;
    fixture_open(&f, LKS_GRAPH_TRAIN, build_dropout);
    fixture_run(&f);
    for (uint64_t e = 0; e < 64 * BATCH; ++e) {
        uint64_t key = lks_rng_key(f.call.seed, LKS_RNG_DROPOUT, 1), element = e % 64;
        lks_rng_block words = lks_rng_words(key, test_positions[e / 64], element / 4);
        bool kept = lks_rng_uniform(words.word[element % 4]) >= 0.5f;
        ck_assert_int_eq(f.gradients[e] != 0, kept);
    }
    fixture_close(&f);
}
END_TEST

static void build_inits(lks_graph *g)
{
    lks_tensor *a = lks_parameter(g, "a", LKS_SHAPE(101, 100), lks_init_normal(0.5));
    lks_parameter(g, "b", LKS_SHAPE(3), lks_init_constant(0.25));
    lks_parameter(g, "c", LKS_SHAPE(5000), lks_init_uniform(2.0));
    lks_buffer(g, "d", LKS_SHAPE(2), 1.5);
    lks_parameter(g, "e", LKS_SHAPE(101, 100), lks_init_normal(0.5));
    loss_of(g, a);
}

START_TEST(initial_values_follow_seed_and_declaration)
{
    fixture f;
    fixture_open(&f, LKS_GRAPH_TRAIN, build_inits);
    const lks_layout_tensor *t = lks_graph_layout(f.graph)->tensors;
    const float *p = f.parameters;
    double sum = 0, squares = 0;
    for (uint64_t i = 0; i < t[0].elements; ++i) {
        sum += p[i];
        squares += (double)p[i] * p[i];
    }
    ck_assert_double_eq_tol(sum / 10100, 0, 5 * 0.5 / 100);
    ck_assert_double_eq_tol(squares / 10100, 0.25, 0.25 * 5 * sqrt(2) / 100);
    float one;
    lks_rng_normal(lks_rng_key(3, LKS_RNG_INIT, 4), 77, 1, &one);
    ck_assert_float_eq(p[t[4].offset + 77], 0.5f * one);
    ck_assert_float_eq(p[t[1].offset + 2], 0.25f);
    ck_assert_float_eq(p[t[1].offset + 3], 0); /* padding */
    ck_assert_float_eq(p[t[3].offset + 1], 1.5f);
    float least = 2, most = -2;
    for (uint64_t i = 0; i < t[2].elements; ++i) {
        least = fminf(least, p[t[2].offset + i]);
        most = fmaxf(most, p[t[2].offset + i]);
    }
    ck_assert(least >= -2 && least < -1.98 && most < 2 && most > 1.98);
    ck_assert(t[0].decay && !t[1].decay && !t[2].decay && !t[3].decay && t[4].decay);
    float *again = malloc(f.elements * sizeof *again);
    OK(lks_graph_initialize(f.graph, 3, again));
    ck_assert_mem_eq(again, p, f.elements * sizeof *again);
    OK(lks_graph_initialize(f.graph, 4, again));
    ck_assert_float_ne(again[0], p[0]);
    free(again);
    fixture_close(&f);
}
END_TEST

START_TEST(the_profile_names_every_kernel)
{
    fixture f;
    fixture_open(&f, LKS_GRAPH_TRAIN, build_tied);
    fixture_run(&f);
    OK(lks_device_profile_begin(f.device));
    fixture_run(&f);
    fixture_run(&f);
    OK(lks_device_profile_end(f.device));
    fixture_run(&f);
    OK(lks_device_profile_end(f.device));
    lks_text text = {0};
    lks_device_profile_print(f.device, &text);
    const char *line = strstr(text.data, "embedding_grad");
    ck_assert_ptr_nonnull(line);
    int calls;
    double ms, share;
    ck_assert_int_eq(sscanf(line, "embedding_grad %d %lf %lf%%", &calls, &ms, &share), 3);
    ck_assert_int_eq(calls, 2);
    ck_assert(share >= 0 && share <= 100);
    lks_text_release(&text);
    fixture_close(&f);
}
END_TEST

Suite *executor_suite(void);
Suite *executor_suite(void)
{
    Suite *suite = suite_create("executor");
    TCase *cases = tcase_create("executor");
    tcase_add_loop_test(cases, every_gradient_is_final_once, 0, graph_case_count);
    tcase_add_loop_test(cases, runs_allocate_nothing_and_repeat_their_bits, 0, graph_case_count);
    tcase_add_loop_test(cases, gradients_accumulate_over_calls, 0, graph_case_count);
    tcase_add_test(cases, unused_tensors_get_zeros);
    tcase_add_test(cases, batch_statistics_are_contributed_once);
    tcase_add_test(cases, evaluating_gives_the_loss_of_training);
    tcase_add_test(cases, predicting_needs_no_targets);
    tcase_add_test(cases, a_failure_between_ops_ends_the_run);
    tcase_add_test(cases, a_second_executor_of_a_graph_computes_the_same);
    tcase_add_test(cases, dropout_is_keyed_by_op_seed_and_position);
    tcase_add_test(cases, initial_values_follow_seed_and_declaration);
    tcase_add_test(cases, the_profile_names_every_kernel);
    suite_add_tcase(suite, cases);
    return suite;
}
