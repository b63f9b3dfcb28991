/* Reverse differentiation over the list of forward nodes.
 *
 * The gradient of a tensor is kept at its root, so a view needs no node. One
 * tensor may be the gradient of several (both sides of a sum): `gradient_users`
 * counts those whose producer is not differentiated yet, and only the gradient
 * of a single one is ever added into.
 */
#include "runtime/graph/program.h"

bool lks_gradient_wanted(const lks_tensor *tensor)
{
    return tensor != NULL && tensor->root->requires_gradient;
}

static void gradient_set(lks_tensor *root, lks_tensor *gradient)
{
    if (root->gradient != NULL)
        --root->gradient->gradient_users;
    root->gradient = gradient != NULL ? gradient->root : NULL;
    if (root->gradient != NULL)
        ++root->gradient->gradient_users;
}

lks_tensor *lks_gradient_of(lks_graph *graph, lks_tensor *tensor)
{
    return tensor != NULL ? lks_tensor_view(graph, tensor->root->gradient, tensor->shape) : NULL;
}

static lks_tensor *slot_of(lks_graph *graph, lks_tensor *tensor)
{
    return lks_tensor_view(graph, lks_graph_slot(graph, tensor->root->index), tensor->shape);
}

lks_tensor *lks_gradient_target(lks_graph *graph, lks_tensor *tensor)
{
    if (!lks_gradient_wanted(tensor) || graph->status != LKS_OK)
        return NULL;
    if (lks_tensor_is_parameter(tensor))
        return slot_of(graph, tensor);
    lks_tensor *root = tensor->root;
    if (root->gradient == NULL || root->gradient->gradient_users > 1) {
        lks_tensor *own = lks_tensor_like(graph, root);
        lks_node_append_copy(graph, root->gradient, own);
        gradient_set(root, own);
    }
    return lks_gradient_of(graph, tensor);
}

lks_tensor *lks_gradient_target_or_scratch(lks_graph *graph, lks_tensor *tensor)
{
    lks_tensor *target = lks_gradient_target(graph, tensor);
    if (target != NULL || tensor == NULL)
        return target;
    return lks_tensor_create(graph, lks_tensor_is_parameter(tensor) ? LKS_F32 : tensor->dtype,
                             tensor->shape);
}

void lks_gradient_add(lks_graph *graph, lks_tensor *tensor, lks_tensor *value)
{
    if (!lks_gradient_wanted(tensor) || value == NULL || graph->status != LKS_OK)
        return;
    if (lks_tensor_is_parameter(tensor)) {
        lks_node_append_copy(graph, value, slot_of(graph, tensor));
        return;
    }
    lks_tensor *root = tensor->root, *so_far = root->gradient;
    if (so_far == NULL) {
        gradient_set(root, value);
        return;
    }
    lks_tensor *sum = lks_tensor_like(graph, root), *addend = value->root;
    bool keep = so_far->gradient_users > 1; /* then rather the value's memory is free to reuse */
    lks_binary_attributes attributes = {LKS_BINARY_ADD};
    lks_node *node =
        lks_node_append(graph, NULL, "binary", &attributes, sizeof attributes,
                        LKS_TENSORS(lks_tensor_view(graph, keep ? addend : so_far, root->shape),
                                    lks_tensor_view(graph, keep ? so_far : addend, root->shape)),
                        LKS_TENSORS(sum));
    lks_node_share(node, 0);
    gradient_set(root, sum);
}

void lks_gradient_replace(lks_graph *graph, lks_tensor *tensor, lks_tensor *value)
{
    if (lks_gradient_wanted(tensor) && graph->status == LKS_OK)
        gradient_set(tensor->root, value);
}

lks_tensor *lks_gradient_through(lks_graph *graph, lks_tensor *tensor, lks_activation *f)
{
    lks_tensor *root = tensor != NULL ? tensor->root : NULL;
    if (!lks_gradient_wanted(root) || root->uses != 1 || root->producer == NULL)
        return NULL;
    const lks_node *producer = root->producer;
    if (producer->activation == LKS_IDENTITY || producer->outputs[0]->root != root)
        return NULL;
    *f = producer->activation;
    root->gradient_through = true;
    return lks_tensor_view(graph, producer->saved, tensor->shape);
}

bool lks_gradient_is_through(const lks_tensor *output)
{
    return output->root->gradient_through;
}

static void count_uses(const lks_node_list *forward)
{
    for (size_t n = 0; n < forward->count; ++n) {
        const lks_node *node = forward->nodes[n];
        for (int i = 0; i < node->input_count; ++i)
            if (node->inputs[i] != NULL)
                ++node->inputs[i]->root->uses;
        for (int o = 0; o < node->output_count; ++o)
            if (node->outputs[o] != NULL && node->outputs[o]->root->producer != node)
                ++node->outputs[o]->root->uses;
    }
}

static bool reaches_loss(const lks_graph *graph, const lks_node *node)
{
    for (int o = 0; o < node->output_count; ++o) {
        const lks_tensor *output = node->outputs[o];
        if (output != NULL && (output->root == graph->loss->root || output->root->gradient != NULL))
            return true;
    }
    return false;
}

/* After the first writer of a tensor is differentiated nobody asks for its gradient. */
static void finish_outputs(const lks_node *node)
{
    for (int o = 0; o < node->output_count; ++o)
        if (node->outputs[o] != NULL && node->outputs[o]->root->producer == node)
            gradient_set(node->outputs[o]->root, NULL);
}

lks_status lks_backward_append(lks_graph *graph, const lks_node_list *forward,
                               lks_node_list *backward)
{
    for (size_t t = 0; t < graph->tensor_count; ++t) {
        graph->tensors[t]->gradient = NULL;
        graph->tensors[t]->gradient_users = 0;
        graph->tensors[t]->uses = 0;
        graph->tensors[t]->gradient_through = false;
    }
    count_uses(forward);
    graph->sink = backward;
    for (size_t i = forward->count; i-- > 0;) {
        const lks_node *node = forward->nodes[i];
        if (!reaches_loss(graph, node))
            continue;
        if (node->op->differentiate != NULL)
            node->op->differentiate(graph, node);
        finish_outputs(node);
    }
    graph->sink = &graph->forward;
    return lks_graph_status(graph);
}
