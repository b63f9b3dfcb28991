#include "runtime/graph/op_driver.h"

/* With a residual, or of an activation: what the sum has got so far goes in as dsum and
 * comes out as part of ds, which is then the whole gradient. */
static void norm_differentiate(lks_graph *graph, const lks_node *node)
{
    lks_tensor *x = node->inputs[0], *residual = node->inputs[1];
    lks_tensor *gain = node->inputs[2], *bias = node->inputs[3];
    lks_tensor *y = node->outputs[0], *sum = node->outputs[1];
    lks_tensor *normalized = sum != NULL ? sum : x;
    lks_tensor *dy = lks_gradient_of(graph, y), *dsum = NULL, *ds;
    if (sum != NULL || !lks_tensor_is_parameter(x)) {
        dsum = lks_gradient_of(graph, normalized);
        ds = lks_tensor_like(graph, normalized);
    } else {
        ds = lks_gradient_target_or_scratch(graph, x);
    }
    if (dy == NULL) { /* only the sum is used */
        lks_gradient_add(graph, x, dsum);
        lks_gradient_add(graph, residual, dsum);
        return;
    }
    lks_node *grad =
        lks_node_append(graph, NULL, "norm_grad", node->attributes, sizeof(lks_norm_attributes),
                        LKS_TENSORS(normalized, gain, node->outputs[2], node->outputs[3], dy, dsum),
                        LKS_TENSORS(ds, lks_gradient_target_or_scratch(graph, gain),
                                    bias != NULL ? lks_gradient_target(graph, bias) : NULL));
    if (sum != NULL) {
        lks_gradient_add(graph, x, ds);
        lks_gradient_add(graph, residual, ds);
    } else if (!lks_tensor_is_parameter(x)) {
        lks_gradient_replace(graph, x, ds);
    }
    if (dsum != NULL)
        lks_node_share(grad, 5);
}

static const lks_op norm_op = {"norm", "layer or RMS norm of x, or of x + residual",
                               norm_differentiate};

static bool norm_check(lks_graph *graph, const lks_tensor *x, const lks_tensor *residual,
                       const lks_tensor *gain, const lks_tensor *bias)
{
    if (!lks_op_wants_number(graph, &norm_op, "x", x))
        return false;
    if (x->shape.axes < 1)
        lks_graph_refuse(graph, "norm: x is a scalar; it must have an axis to normalize over");
    else if (bias != NULL && bias == gain)
        lks_graph_refuse(graph, "norm: gain and bias are one tensor; they must be two");
    lks_shape channels = LKS_SHAPE(lks_tensor_last(x));
    return lks_op_wants_shape(graph, &norm_op, "residual", residual, x->shape, x, "x") &&
           lks_op_wants_shape(graph, &norm_op, "gain", gain, channels, x, "x") &&
           lks_op_wants_shape(graph, &norm_op, "bias", bias, channels, x, "x");
}

static lks_tensor *norm_append(lks_graph *graph, lks_norm_kind kind, lks_tensor *x,
                               lks_tensor *residual, lks_tensor *gain, lks_tensor *bias,
                               double epsilon, lks_tensor **sum)
{
    if (!norm_check(graph, x, residual, gain, bias))
        return NULL;
    lks_shape rows = LKS_SHAPE(lks_tensor_elements(x) / lks_tensor_last(x));
    bool differentiated = lks_gradient_wanted(x) || lks_gradient_wanted(residual) ||
                          lks_gradient_wanted(gain) || lks_gradient_wanted(bias);
    lks_tensor *y = lks_tensor_like(graph, x), *mean = NULL, *rstd = NULL;
    if (differentiated && kind == LKS_NORM_LAYER)
        mean = lks_tensor_create(graph, LKS_F32, rows);
    if (differentiated)
        rstd = lks_tensor_create(graph, LKS_F32, rows);
    if (residual != NULL)
        *sum = lks_tensor_like(graph, x);
    lks_norm_attributes attributes = {kind, (float)epsilon};
    lks_node_append(
        graph, &norm_op, "norm", &attributes, sizeof attributes,
        LKS_TENSORS(lks_tensor_rows(graph, x), lks_tensor_rows(graph, residual), gain, bias),
        LKS_TENSORS(lks_tensor_rows(graph, y),
                    residual != NULL ? lks_tensor_rows(graph, *sum) : NULL, mean, rstd));
    return y;
}

lks_tensor *lks_op_norm(lks_graph *graph, lks_norm_kind kind, lks_tensor *x, lks_tensor *gain,
                        lks_tensor *bias, double epsilon)
{
    if (!lks_op_ready(graph, &norm_op, LKS_TENSORS(x, gain)))
        return NULL;
    return norm_append(graph, kind, x, NULL, gain, bias, epsilon, NULL);
}

lks_tensor *lks_op_norm_residual(lks_graph *graph, lks_norm_kind kind, lks_tensor *x,
                                 lks_tensor *residual, lks_tensor *gain, lks_tensor *bias,
                                 double epsilon, lks_tensor **sum)
{
    *sum = NULL;
    if (!lks_op_ready(graph, &norm_op, LKS_TENSORS(x, residual, gain)))
        return NULL;
    return norm_append(graph, kind, x, residual, gain, bias, epsilon, sum);
}
