#include "runtime/graph/op_driver.h"

/* The kernel has made the gradient with the loss. */
static void cross_entropy_differentiate(lks_graph *graph, const lks_node *node)
{
    lks_tensor *logits = node->inputs[0];
    lks_gradient_add(graph, logits, node->outputs[0]);
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
    lks_tensor *stats = lks_tensor_create(graph, LKS_F64, LKS_SHAPE(3)), *dlogits = NULL;
    lks_shape rows = LKS_SHAPE(lks_tensor_elements(targets));
    if (lks_gradient_wanted(logits))
        dlogits = lks_tensor_like(graph, logits);
    lks_cross_entropy_attributes attributes = {classes};
    lks_node *node = lks_node_append(
        graph, &cross_entropy_op, "cross_entropy", &attributes, sizeof attributes,
        LKS_TENSORS(lks_tensor_rows(graph, logits), lks_tensor_view(graph, targets, rows)),
        LKS_TENSORS(lks_tensor_rows(graph, dlogits), stats));
    lks_node_share(node, 0);
    lks_node_keep(node);
    return stats;
}
