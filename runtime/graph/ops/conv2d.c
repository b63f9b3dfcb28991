#include "runtime/graph/op_driver.h"

static void conv2d_differentiate(lks_graph *graph, const lks_node *node)
{
    size_t bytes = sizeof(lks_conv2d_attributes);
    lks_tensor *x = node->inputs[0], *weight = node->inputs[1], *bias = node->inputs[2];
    lks_tensor *dy = lks_gradient_of(graph, node->outputs[0]);
    if (lks_gradient_wanted(weight) || lks_gradient_wanted(bias))
        lks_node_append(graph, NULL, "conv2d_grad_weight", node->attributes, bytes,
                        LKS_TENSORS(dy, x),
                        LKS_TENSORS(lks_gradient_target_or_scratch(graph, weight),
                                    lks_gradient_target(graph, bias)));
    if (lks_gradient_wanted(x))
        lks_node_append(graph, NULL, "conv2d_grad_input", node->attributes, bytes,
                        LKS_TENSORS(dy, weight), LKS_TENSORS(lks_gradient_target(graph, x)));
}

static const lks_op conv2d_op = {
    "conv2d", "convolution of B x H x W x C with Co x KH x KW x Ci/groups", conv2d_differentiate};

static bool conv2d_check(lks_graph *graph, const lks_tensor *x, const lks_tensor *weight,
                         const lks_conv2d_attributes *a)
{
    if (!lks_op_wants_number(graph, &conv2d_op, "x", x) ||
        !lks_op_wants_number(graph, &conv2d_op, "weight", weight))
        return false;
    const int64_t *xs = x->shape.size, *ws = weight->shape.size;
    if (a->stride < 1 || a->padding < 0 || a->groups < 1)
        lks_graph_refuse(graph,
                         "conv2d: stride %d, padding %d, groups %d; they must be at least "
                         "1, 0 and 1",
                         a->stride, a->padding, a->groups);
    else if (x->shape.axes != 4 || weight->shape.axes != 4)
        lks_graph_refuse(graph, "conv2d: x is %s and weight %s; both must have four axes",
                         LKS_SHAPE_OF(x), LKS_SHAPE_OF(weight));
    else if (xs[3] % a->groups != 0 || ws[0] % a->groups != 0 || ws[3] != xs[3] / a->groups)
        lks_graph_refuse(graph,
                         "conv2d: x is %s and weight %s; with %d groups weight must be "
                         "Co x KH x KW x C/groups and the groups must divide Co and C",
                         LKS_SHAPE_OF(x), LKS_SHAPE_OF(weight), a->groups);
    else if (xs[1] + 2 * (int64_t)a->padding < ws[1] || xs[2] + 2 * (int64_t)a->padding < ws[2])
        lks_graph_refuse(graph, "conv2d: x of %s with padding %d is smaller than weight of %s",
                         LKS_SHAPE_OF(x), a->padding, LKS_SHAPE_OF(weight));
    else
        return true;
    return false;
}

lks_tensor *lks_op_conv2d(lks_graph *graph, lks_tensor *x, lks_tensor *weight, lks_tensor *bias,
                          int stride, int padding, int groups)
{
    lks_conv2d_attributes a = {stride, padding, groups};
    if (!lks_op_ready(graph, &conv2d_op, LKS_TENSORS(x, weight)) ||
        !conv2d_check(graph, x, weight, &a) ||
        !lks_op_wants_shape(graph, &conv2d_op, "bias", bias, LKS_SHAPE(weight->shape.size[0]),
                            weight, "weight"))
        return NULL;
    const int64_t *xs = x->shape.size, *ws = weight->shape.size;
    int64_t height = (xs[1] + 2 * (int64_t)padding - ws[1]) / stride + 1;
    int64_t width = (xs[2] + 2 * (int64_t)padding - ws[2]) / stride + 1;
    lks_tensor *y = lks_tensor_number(graph, LKS_SHAPE(xs[0], height, width, ws[0]));
    lks_node_append(graph, &conv2d_op, "conv2d", &a, sizeof a, LKS_TENSORS(x, weight, bias),
                    LKS_TENSORS(y));
    return y;
}
