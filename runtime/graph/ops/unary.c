#include "runtime/graph/op_driver.h"

static void unary_differentiate(lks_graph *graph, const lks_node *node)
{
    const lks_unary_attributes *attributes = node->attributes;
    lks_tensor *x = node->inputs[0], *y = node->outputs[0];
    lks_node *grad = lks_node_append(graph, NULL, "unary_grad", attributes, sizeof *attributes,
                                     LKS_TENSORS(lks_gradient_of(graph, y), x, y),
                                     LKS_TENSORS(lks_gradient_target(graph, x)));
    lks_node_share(grad, 0);
}

/* An affine function's derivative is known without x and y, so that neither is kept. */
static void affine_differentiate(lks_graph *graph, const lks_node *node)
{
    const lks_unary_attributes *forward = node->attributes;
    lks_unary_attributes attributes = {LKS_UNARY_AFFINE, forward->alpha, 0};
    lks_tensor *x = node->inputs[0], *dx = lks_tensor_like(graph, x);
    lks_node *grad =
        lks_node_append(graph, NULL, "unary", &attributes, sizeof attributes,
                        LKS_TENSORS(lks_gradient_of(graph, node->outputs[0])), LKS_TENSORS(dx));
    lks_node_share(grad, 0);
    lks_gradient_add(graph, x, dx);
}

static const lks_op unary_op = {"unary", "a function of each element", unary_differentiate};
static const lks_op affine_op = {"affine", "alpha x + beta", affine_differentiate};

static lks_tensor *unary_append(lks_graph *graph, const lks_op *op, lks_unary_attributes attributes,
                                lks_tensor *x)
{
    if (!lks_op_ready(graph, op, LKS_TENSORS(x)) || !lks_op_wants_number(graph, op, "x", x))
        return NULL;
    lks_tensor *y = lks_tensor_like(graph, x);
    lks_node_share(lks_node_append(graph, op, "unary", &attributes, sizeof attributes,
                                   LKS_TENSORS(x), LKS_TENSORS(y)),
                   0);
    return y;
}

lks_tensor *lks_op_unary(lks_graph *graph, lks_unary_function function, lks_tensor *x)
{
    if (function == LKS_UNARY_AFFINE) {
        lks_graph_refuse(graph, "unary: an affine function has parameters; use lks_op_affine");
        return NULL;
    }
    return unary_append(graph, &unary_op, (lks_unary_attributes){function, 0, 0}, x);
}

lks_tensor *lks_op_affine(lks_graph *graph, lks_tensor *x, double alpha, double beta)
{
    lks_unary_attributes attributes = {LKS_UNARY_AFFINE, (float)alpha, (float)beta};
    return unary_append(graph, &affine_op, attributes, x);
}
