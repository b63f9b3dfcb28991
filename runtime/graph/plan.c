#include "runtime/graph/plan.h"
#include "runtime/graph/offsets.h"

typedef struct lifetime {
    size_t first, last;
    size_t storage;
    bool used;
} lifetime;

typedef struct planner {
    const lks_program *program;
    const lks_graph *graph;
    lifetime *lifetimes; /* by tensor id */
    lks_storage *storages;
    size_t storage_count;
} planner;

static bool in_arena(const lks_tensor *tensor)
{
    return tensor != NULL && tensor->root->place == LKS_PLACE_ARENA;
}

/* --- Steps --------------------------------------------------------------------- */

static lks_status steps_create(lks_plan *plan, const lks_program *program)
{
    plan->step_count = program->nodes.count;
    LKS_TRY(LKS_NEW_ARRAY(&plan->steps, plan->step_count));
    for (size_t s = 0; s < plan->step_count; ++s) {
        const lks_node *node = program->nodes.nodes[s];
        size_t outputs = (size_t)node->output_count;
        lks_plan_step *step = &plan->steps[s];
        step->node = node;
        step->accumulate = lks_arena_allocate(plan->arena, outputs * sizeof *step->accumulate + 1);
        step->finals = lks_arena_allocate(plan->arena, outputs * sizeof *step->finals + 1);
        if (step->accumulate == NULL || step->finals == NULL)
            return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the plan of a graph");
    }
    return LKS_OK;
}

/* The first writer of a tensor overwrites it (or does what the call says), later ones add. */
static lks_status set_accumulation(lks_plan *plan)
{
    bool *written;
    LKS_TRY(LKS_NEW_ARRAY(&written, plan->tensor_count));
    for (size_t s = 0; s < plan->step_count; ++s)
        for (int o = 0; o < plan->steps[s].node->output_count; ++o) {
            const lks_tensor *output = plan->steps[s].node->outputs[o];
            if (output == NULL)
                continue;
            bool slot = output->root->place == LKS_PLACE_GRADIENT;
            plan->steps[s].accumulate[o] = written[output->root->id] ? LKS_ACCUMULATE_ALWAYS
                                           : slot                    ? LKS_ACCUMULATE_AS_CALLED
                                                                     : LKS_ACCUMULATE_NEVER;
            written[output->root->id] = true;
        }
    lks_memory_free(written);
    return LKS_OK;
}

static lks_status set_finals(lks_plan *plan)
{
    bool *seen;
    LKS_TRY(LKS_NEW_ARRAY(&seen, plan->tensor_count));
    for (size_t s = plan->step_count; s-- > 0;)
        for (int o = 0; o < plan->steps[s].node->output_count; ++o) {
            const lks_tensor *output = plan->steps[s].node->outputs[o];
            if (output == NULL || output->root->place != LKS_PLACE_GRADIENT ||
                seen[output->root->id])
                continue;
            plan->steps[s].finals[plan->steps[s].final_count++] = output->root->index;
            seen[output->root->id] = true;
        }
    lks_memory_free(seen);
    return LKS_OK;
}

/* --- Lifetimes ----------------------------------------------------------------- */

static void touch(planner *p, const lks_tensor *tensor, size_t step)
{
    if (!in_arena(tensor))
        return;
    lifetime *life = &p->lifetimes[tensor->root->id];
    if (!life->used)
        life->first = step;
    life->used = true;
    life->last = step;
}

static void find_lifetimes(planner *p)
{
    const lks_node_list *nodes = &p->program->nodes;
    for (size_t s = 0; s < nodes->count; ++s) {
        for (int i = 0; i < nodes->nodes[s]->input_count; ++i)
            touch(p, nodes->nodes[s]->inputs[i], s);
        for (int o = 0; o < nodes->nodes[s]->output_count; ++o)
            touch(p, nodes->nodes[s]->outputs[o], s);
    }
    if (p->graph->mode != LKS_GRAPH_PREDICT)
        touch(p, p->graph->loss, nodes->count);
    else
        for (size_t i = 0; i < p->graph->output_count; ++i)
            touch(p, p->graph->outputs[i].tensor, nodes->count);
}

static int times_read(const lks_node *node, const lks_tensor *root)
{
    int times = 0;
    for (int i = 0; i < node->input_count; ++i)
        times += node->inputs[i] != NULL && node->inputs[i]->root == root;
    return times;
}

/* The input whose memory output 0 of step `s` takes over: one that dies here and that the
 * kernel reads nowhere else. NULL: none. */
static const lks_tensor *find_heir(const planner *p, const lks_node *node, size_t s)
{
    const lks_tensor *output = node->outputs[0];
    if (node->shares == 0 || !in_arena(output) || p->lifetimes[output->root->id].first != s)
        return NULL;
    for (int i = 0; i < node->input_count; ++i) {
        const lks_tensor *input = node->inputs[i];
        if ((node->shares >> i & 1) && in_arena(input) && p->lifetimes[input->root->id].last == s &&
            times_read(node, input->root) == 1 &&
            lks_tensor_bytes(input->root) == lks_tensor_bytes(output->root))
            return input->root;
    }
    return NULL;
}

static void give_storage(planner *p, const lks_tensor *root, const lks_tensor *from)
{
    lifetime *life = &p->lifetimes[root->id];
    if (from != NULL) {
        life->storage = p->lifetimes[from->id].storage;
        p->storages[life->storage].last = life->last;
        return;
    }
    life->storage = p->storage_count++;
    p->storages[life->storage] = (lks_storage){
        life->first, life->last, lks_round_up(lks_tensor_bytes(root), LKS_ALIGNMENT), SIZE_MAX};
}

static void make_storages(planner *p)
{
    const lks_node_list *nodes = &p->program->nodes;
    for (size_t s = 0; s < nodes->count; ++s)
        for (int o = 0; o < nodes->nodes[s]->output_count; ++o) {
            const lks_node *node = nodes->nodes[s];
            const lks_tensor *output = node->outputs[o];
            if (in_arena(output) && p->lifetimes[output->root->id].first == s)
                give_storage(p, output->root, o == 0 ? find_heir(p, node, s) : NULL);
        }
}

/* --- Memory ---------------------------------------------------------------------- */

/* The most that is alive at one step. */
static lks_status find_live_bytes(const planner *p, size_t *out)
{
    size_t *born, live = 0; /* by step; what dies is subtracted at the next: sizes wrap around */
    size_t steps = p->program->nodes.count + 2;
    LKS_TRY(LKS_NEW_ARRAY(&born, steps));
    for (size_t i = 0; i < p->storage_count; ++i) {
        born[p->storages[i].first] += p->storages[i].bytes;
        born[p->storages[i].last + 1] -= p->storages[i].bytes;
    }
    *out = 0;
    for (size_t s = 0; s < steps; ++s) {
        live += born[s];
        if (live > *out)
            *out = live;
    }
    lks_memory_free(born);
    return LKS_OK;
}

static lks_status ask(const planner *p, const lks_plan_accept *accept)
{
    size_t bytes;
    LKS_TRY(find_live_bytes(p, &bytes));
    return accept->accept(accept->user, bytes);
}

static lks_status plan_memory(lks_plan *plan, planner *p, const lks_plan_accept *accept)
{
    LKS_TRY(LKS_NEW_ARRAY(&p->lifetimes, plan->tensor_count));
    LKS_TRY(LKS_NEW_ARRAY(&p->storages, plan->tensor_count));
    find_lifetimes(p);
    make_storages(p);
    if (accept != NULL)
        LKS_TRY(ask(p, accept));
    LKS_TRY(lks_offsets_place(p->storages, p->storage_count, &plan->arena_bytes));
    for (size_t t = 0; t < plan->tensor_count; ++t) {
        const lifetime *life = &p->lifetimes[t];
        plan->offsets[t] = life->used ? p->storages[life->storage].offset : SIZE_MAX;
        if (life->used)
            plan->tensors_bytes +=
                lks_round_up(lks_tensor_bytes(p->graph->tensors[t]), LKS_ALIGNMENT);
    }
    return LKS_OK;
}

lks_status lks_plan_create(lks_plan *out, const lks_program *program, const lks_graph *graph,
                           const lks_plan_accept *accept)
{
    *out = (lks_plan){.tensor_count = graph->tensor_count};
    planner p = {.program = program, .graph = graph};
    lks_status status;
    LKS_TRY_GOTO(status, lks_arena_create(&out->arena), done);
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&out->offsets, out->tensor_count), done);
    LKS_TRY_GOTO(status, steps_create(out, program), done);
    LKS_TRY_GOTO(status, set_accumulation(out), done);
    LKS_TRY_GOTO(status, set_finals(out), done);
    status = plan_memory(out, &p, accept);
done:
    lks_memory_free(p.lifetimes);
    lks_memory_free(p.storages);
    if (status != LKS_OK)
        lks_plan_release(out);
    return status;
}

void lks_plan_release(lks_plan *plan)
{
    lks_memory_free(plan->steps);
    lks_memory_free(plan->offsets);
    lks_arena_destroy(plan->arena);
    *plan = (lks_plan){0};
}
