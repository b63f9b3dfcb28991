#include "runtime/graph/op_driver.h"

static void cross_entropy_differentiate(lks_graph *graph, const lks_node *node)
{
    lks_tensor *logits = node->inputs[0], *targets = node->inputs[1], *lse = node->outputs[1];
    if (!lks_gradient_wanted(logits))
        return;
    lks_tensor *dlogits = lks_tensor_like(graph, logits);
    lks_node *grad = lks_node_append(graph, NULL, "cross_entropy_grad", node->attributes,
                                     sizeof(lks_cross_entropy_attributes),
                                     LKS_TENSORS(logits, targets, lse), LKS_TENSORS(dlogits));
    lks_node_share(grad, 0);
    lks_gradient_add(graph, logits, dlogits);
}

static const lks_op cross_entropy_op = {
    "cross_entropy", "the summed negative log-likelihood of targets under softmax(logits)",
    cross_entropy_differentiate};

static bool cross_entropy_check(lks_graph *graph, const lks_tensor *logits,
                                const lks_tensor *targets, int64_t classes)
{
    if (!lks_op_wants_number(graph, &cross_entropy_op, "logits", logits) ||
        !lks_op_wants(graph, &cross_entropy_op, "targets", targets, LKS_I32))
        return false;
    int64_t width = lks_tensor_last(logits);
    if (logits->shape.axes < 1 ||
        lks_tensor_elements(logits) / width != lks_tensor_elements(targets))
        lks_graph_refuse(graph,
                         "cross_entropy: logits are %s and targets %s; there must be one "
                         "target for each row of logits",
                         LKS_SHAPE_OF(logits), LKS_SHAPE_OF(targets));
    else if (classes < 1 || classes > width)
        lks_graph_refuse(graph,
                         "cross_entropy: %lld classes with logits of %s; there must be at least 1 "
                         "and at most the last axis",
                         (long long)classes, LKS_SHAPE_OF(logits));
    else
        return true;
    return false;
}

lks_tensor *lks_op_cross_entropy(lks_graph *graph, lks_tensor *logits, lks_tensor *targets,
                                 int64_t classes)
{
    if (!lks_op_ready(graph, &cross_entropy_op, LKS_TENSORS(logits, targets)) ||
        !cross_entropy_check(graph, logits, targets, classes))
        return NULL;
    lks_shape rows = LKS_SHAPE(lks_tensor_elements(targets));
    lks_tensor *stats = lks_tensor_create(graph, LKS_F64, LKS_SHAPE(3)), *lse = NULL;
    if (lks_gradient_wanted(logits))
        lse = lks_tensor_create(graph, LKS_F32, rows);
    lks_cross_entropy_attributes attributes = {classes};
    lks_node_append(
        graph, &cross_entropy_op, "cross_entropy", &attributes, sizeof attributes,
        LKS_TENSORS(lks_tensor_rows(graph, logits), lks_tensor_view(graph, targets, rows)),
        LKS_TENSORS(stats, lse));
    return stats;
}
