#include "runtime/graph/op_driver.h"

static void squared_error_differentiate(lks_graph *graph, const lks_node *node)
{
    lks_tensor *prediction = node->inputs[0], *target = node->inputs[1];
    if (!lks_gradient_wanted(prediction))
        return;
    lks_tensor *gradient = lks_tensor_like(graph, prediction);
    lks_node_append(graph, NULL, "squared_error_grad", NULL, 0, LKS_TENSORS(prediction, target),
                    LKS_TENSORS(gradient));
    lks_gradient_add(graph, prediction, gradient);
}

static const lks_op squared_error_op = {
    "squared_error", "the sum over rows of the mean squared error", squared_error_differentiate};

lks_tensor *lks_op_squared_error(lks_graph *graph, lks_tensor *prediction, lks_tensor *target)
{
    const lks_op *op = &squared_error_op;
    target = lks_tensor_exact(graph, target);
    if (!lks_op_ready(graph, op, LKS_TENSORS(prediction, target)) ||
        !lks_op_wants_number(graph, op, "prediction", prediction) ||
        !lks_op_wants_number(graph, op, "target", target))
        return NULL;
    /* A target of B goes with a prediction of B x 1. */
    if (prediction->shape.axes < 1 || target->shape.size[0] != prediction->shape.size[0] ||
        lks_tensor_elements(target) != lks_tensor_elements(prediction)) {
        lks_graph_refuse(graph,
                         "squared_error: the prediction is %s and the target %s; they must match",
                         LKS_SHAPE_OF(prediction), LKS_SHAPE_OF(target));
        return NULL;
    }
    lks_tensor *rows = lks_tensor_rows(graph, prediction);
    lks_tensor *stats = lks_tensor_create(graph, LKS_F64, LKS_SHAPE(3));
    if (rows != NULL)
        lks_node_append(graph, op, "squared_error", NULL, 0,
                        LKS_TENSORS(rows, lks_tensor_view(graph, target, rows->shape)),
                        LKS_TENSORS(stats));
    return stats;
}
