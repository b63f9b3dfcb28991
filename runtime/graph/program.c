#include "runtime/graph/program.h"

static lks_status check_complete(const lks_graph *graph)
{
    LKS_TRY(lks_graph_status(graph));
    if (graph->region >= 0)
        return LKS_FAIL(LKS_ERR_USAGE, "the model begins to recompute and never ends it");
    if (graph->mode != LKS_GRAPH_PREDICT && graph->loss == NULL)
        return LKS_FAIL(LKS_ERR_USAGE, "the model has no loss: it must call lks_graph_loss");
    if (graph->mode == LKS_GRAPH_PREDICT && graph->output_count == 0)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "the model has nothing to predict: it must call lks_graph_output");
    return LKS_OK;
}

static bool writes_needed(const lks_node *node, const bool *needed)
{
    for (int o = 0; o < node->output_count; ++o)
        if (node->outputs[o] != NULL && needed[node->outputs[o]->root->id])
            return true;
    return false;
}

/* Marks the forward nodes on which the loss (or, to predict, an output) depends. */
static void mark_live(const lks_graph *graph, bool *needed, bool *live)
{
    if (graph->mode != LKS_GRAPH_PREDICT)
        needed[graph->loss->root->id] = true;
    else
        for (size_t i = 0; i < graph->output_count; ++i)
            needed[graph->outputs[i].tensor->root->id] = true;
    for (size_t n = graph->forward.count; n-- > 0;) {
        const lks_node *node = graph->forward.nodes[n];
        live[n] = writes_needed(node, needed);
        for (int i = 0; live[n] && i < node->input_count; ++i)
            if (node->inputs[i] != NULL)
                needed[node->inputs[i]->root->id] = true;
    }
}

static lks_status copy_live(const lks_graph *graph, lks_node_list *out)
{
    bool *needed = NULL, *live = NULL;
    lks_status status;
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&needed, graph->tensor_count), done);
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&live, graph->forward.count), done);
    mark_live(graph, needed, live);
    for (size_t n = 0; n < graph->forward.count && status == LKS_OK; ++n)
        if (live[n])
            status = lks_node_list_add(out, graph->forward.nodes[n]);
done:
    lks_memory_free(needed);
    lks_memory_free(live);
    return status;
}

static void mark_slots(const lks_node_list *list, bool *written)
{
    for (size_t n = 0; n < list->count; ++n)
        for (int o = 0; o < list->nodes[n]->output_count; ++o) {
            const lks_tensor *output = list->nodes[n]->outputs[o];
            if (output != NULL && output->root->place == LKS_PLACE_GRADIENT)
                written[output->root->index] = true;
        }
}

/* A layout tensor that no node contributes to gets a gradient of 0. */
static lks_status append_zeros(lks_graph *graph, const bool *written, lks_node_list *out)
{
    lks_tensor *zero = NULL;
    graph->sink = out;
    for (uint32_t t = 0; t < graph->layout->tensor_count; ++t) {
        if (written[t])
            continue;
        if (zero == NULL)
            zero = lks_tensor_exact(graph, lks_constant(graph, LKS_SHAPE(1), (float[]){0}));
        lks_tensor *slot = lks_graph_slot(graph, t);
        if (zero == NULL || slot == NULL)
            break;
        lks_reduce_attributes fill = {1, lks_tensor_elements(slot), 1, 1.0f};
        lks_node_append(graph, NULL, "expand", &fill, sizeof fill, LKS_TENSORS(zero),
                        LKS_TENSORS(slot));
    }
    graph->sink = &graph->forward;
    return lks_graph_status(graph);
}

static lks_status append_backward(lks_program *program, lks_graph *graph)
{
    lks_node_list backward = {0}, forward = {0};
    bool *written = NULL;
    lks_status status;
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&written, graph->layout->tensor_count), done);
    LKS_TRY_GOTO(status, lks_backward_append(graph, &program->nodes, &backward), done);
    mark_slots(&program->nodes, written);
    mark_slots(&backward, written);
    forward = program->nodes;
    program->nodes = (lks_node_list){0};
    for (size_t n = 0; n < forward.count; ++n)
        LKS_TRY_GOTO(status, lks_node_list_add(&program->nodes, forward.nodes[n]), done);
    LKS_TRY_GOTO(status, append_zeros(graph, written, &program->nodes), done);
    status = lks_recompute_insert(graph, &forward, &backward, &program->nodes);
done:
    lks_memory_free(written);
    lks_node_list_release(&forward);
    lks_node_list_release(&backward);
    return status;
}

lks_status lks_program_build(lks_program *out, lks_graph *graph)
{
    *out = (lks_program){0};
    LKS_TRY(check_complete(graph));
    lks_status status;
    LKS_TRY_GOTO(status, copy_live(graph, &out->nodes), release);
    out->backward_start = out->nodes.count;
    if (graph->mode == LKS_GRAPH_TRAIN)
        LKS_TRY_GOTO(status, append_backward(out, graph), release);
    return LKS_OK;
release:
    lks_program_release(out);
    return status;
}

void lks_program_release(lks_program *program)
{
    lks_node_list_release(&program->nodes);
}
