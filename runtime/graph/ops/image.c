#include "runtime/graph/op_driver.h"

static const lks_op image_op = {"image", "u8 pixels to f32, shifted and scaled per channel", NULL};

lks_tensor *lks_op_image(lks_graph *graph, lks_tensor *x, lks_tensor *shift, lks_tensor *scale)
{
    const lks_op *op = &image_op;
    if (!lks_op_ready(graph, op, LKS_TENSORS(x, shift, scale)) ||
        !lks_op_wants(graph, op, "x", x, LKS_U8))
        return NULL;
    if (x->shape.axes != 4)
        lks_graph_refuse(graph, "image: x is %s; it must be B x H x W x C", LKS_SHAPE_OF(x));
    else if (lks_gradient_wanted(shift) || lks_gradient_wanted(scale))
        lks_graph_refuse(graph, "image: shift and scale must be constants; nothing learns them");
    shift = lks_tensor_exact(graph, shift);
    scale = lks_tensor_exact(graph, scale);
    if (!lks_op_wants(graph, op, "shift", shift, LKS_F32) ||
        !lks_op_wants(graph, op, "scale", scale, LKS_F32))
        return NULL;
    lks_shape channels = LKS_SHAPE(lks_tensor_last(x));
    if (!lks_op_wants_shape(graph, op, "shift", shift, channels, x, "x") ||
        !lks_op_wants_shape(graph, op, "scale", scale, channels, x, "x"))
        return NULL;
    lks_tensor *y = lks_tensor_number(graph, x->shape);
    lks_node_append(graph, op, "image", NULL, 0, LKS_TENSORS(x, shift, scale), LKS_TENSORS(y));
    return y;
}
