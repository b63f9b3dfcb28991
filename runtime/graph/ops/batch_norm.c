#include "runtime/graph/op_driver.h"

static void batch_norm_differentiate(lks_graph *graph, const lks_node *node)
{
    const lks_batch_norm_attributes *attributes = node->attributes;
    lks_tensor *x = node->inputs[0], *gain = node->inputs[1], *bias = node->inputs[2];
    lks_tensor *residual = node->inputs[5], *y = node->outputs[0];
    lks_tensor *dy = lks_gradient_of(graph, y), *dresidual = NULL;
    bool masked = attributes->activation == LKS_RELU;
    if (residual != NULL && masked)
        dresidual = lks_gradient_target(graph, residual);
    lks_node_append(graph, NULL, "batch_norm_grad", attributes, sizeof *attributes,
                    LKS_TENSORS(x, gain, node->outputs[1], node->outputs[2], masked ? y : NULL, dy),
                    LKS_TENSORS(lks_gradient_target_or_scratch(graph, x),
                                lks_gradient_target_or_scratch(graph, gain),
                                lks_gradient_target_or_scratch(graph, bias), dresidual));
    if (!masked)
        lks_gradient_add(graph, residual, dy);
}

static const lks_op batch_norm_op = {"batch_norm", "activation(batch_norm(x) + residual)",
                                     batch_norm_differentiate};

static bool batch_norm_check(lks_graph *graph, const lks_tensor *x, lks_tensor *const channels[4],
                             const lks_tensor *residual, lks_activation activation)
{
    static const char *const roles[4] = {"gain", "bias", "mean", "variance"};
    const lks_op *op = &batch_norm_op;
    if (!lks_op_wants_number(graph, op, "x", x))
        return false;
    if (x->shape.axes < 2)
        lks_graph_refuse(graph, "batch_norm: x is %s; it must have an axis before its channels",
                         LKS_SHAPE_OF(x));
    for (int i = 0; i < 4; ++i) {
        if (!lks_op_wants_shape(graph, op, roles[i], channels[i], LKS_SHAPE(lks_tensor_last(x)), x,
                                "x"))
            return false;
        for (int j = 0; j < i; ++j)
            if (channels[i] == channels[j])
                lks_graph_refuse(graph, "batch_norm: %s and %s are one tensor; they must be two",
                                 roles[j], roles[i]);
    }
    if (!lks_tensor_is_buffer(channels[2]) || !lks_tensor_is_buffer(channels[3]))
        lks_graph_refuse(graph, "batch_norm: mean and variance must come from lks_buffer");
    else if (activation != LKS_IDENTITY && activation != LKS_RELU)
        lks_graph_refuse(graph, "batch_norm: the activation must be identity or relu");
    else if (residual == x)
        lks_graph_refuse(graph, "batch_norm: x and residual are one tensor; they must be two");
    return lks_op_wants_shape(graph, op, "residual", residual, x->shape, x, "x");
}

lks_tensor *lks_op_batch_norm(lks_graph *graph, lks_tensor *x, lks_tensor *gain, lks_tensor *bias,
                              lks_tensor *mean, lks_tensor *variance, lks_tensor *residual,
                              lks_activation activation, double epsilon)
{
    lks_tensor *const channels[4] = {gain, bias, mean, variance};
    if (!lks_op_ready(graph, &batch_norm_op, LKS_TENSORS(x, gain, bias, mean, variance)) ||
        !batch_norm_check(graph, x, channels, residual, activation))
        return NULL;
    bool training = lks_graph_get_mode(graph) == LKS_GRAPH_TRAIN;
    lks_tensor *y = lks_tensor_like(graph, x), *saved_mean = NULL, *saved_rstd = NULL;
    lks_tensor *mean_stat = NULL, *variance_stat = NULL;
    if (training) {
        saved_mean = lks_tensor_like(graph, mean);
        saved_rstd = lks_tensor_like(graph, mean);
        mean_stat = lks_buffer_statistic(graph, mean);
        variance_stat = lks_buffer_statistic(graph, variance);
    }
    lks_batch_norm_attributes attributes = {(float)epsilon, activation, training};
    lks_node_append(graph, &batch_norm_op, "batch_norm", &attributes, sizeof attributes,
                    LKS_TENSORS(x, gain, bias, mean, variance, residual),
                    LKS_TENSORS(y, saved_mean, saved_rstd, mean_stat, variance_stat));
    return y;
}
