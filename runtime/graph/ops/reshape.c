#include "runtime/graph/op_driver.h"

static const lks_op reshape_op = {"reshape", "the same elements in another shape: a view", NULL};

lks_tensor *lks_op_reshape(lks_graph *graph, lks_tensor *x, lks_shape shape)
{
    if (!lks_op_ready(graph, &reshape_op, LKS_TENSORS(x)))
        return NULL;
    bool good = shape.axes >= 0 && shape.axes <= LKS_AXES_MAX;
    for (int i = 0; good && i < shape.axes; ++i)
        good = shape.size[i] >= 1;
    if (!good || lks_tensor_elements(x) != (int64_t)lks_shape_elements(&shape)) {
        lks_graph_refuse(graph,
                         "reshape: x is %s and the new shape %s; both must have as many "
                         "elements",
                         LKS_SHAPE_OF(x), lks_shape_text(&shape, (char[160]){0}, 160));
        return NULL;
    }
    return lks_tensor_view(graph, x, shape);
}
