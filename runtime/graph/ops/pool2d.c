#include "runtime/graph/op_driver.h"

static void pool2d_differentiate(lks_graph *graph, const lks_node *node)
{
    lks_tensor *x = node->inputs[0], *y = node->outputs[0];
    lks_node_append(graph, NULL, "pool2d_grad", node->attributes, sizeof(lks_pool2d_attributes),
                    LKS_TENSORS(x, y, lks_gradient_of(graph, y)),
                    LKS_TENSORS(lks_gradient_target(graph, x)));
}

static const lks_op pool2d_op = {"pool2d", "maximum or mean over square windows",
                                 pool2d_differentiate};

lks_tensor *lks_op_pool2d(lks_graph *graph, lks_tensor *x, lks_pool_kind kind, int size, int stride,
                          int padding)
{
    if (!lks_op_ready(graph, &pool2d_op, LKS_TENSORS(x)) ||
        !lks_op_wants_number(graph, &pool2d_op, "x", x))
        return NULL;
    const int64_t *xs = x->shape.size;
    /* A window that lies in the padding alone would have no maximum. */
    if (size < 1 || stride < 1 || padding < 0 || 2 * padding > size) {
        lks_graph_refuse(graph,
                         "pool2d: size %d, stride %d, padding %d; they must be at least 1, "
                         "1 and 0, the padding at most half the size",
                         size, stride, padding);
        return NULL;
    }
    if (x->shape.axes != 4 || xs[1] + 2 * (int64_t)padding < size ||
        xs[2] + 2 * (int64_t)padding < size) {
        lks_graph_refuse(graph, "pool2d: x is %s; it must be B x H x W x C and hold a window of %d",
                         LKS_SHAPE_OF(x), size);
        return NULL;
    }
    int64_t height = (xs[1] + 2 * (int64_t)padding - size) / stride + 1;
    int64_t width = (xs[2] + 2 * (int64_t)padding - size) / stride + 1;
    lks_pool2d_attributes attributes = {kind, size, size, stride, padding};
    lks_tensor *y = lks_tensor_number(graph, LKS_SHAPE(xs[0], height, width, xs[3]));
    lks_node_append(graph, &pool2d_op, "pool2d", &attributes, sizeof attributes, LKS_TENSORS(x),
                    LKS_TENSORS(y));
    return y;
}
