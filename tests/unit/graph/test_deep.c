/* Deep models: planned in a time that grows with their depth and no faster. What is alive at once
 * never overlaps, for few storages and for many. */
#include "cases.h"

#include "runtime/base/memory.h"
#include "runtime/graph/offsets.h"
#include "runtime/graph/program.h"

#include <stdlib.h>

/* What a deep model does: a layer keeps three tensors for its backward step and needs two more for a
 * moment; both passes. Written with the same small sizes that real layers have. */
enum { KEPT = 3, BRIEF = 2, OF_LAYER = KEPT + 2 * BRIEF };

static size_t deep_model(lks_storage *storages, size_t layers)
{
    size_t count = 0, steps = 4 * layers;
    for (size_t l = 0; l < layers; ++l) {
        for (size_t k = 0; k < KEPT; ++k)
            storages[count++] = (lks_storage){2 * l, steps - 2 * l, 64 * (1 + (l + k) % 4), 0};
        for (size_t k = 0; k < BRIEF; ++k) {
            storages[count++] = (lks_storage){2 * l, 2 * l + 1, 64 * (2 + k), 0};
            storages[count++] =
                (lks_storage){steps - 2 * l - 1, steps - 2 * l, 64 * (3 + (l + k) % 2), 0};
        }
    }
    return count;
}

static int compare_ends(const void *a, const void *b)
{
    const lks_storage *x = a, *y = b;
    return x->last < y->last ? -1 : x->last > y->last;
}

static int compare_starts(const void *a, const void *b)
{
    const lks_storage *x = a, *y = b;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* Walks the steps with a map of the arena: nobody may be born into memory that is taken. Returns the most that was
 * taken at once. */
static size_t walk(const lks_storage *storages, size_t count, size_t arena_bytes)
{
    lks_storage *births, *deaths;
    bool *taken;
    size_t live = 0, most = 0;
    OK(LKS_NEW_ARRAY(&births, count));
    OK(LKS_NEW_ARRAY(&deaths, count));
    OK(LKS_NEW_ARRAY(&taken, arena_bytes / LKS_ALIGNMENT));
    for (size_t i = 0; i < count; ++i)
        births[i] = deaths[i] = storages[i];
    qsort(births, count, sizeof *births, compare_starts);
    qsort(deaths, count, sizeof *deaths, compare_ends);
    for (size_t b = 0, d = 0; b < count; ++b) {
        for (; deaths[d].last < births[b].first; live -= deaths[d++].bytes)
            for (size_t at = 0; at < deaths[d].bytes; at += LKS_ALIGNMENT)
                taken[(deaths[d].offset + at) / LKS_ALIGNMENT] = false;
        ck_assert_uint_eq(births[b].offset % LKS_ALIGNMENT, 0);
        ck_assert_uint_le(births[b].offset + births[b].bytes, arena_bytes);
        for (size_t at = 0; at < births[b].bytes; at += LKS_ALIGNMENT) {
            bool *cell = &taken[(births[b].offset + at) / LKS_ALIGNMENT];
            ck_assert_msg(!*cell, "storage %zu is born into memory that is taken", b);
            *cell = true;
        }
        live += births[b].bytes;
        most = live > most ? live : most;
    }
    lks_memory_free(births);
    lks_memory_free(deaths);
    lks_memory_free(taken);
    return most;
}

static void place_model(size_t layers)
{
    lks_storage *storages;
    size_t arena_bytes;
    OK(LKS_NEW_ARRAY(&storages, layers * OF_LAYER));
    size_t count = deep_model(storages, layers);
    OK(lks_offsets_place(storages, count, &arena_bytes));
    size_t most = walk(storages, count, arena_bytes);
    ck_assert_msg(arena_bytes * 10 <= most * 11, "%zu layers: an arena of %zu bytes for %zu",
                  layers, arena_bytes, most);
    lks_memory_free(storages);
}

START_TEST(what_lives_at_once_lies_apart)
{
    const size_t layers[] = {1,
                             2,
                             7,
                             100,
                             LKS_OFFSETS_LARGEST_FIRST_MAX / OF_LAYER,
                             LKS_OFFSETS_LARGEST_FIRST_MAX / OF_LAYER + 1};
    for (size_t i = 0; i < sizeof layers / sizeof *layers; ++i)
        place_model(layers[i]);
}
END_TEST

/* In quadratic time this would take many minutes. */
START_TEST(a_deep_model_is_placed_quickly)
{
    place_model(100000);
}
END_TEST

START_TEST(nothing_takes_no_room)
{
    size_t arena_bytes = 1;
    OK(lks_offsets_place(NULL, 0, &arena_bytes));
    ck_assert_uint_eq(arena_bytes, 0);
}
END_TEST

/* --- A graph ------------------------------------------------------------------- */

enum { REGIONS = 20000 };

static void build_deep(lks_graph *graph)
{
    lks_tensor *x = activation(graph, "x", LKS_SHAPE(2));
    for (int region = 0; region < REGIONS; ++region) {
        lks_graph_recompute_begin(graph);
        x = lks_op_unary(graph, LKS_UNARY_TANH, lks_op_unary(graph, LKS_UNARY_TANH, x));
        lks_graph_recompute_end(graph);
    }
    loss_of(graph, x);
}

/* Looking for a region's nodes in the whole forward pass would take minutes. */
START_TEST(many_regions_are_recomputed)
{
    lks_program program;
    lks_plan plan;
    lks_graph *graph = test_graph(LKS_GRAPH_TRAIN);
    build_deep(graph);
    OK(lks_program_build(&program, graph));
    OK(lks_plan_create(&plan, &program, graph, NULL));
    size_t forward = program.backward_start, all = program.nodes.count;
    ck_assert_uint_ge(forward, 2 * REGIONS);
    ck_assert_uint_ge(all - forward, 3 * REGIONS); /* two derivatives, and one tanh again */
    lks_plan_release(&plan);
    lks_program_release(&program);
    lks_graph_destroy(graph);
}
END_TEST

Suite *deep_suite(void);
Suite *deep_suite(void)
{
    Suite *suite = suite_create("deep");
    TCase *cases = tcase_create("deep");
    tcase_set_timeout(cases, 30);
    tcase_add_test(cases, what_lives_at_once_lies_apart);
    tcase_add_test(cases, a_deep_model_is_placed_quickly);
    tcase_add_test(cases, nothing_takes_no_room);
    tcase_add_test(cases, many_regions_are_recomputed);
    suite_add_tcase(suite, cases);
    return suite;
}
