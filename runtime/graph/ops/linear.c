#include "runtime/graph/op_driver.h"

static void linear_differentiate_input(lks_graph *graph, lks_tensor *dz, lks_tensor *x,
                                       lks_tensor *weight)
{
    lks_linear_attributes behind = {LKS_IDENTITY};
    lks_tensor *saved = lks_gradient_through(graph, x, &behind.activation);
    lks_node_append(graph, NULL, "linear_grad_input", saved != NULL ? &behind : NULL, sizeof behind,
                    LKS_TENSORS(dz, weight, saved), LKS_TENSORS(lks_gradient_target(graph, x)));
}

static void linear_differentiate(lks_graph *graph, const lks_node *node)
{
    const lks_linear_attributes *attributes = node->attributes;
    lks_tensor *x = node->inputs[0], *weight = node->inputs[1], *bias = node->inputs[2];
    lks_tensor *y = node->outputs[0];
    lks_tensor *dz = lks_gradient_of(graph, y);
    if (attributes->activation != LKS_IDENTITY && !lks_gradient_is_through(y)) {
        lks_tensor *dy = dz;
        dz = lks_tensor_like(graph, y);
        lks_node_share(lks_node_append(graph, NULL, "activation_grad", attributes,
                                       sizeof *attributes, LKS_TENSORS(dy, node->saved),
                                       LKS_TENSORS(dz)),
                       0);
    }
    if (lks_gradient_wanted(weight) || lks_gradient_wanted(bias))
        lks_node_append(graph, NULL, "linear_grad_weight", NULL, 0, LKS_TENSORS(dz, x),
                        LKS_TENSORS(lks_gradient_target_or_scratch(graph, weight),
                                    lks_gradient_target(graph, bias)));
    if (lks_gradient_wanted(x))
        linear_differentiate_input(graph, dz, x, weight);
}

static const lks_op linear_op = {"linear", "y = activation(x weight^T + bias)",
                                 linear_differentiate};

static bool linear_check(lks_graph *graph, const lks_tensor *x, const lks_tensor *weight,
                         const lks_tensor *bias)
{
    if (!lks_op_wants_number(graph, &linear_op, "x", x) ||
        !lks_op_wants_number(graph, &linear_op, "weight", weight))
        return false;
    if (x->shape.axes < 1 || weight->shape.axes != 2 ||
        lks_tensor_last(x) != lks_tensor_last(weight)) {
        lks_graph_refuse(
            graph, "linear: x is %s and weight %s; weight must be N x K, K the last axis of x",
            LKS_SHAPE_OF(x), LKS_SHAPE_OF(weight));
        return false;
    }
    return lks_op_wants_shape(graph, &linear_op, "bias", bias, LKS_SHAPE(weight->shape.size[0]),
                              weight, "weight");
}

lks_tensor *lks_op_linear(lks_graph *graph, lks_tensor *x, lks_tensor *weight, lks_tensor *bias,
                          lks_activation activation)
{
    if (!lks_op_ready(graph, &linear_op, LKS_TENSORS(x, weight)) ||
        !linear_check(graph, x, weight, bias))
        return NULL;
    lks_shape shape = x->shape;
    shape.size[shape.axes - 1] = weight->shape.size[0];
    bool differentiated =
        lks_gradient_wanted(x) || lks_gradient_wanted(weight) || lks_gradient_wanted(bias);
    lks_tensor *y = lks_tensor_number(graph, shape);
    lks_tensor *rows = lks_tensor_rows(graph, y), *pre = NULL;
    if (activation == LKS_GELU && differentiated && rows != NULL)
        pre = lks_tensor_like(graph, rows);
    lks_linear_attributes attributes = {activation};
    lks_node *node = lks_node_append(graph, &linear_op, "linear", &attributes, sizeof attributes,
                                     LKS_TENSORS(lks_tensor_rows(graph, x), weight, bias),
                                     LKS_TENSORS(rows, pre));
    lks_node_activates(node, activation, activation == LKS_GELU ? pre : rows);
    return y;
}
