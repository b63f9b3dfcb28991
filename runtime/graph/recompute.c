/* Recomputation: what a region made is dropped after the forward pass, and its
 * nodes run again, as clones with outputs of their own, when the backward pass asks.
 *
 * A tensor that another region reads is kept: otherwise that region's clones would need
 * this one's, and all of them would be alive at once.
 */
#include "runtime/graph/program.h"

#include <string.h>

/* Nodes of the forward pass, [first, end). */
typedef struct stretch {
    size_t first, end;
} stretch;

typedef struct recompute {
    lks_graph *graph;
    const lks_node_list *forward;
    lks_node_list *out;
    size_t tensor_count; /* those that were there before the first clone */
    bool *kept;          /* by tensor id, as the two below */
    bool *needed;
    lks_tensor **clones;
    stretch *regions; /* by region: where its nodes are */
} recompute;

/* The root to clone behind `tensor`, NULL if its memory can be read as it is. */
static lks_tensor *dropped_root(const recompute *r, const lks_tensor *tensor)
{
    if (tensor == NULL)
        return NULL;
    lks_tensor *root = tensor->root;
    bool dropped = root->producer != NULL && root->producer->region >= 0 && !r->kept[root->id];
    return dropped ? root : NULL;
}

static void find_regions(recompute *r)
{
    for (size_t n = r->forward->count; n-- > 0;) {
        int region = r->forward->nodes[n]->region;
        if (region < 0)
            continue;
        r->regions[region].first = n;
        if (r->regions[region].end == 0)
            r->regions[region].end = n + 1;
    }
}

static void mark_kept(recompute *r)
{
    for (size_t n = 0; n < r->forward->count; ++n) {
        const lks_node *node = r->forward->nodes[n];
        for (int i = 0; node->region >= 0 && i < node->input_count; ++i) {
            const lks_tensor *root = dropped_root(r, node->inputs[i]);
            if (root != NULL && root->producer->region != node->region)
                r->kept[root->id] = true;
        }
    }
}

/* Points inputs at clones where there are any. */
static void redirect(const recompute *r, lks_node *node)
{
    for (int i = 0; i < node->input_count; ++i) {
        const lks_tensor *root = dropped_root(r, node->inputs[i]);
        if (root != NULL && r->clones[root->id] != NULL)
            node->inputs[i] =
                lks_tensor_view(r->graph, r->clones[root->id], node->inputs[i]->shape);
    }
}

/* An output of a clone: one memory per root, and no second contribution to a statistic. */
static lks_tensor *output_clone(recompute *r, lks_tensor *output)
{
    if (output == NULL)
        return NULL;
    lks_tensor *root = output->root;
    if (dropped_root(r, output) == NULL)
        return lks_tensor_like(r->graph, output);
    if (r->clones[root->id] == NULL)
        r->clones[root->id] = lks_tensor_like(r->graph, root);
    return lks_tensor_view(r->graph, r->clones[root->id], output->shape);
}

static lks_status node_clone(recompute *r, const lks_node *node)
{
    lks_graph *graph = r->graph;
    size_t bytes = (size_t)node->input_count * sizeof *node->inputs;
    lks_node *clone = lks_arena_allocate(graph->arena, sizeof *clone);
    lks_tensor **inputs = lks_arena_allocate(graph->arena, bytes + 1);
    lks_tensor **outputs =
        lks_arena_allocate(graph->arena, (size_t)node->output_count * sizeof *outputs + 1);
    if (clone == NULL || inputs == NULL || outputs == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a node of the graph");
    *clone = *node;
    memcpy(inputs, node->inputs, bytes);
    clone->inputs = inputs;
    clone->outputs = outputs;
    redirect(r, clone);
    for (int o = 0; o < node->output_count; ++o)
        outputs[o] = output_clone(r, node->outputs[o]);
    LKS_TRY(lks_graph_status(graph));
    return lks_node_list_add(r->out, clone);
}

static bool writes_needed(const recompute *r, const lks_node *node)
{
    for (int o = 0; o < node->output_count; ++o)
        if (node->outputs[o] != NULL && r->needed[node->outputs[o]->root->id])
            return true;
    return false;
}

/* Marks the dropped inputs of `node` that have no clone yet, and adds where they are made to
 * `where`. */
static void need_inputs(recompute *r, const lks_node *node, stretch *where)
{
    for (int i = 0; i < node->input_count; ++i) {
        const lks_tensor *root = dropped_root(r, node->inputs[i]);
        if (root == NULL || r->clones[root->id] != NULL)
            continue;
        const stretch *region = &r->regions[root->producer->region];
        r->needed[root->id] = true;
        where->first = region->first < where->first ? region->first : where->first;
        where->end = region->end > where->end ? region->end : where->end;
    }
}

static void forget_needed(recompute *r, const lks_node *node)
{
    for (int o = 0; o < node->output_count; ++o)
        if (node->outputs[o] != NULL)
            r->needed[node->outputs[o]->root->id] = false;
}

/* What is dropped is made of its own region's tensors and of kept ones, so the regions of the
 * reader's inputs hold all ancestors. */
static lks_status clone_ancestors(recompute *r, const lks_node *reader)
{
    stretch where = {r->forward->count, 0};
    need_inputs(r, reader, &where);
    for (size_t n = where.end; n-- > where.first;)
        if (writes_needed(r, r->forward->nodes[n]))
            need_inputs(r, r->forward->nodes[n], &where);
    for (size_t n = where.first; n < where.end; ++n)
        if (writes_needed(r, r->forward->nodes[n]))
            LKS_TRY(node_clone(r, r->forward->nodes[n]));
    for (size_t n = where.first; n < where.end; ++n)
        forget_needed(r, r->forward->nodes[n]);
    return LKS_OK;
}

lks_status lks_recompute_insert(lks_graph *graph, const lks_node_list *forward,
                                const lks_node_list *backward, lks_node_list *out)
{
    recompute r = {graph, forward, out, graph->tensor_count, NULL, NULL, NULL, NULL};
    lks_status status;
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&r.kept, r.tensor_count), done);
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&r.needed, r.tensor_count), done);
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&r.clones, r.tensor_count), done);
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&r.regions, (size_t)graph->region_count), done);
    find_regions(&r);
    mark_kept(&r);
    for (size_t n = 0; n < backward->count; ++n) {
        LKS_TRY_GOTO(status, clone_ancestors(&r, backward->nodes[n]), done);
        redirect(&r, backward->nodes[n]);
        LKS_TRY_GOTO(status, lks_node_list_add(out, backward->nodes[n]), done);
    }
    status = lks_graph_status(graph);
done:
    lks_memory_free(r.kept);
    lks_memory_free(r.needed);
    lks_memory_free(r.clones);
    lks_memory_free(r.regions);
    return status;
}
