#include "runtime/graph/op_driver.h"

static void permute_differentiate(lks_graph *graph, const lks_node *node)
{
    const lks_permute_attributes *forward = node->attributes;
    lks_tensor *x = node->inputs[0];
    lks_permute_attributes inverse = {{0}};
    for (int i = 0; i < x->shape.axes; ++i)
        inverse.order[forward->order[i]] = i;
    lks_node_append(graph, NULL, "permute", &inverse, sizeof inverse,
                    LKS_TENSORS(lks_gradient_of(graph, node->outputs[0])),
                    LKS_TENSORS(lks_gradient_target(graph, x)));
}

static const lks_op permute_op = {"permute", "the axes in another order", permute_differentiate};

lks_tensor *lks_op_permute(lks_graph *graph, lks_tensor *x, const int *order)
{
    if (!lks_op_ready(graph, &permute_op, LKS_TENSORS(x)) ||
        !lks_op_wants_number(graph, &permute_op, "x", x))
        return NULL;
    lks_permute_attributes attributes = {{0}};
    lks_shape shape = x->shape;
    unsigned seen = 0;
    for (int i = 0; i < x->shape.axes; ++i) {
        int axis = order[i];
        if (axis < 0 || axis >= x->shape.axes || (seen >> axis & 1)) {
            lks_graph_refuse(graph,
                             "permute: axis %d at place %d, with x of %s; the order must "
                             "name each axis once",
                             axis, i, LKS_SHAPE_OF(x));
            return NULL;
        }
        seen |= 1u << axis;
        attributes.order[i] = axis;
        shape.size[i] = x->shape.size[axis];
    }
    lks_tensor *y = lks_tensor_number(graph, shape);
    lks_node_append(graph, &permute_op, "permute", &attributes, sizeof attributes, LKS_TENSORS(x),
                    LKS_TENSORS(y));
    return y;
}
