#include "runtime/graph/op_driver.h"

static void slice_differentiate(lks_graph *graph, const lks_node *node)
{
    lks_node_append(graph, NULL, "unslice", node->attributes, sizeof(lks_slice_attributes),
                    LKS_TENSORS(lks_gradient_of(graph, node->outputs[0])),
                    LKS_TENSORS(lks_gradient_target(graph, node->inputs[0])));
}

static const lks_op slice_op = {"slice", "a range of one axis", slice_differentiate};

static void unslice_differentiate(lks_graph *graph, const lks_node *node)
{
    if (lks_gradient_wanted(node->inputs[0]))
        lks_node_append(graph, NULL, "slice", node->attributes, sizeof(lks_slice_attributes),
                        LKS_TENSORS(lks_gradient_of(graph, node->outputs[0])),
                        LKS_TENSORS(lks_gradient_target(graph, node->inputs[0])));
}

static const lks_op concatenate_op = {"concatenate", "tensors side by side along one axis",
                                      unslice_differentiate};

/* The view of `shape` as outer x middle x inner around `axis`. */
static lks_slice_attributes view_around(const lks_shape *shape, int axis)
{
    lks_slice_attributes view = {1, shape->size[axis], 1, 0, 0};
    for (int i = 0; i < shape->axes; ++i)
        *(i < axis ? &view.outer : &view.inner) *= i == axis ? 1 : shape->size[i];
    return view;
}

lks_tensor *lks_op_slice(lks_graph *graph, lks_tensor *x, int axis, int64_t begin, int64_t end)
{
    if (!lks_op_ready(graph, &slice_op, LKS_TENSORS(x)))
        return NULL;
    lks_shape shape = x->shape;
    if (axis < 0 || axis >= shape.axes || begin < 0 || begin >= end || end > shape.size[axis]) {
        lks_graph_refuse(graph,
                         "slice: [%lld, %lld) of axis %d, with x of %s; the range must lie "
                         "in that axis and not be empty",
                         (long long)begin, (long long)end, axis, LKS_SHAPE_OF(x));
        return NULL;
    }
    lks_slice_attributes attributes = view_around(&shape, axis);
    attributes.begin = begin;
    attributes.length = shape.size[axis] = end - begin;
    lks_tensor *y = lks_tensor_create(graph, x->dtype, shape);
    lks_node_append(graph, &slice_op, "slice", &attributes, sizeof attributes, LKS_TENSORS(x),
                    LKS_TENSORS(y));
    return y;
}

static bool concatenate_check(lks_graph *graph, lks_tensor *const *parts, int count, int axis,
                              lks_shape *shape)
{
    if (count < 1) {
        lks_graph_refuse(graph, "concatenate: no parts were given");
        return false;
    }
    if (!lks_op_ready(graph, &concatenate_op, parts, count))
        return false;
    *shape = parts[0]->shape;
    if (axis < 0 || axis >= shape->axes) {
        lks_graph_refuse(graph, "concatenate: the first part is %s; it has no axis %d",
                         LKS_SHAPE_OF(parts[0]), axis);
        return false;
    }
    int64_t length = 0;
    for (int i = 0; i < count; ++i) {
        if (!lks_op_wants_number(graph, &concatenate_op, "a part", parts[i]))
            return false;
        shape->size[axis] = parts[i]->shape.axes > axis ? parts[i]->shape.size[axis] : 0;
        if (!lks_shape_equal(&parts[i]->shape, shape)) {
            lks_graph_refuse(graph,
                             "concatenate: the first part is %s and part %d is %s; they may "
                             "differ in axis %d alone",
                             LKS_SHAPE_OF(parts[0]), i + 1, LKS_SHAPE_OF(parts[i]), axis);
            return false;
        }
        length += shape->size[axis];
    }
    shape->size[axis] = length;
    return true;
}

lks_tensor *lks_op_concatenate(lks_graph *graph, lks_tensor *const *parts, int count, int axis)
{
    lks_shape shape;
    if (!concatenate_check(graph, parts, count, axis, &shape))
        return NULL;
    lks_tensor *y = lks_tensor_number(graph, shape);
    lks_slice_attributes attributes = view_around(&shape, axis);
    for (int i = 0; i < count; ++i) {
        attributes.length = parts[i]->shape.size[axis];
        lks_node_append(graph, &concatenate_op, "unslice", &attributes, sizeof attributes,
                        LKS_TENSORS(parts[i]), LKS_TENSORS(y));
        attributes.begin += attributes.length;
    }
    return y;
}
