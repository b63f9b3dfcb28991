#include "runtime/graph/op_driver.h"

static void softmax_differentiate(lks_graph *graph, const lks_node *node)
{
    lks_tensor *y = node->outputs[0];
    lks_node *grad =
        lks_node_append(graph, NULL, "softmax_grad", node->attributes,
                        sizeof(lks_softmax_attributes), LKS_TENSORS(lks_gradient_of(graph, y), y),
                        LKS_TENSORS(lks_gradient_target(graph, node->inputs[0])));
    lks_node_share(grad, 0);
}

static const lks_op softmax_op = {"softmax", "softmax over the last axis", softmax_differentiate};

lks_tensor *lks_op_softmax(lks_graph *graph, lks_tensor *x, bool causal)
{
    if (!lks_op_ready(graph, &softmax_op, LKS_TENSORS(x)) ||
        !lks_op_wants_number(graph, &softmax_op, "x", x))
        return NULL;
    if (x->shape.axes < (causal ? 2 : 1)) {
        lks_graph_refuse(graph, "softmax: x is %s; it must have at least %d axes", LKS_SHAPE_OF(x),
                         causal ? 2 : 1);
        return NULL;
    }
    lks_softmax_attributes attributes = {causal};
    lks_tensor *y = lks_tensor_like(graph, x);
    lks_node_share(lks_node_append(graph, &softmax_op, "softmax", &attributes, sizeof attributes,
                                   LKS_TENSORS(x), LKS_TENSORS(y)),
                   0);
    return y;
}
