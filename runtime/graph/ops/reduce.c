#include "runtime/graph/op_driver.h"

static void reduce_differentiate(lks_graph *graph, const lks_node *node)
{
    lks_node_append(graph, NULL, "expand", node->attributes, sizeof(lks_reduce_attributes),
                    LKS_TENSORS(lks_gradient_of(graph, node->outputs[0])),
                    LKS_TENSORS(lks_gradient_target(graph, node->inputs[0])));
}

static const lks_op reduce_op = {"reduce", "the sum or mean over one axis", reduce_differentiate};

/* Sums over `count` axes from `axis` on. */
static lks_tensor *reduce_append(lks_graph *graph, lks_tensor *x, int axis, int count, bool mean)
{
    if (!lks_op_ready(graph, &reduce_op, LKS_TENSORS(x)) ||
        !lks_op_wants_number(graph, &reduce_op, "x", x))
        return NULL;
    if (axis < 0 || axis >= x->shape.axes) {
        lks_graph_refuse(graph, "reduce: x is %s; it has no axis %d", LKS_SHAPE_OF(x), axis);
        return NULL;
    }
    lks_reduce_attributes attributes = {1, 1, 1, 1.0f};
    lks_shape shape = {0, {0}};
    for (int i = 0; i < x->shape.axes; ++i) {
        int64_t size = x->shape.size[i];
        *(i < axis           ? &attributes.outer
          : i < axis + count ? &attributes.middle
                             : &attributes.inner) *= size;
        if (i < axis || i >= axis + count)
            shape.size[shape.axes++] = size;
    }
    if (mean)
        attributes.scale = (float)(1.0 / (double)attributes.middle);
    lks_tensor *y = lks_tensor_number(graph, shape);
    lks_node_append(graph, &reduce_op, "reduce", &attributes, sizeof attributes, LKS_TENSORS(x),
                    LKS_TENSORS(y));
    return y;
}

lks_tensor *lks_op_reduce_sum(lks_graph *graph, lks_tensor *x, int axis)
{
    return reduce_append(graph, x, axis, 1, false);
}

lks_tensor *lks_op_reduce_mean(lks_graph *graph, lks_tensor *x, int axis)
{
    return reduce_append(graph, x, axis, 1, true);
}

lks_tensor *lks_op_global_mean(lks_graph *graph, lks_tensor *x)
{
    if (x != NULL && x->shape.axes != 4) {
        lks_graph_refuse(graph, "global_mean: x is %s; it must be B x H x W x C", LKS_SHAPE_OF(x));
        return NULL;
    }
    return reduce_append(graph, x, 1, 2, true);
}
