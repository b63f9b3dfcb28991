/* The memory plan: nothing alive is overwritten, little is wasted, and what is
 * computed again is the same. */
#include "cases.h"

#include "runtime/graph/executor_internal.h"

#include <stdlib.h>
#include <string.h>

enum { CELL = 64, NOBODY = UINT32_MAX };

typedef struct cells {
    const lks_plan *plan;
    uint32_t *owner; /* by cell of the arena: the tensor that wrote it last */
    const char *name;
} cells;

static void cell_range(const cells *c, const lks_tensor *root, size_t *first, size_t *end)
{
    size_t offset = c->plan->offsets[root->id];
    ck_assert_uint_ne(offset, SIZE_MAX);
    ck_assert_uint_eq(offset % CELL, 0);
    ck_assert_uint_le(offset + lks_tensor_bytes(root), c->plan->arena_bytes);
    *first = offset / CELL;
    *end = (offset + lks_tensor_bytes(root) + CELL - 1) / CELL;
}

static bool in_arena(const lks_tensor *tensor)
{
    return tensor != NULL && tensor->root->place == LKS_PLACE_ARENA;
}

static void must_own(const cells *c, const lks_tensor *tensor, size_t step)
{
    size_t first, end;
    cell_range(c, tensor->root, &first, &end);
    for (size_t i = first; i < end; ++i)
        ck_assert_msg(c->owner[i] == tensor->root->id,
                      "%s: step %zu reads tensor %u, which tensor %u has overwritten", c->name,
                      step, tensor->root->id, c->owner[i]);
}

static void take(const cells *c, const lks_tensor *tensor)
{
    size_t first, end;
    cell_range(c, tensor->root, &first, &end);
    for (size_t i = first; i < end; ++i)
        c->owner[i] = tensor->root->id;
}

/* An output overlaps an input only where the kernel allows it, and then exactly. */
static void check_overlap(const cells *c, const lks_node *node, int o, int i)
{
    const lks_tensor *output = node->outputs[o], *input = node->inputs[i];
    size_t from, to, first, end;
    if (!in_arena(output) || !in_arena(input) || output->root == input->root)
        return;
    cell_range(c, output->root, &from, &to);
    cell_range(c, input->root, &first, &end);
    if (to <= first || end <= from)
        return;
    ck_assert_msg(o == 0 && (node->shares >> i & 1) && from == first && to == end,
                  "%s: output %d of %s overlaps input %d", c->name, o, node->kernel, i);
    for (int j = 0; j < node->input_count; ++j)
        ck_assert_msg(j == i || node->inputs[j] == NULL || node->inputs[j]->root != input->root,
                      "%s: %s reads input %d twice and writes over it", c->name, node->kernel, i);
}

static void walk_step(const cells *c, size_t s)
{
    const lks_plan_step *step = &c->plan->steps[s];
    const lks_node *node = step->node;
    for (int i = 0; i < node->input_count; ++i)
        if (in_arena(node->inputs[i]))
            must_own(c, node->inputs[i], s);
    for (int o = 0; o < node->output_count; ++o) {
        for (int i = 0; i < node->input_count; ++i)
            check_overlap(c, node, o, i);
        if (in_arena(node->outputs[o]) && step->accumulate[o] != LKS_ACCUMULATE_NEVER)
            must_own(c, node->outputs[o], s);
    }
    for (int o = 0; o < node->output_count; ++o)
        if (in_arena(node->outputs[o]))
            take(c, node->outputs[o]);
    for (int o = 0; o < node->output_count; ++o)
        if (in_arena(node->outputs[o]))
            must_own(c, node->outputs[o], s);
}

static void walk_plan(const fixture *f, const char *name)
{
    cells c = {&f->executor->plan, NULL, name};
    c.owner = malloc((c.plan->arena_bytes / CELL + 1) * sizeof *c.owner);
    for (size_t i = 0; i <= c.plan->arena_bytes / CELL; ++i)
        c.owner[i] = NOBODY;
    for (size_t s = 0; s < c.plan->step_count; ++s)
        walk_step(&c, s);
    if (f->graph->loss != NULL)
        must_own(&c, f->graph->loss, c.plan->step_count);
    else
        for (size_t i = 0; i < f->graph->output_count; ++i)
            must_own(&c, f->graph->outputs[i].tensor, c.plan->step_count);
    ck_assert_uint_le(c.plan->arena_bytes, c.plan->tensors_bytes);
    free(c.owner);
}

START_TEST(nothing_alive_is_overwritten)
{
    fixture f;
    fixture_open(&f, LKS_GRAPH_TRAIN, graph_cases[_i].build);
    walk_plan(&f, graph_cases[_i].name);
    fixture_close(&f);
    fixture_open_recomputed(&f, graph_cases[_i].build);
    walk_plan(&f, graph_cases[_i].name);
    fixture_close(&f);
    fixture_open(&f, LKS_GRAPH_EVALUATE, graph_cases[_i].build);
    walk_plan(&f, graph_cases[_i].name);
    fixture_close(&f);
}
END_TEST

/* Gradients of two ways to build a graph, in the same bits. */
static void same_bits(fixture *a, fixture *b, const char *name)
{
    const lks_layout *layout = lks_graph_layout(a->graph);
    ck_assert_uint_eq(a->elements, b->elements);
    fixture_run(a);
    fixture_run(b);
    for (uint32_t t = 0; t < layout->tensor_count; ++t)
        ck_assert_msg(memcmp(a->gradients + layout->tensors[t].offset,
                             b->gradients + layout->tensors[t].offset,
                             layout->tensors[t].elements * sizeof(float)) == 0,
                      "%s: the gradient of %s differs", name, layout->tensors[t].name);
    ck_assert_mem_eq(a->stats, b->stats, sizeof a->stats);
}

START_TEST(recomputed_gradients_have_the_same_bits)
{
    fixture kept, recomputed;
    fixture_open(&kept, LKS_GRAPH_TRAIN, graph_cases[_i].build);
    fixture_open_recomputed(&recomputed, graph_cases[_i].build);
    same_bits(&kept, &recomputed, graph_cases[_i].name);
    fixture_close(&kept);
    fixture_close(&recomputed);
}
END_TEST

static size_t count_kernels(const fixture *f, const char *kernel)
{
    size_t count = 0;
    for (size_t s = 0; s < f->executor->plan.step_count; ++s)
        count += strcmp(f->executor->plan.steps[s].node->kernel, kernel) == 0;
    return count;
}

START_TEST(recomputing_blocks_saves_memory)
{
    fixture kept, recomputed;
    fixture_open(&kept, LKS_GRAPH_TRAIN, build_gpt_kept);
    fixture_open(&recomputed, LKS_GRAPH_TRAIN, build_gpt_recomputed);
    walk_plan(&recomputed, "gpt");
    same_bits(&kept, &recomputed, "gpt");
    ck_assert_uint_eq(count_kernels(&kept, "attention"), 6);
    ck_assert_uint_eq(count_kernels(&recomputed, "attention"), 12); /* each once more, not more */
    size_t before = lks_executor_get_memory(kept.executor).activations_bytes;
    size_t after = lks_executor_get_memory(recomputed.executor).activations_bytes;
    ck_assert_msg(after < before / 2, "%zu bytes instead of %zu", after, before);
    fixture_close(&kept);
    fixture_close(&recomputed);
}
END_TEST

/* The loss needs no second copy of the logits, and a sum no copy of its gradient. */
START_TEST(gradients_take_over_memory)
{
    fixture f;
    fixture_open(&f, LKS_GRAPH_TRAIN, build_gpt_kept);
    const lks_plan *plan = &f.executor->plan;
    for (size_t s = 0; s < plan->step_count; ++s) {
        const lks_node *node = plan->steps[s].node;
        if (strcmp(node->kernel, "cross_entropy") == 0)
            ck_assert_uint_eq(plan->offsets[node->outputs[0]->root->id],
                              plan->offsets[node->inputs[0]->root->id]);
        if (strcmp(node->kernel, "norm_grad") == 0 && node->inputs[5] != NULL)
            ck_assert_uint_eq(plan->offsets[node->outputs[0]->root->id],
                              plan->offsets[node->inputs[5]->root->id]);
    }
    ck_assert_uint_eq(count_kernels(&f, "expand"), 0);
    ck_assert_uint_eq(count_kernels(&f, "binary"), 0);
    ck_assert_uint_lt(plan->arena_bytes, plan->tensors_bytes / 2);
    fixture_close(&f);
}
END_TEST

/* An activation's derivative is part of the product that its only reader makes. */
START_TEST(gradients_pass_through_activations)
{
    static const struct {
        void (*build)(lks_graph *graph);
        size_t apart;
    } graphs[] = {{build_layers, 0}, {build_layers_read_twice, 2}, {build_gpt_kept, 0}};
    for (size_t i = 0; i < sizeof graphs / sizeof *graphs; ++i) {
        fixture f;
        fixture_open(&f, LKS_GRAPH_TRAIN, graphs[i].build);
        ck_assert_uint_eq(count_kernels(&f, "activation_grad"), graphs[i].apart);
        fixture_close(&f);
    }
    fixture kept, recomputed;
    fixture_open(&kept, LKS_GRAPH_TRAIN, build_layers);
    fixture_open(&recomputed, LKS_GRAPH_TRAIN, build_layers_recomputed);
    walk_plan(&recomputed, "layers");
    same_bits(&kept, &recomputed, "layers");
    fixture_close(&kept);
    fixture_close(&recomputed);
}
END_TEST

Suite *plan_suite(void);
Suite *plan_suite(void)
{
    Suite *suite = suite_create("plan");
    TCase *cases = tcase_create("plan");
    tcase_add_loop_test(cases, nothing_alive_is_overwritten, 0, graph_case_count);
    tcase_add_loop_test(cases, recomputed_gradients_have_the_same_bits, 0, graph_case_count);
    tcase_add_test(cases, recomputing_blocks_saves_memory);
    tcase_add_test(cases, gradients_take_over_memory);
    tcase_add_test(cases, gradients_pass_through_activations);
    suite_add_tcase(suite, cases);
    return suite;
}
