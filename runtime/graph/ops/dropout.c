#include "runtime/graph/op_driver.h"

static void dropout_differentiate(lks_graph *graph, const lks_node *node)
{
    lks_tensor *dy = lks_gradient_of(graph, node->outputs[0]);
    lks_node *grad = lks_node_append(graph, NULL, "dropout", node->attributes,
                                     sizeof(lks_dropout_attributes), LKS_TENSORS(dy, NULL),
                                     LKS_TENSORS(lks_gradient_target(graph, node->inputs[0])));
    lks_node_share(grad, 0);
}

static const lks_op dropout_op = {"dropout", "zeroes elements at random, scales the others",
                                  dropout_differentiate};

lks_tensor *lks_op_dropout(lks_graph *graph, lks_tensor *x, double rate)
{
    uint32_t instance = lks_graph_random_instance(graph);
    if (!lks_op_ready(graph, &dropout_op, LKS_TENSORS(x)) ||
        !lks_op_wants_number(graph, &dropout_op, "x", x))
        return NULL;
    if (!(rate >= 0 && rate < 1)) {
        lks_graph_refuse(graph, "dropout: a rate of %g; it must be in [0, 1)", rate);
        return NULL;
    }
    if (x->shape.axes < 1 || x->shape.size[0] != lks_graph_micro_batch(graph)) {
        lks_graph_refuse(graph, "dropout: x is %s; its first axis must be the micro-batch of %lld",
                         LKS_SHAPE_OF(x), (long long)lks_graph_micro_batch(graph));
        return NULL;
    }
    if (rate == 0 || lks_graph_get_mode(graph) != LKS_GRAPH_TRAIN)
        return x;
    lks_dropout_attributes attributes = {(float)rate, instance};
    lks_tensor *y = lks_tensor_like(graph, x);
    lks_node_share(lks_node_append(graph, &dropout_op, "dropout", &attributes, sizeof attributes,
                                   LKS_TENSORS(x, NULL), LKS_TENSORS(y)),
                   0);
    return y;
}
