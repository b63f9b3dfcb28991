#include "runtime/graph/op_driver.h"

#include <math.h>

static void attention_differentiate(lks_graph *graph, const lks_node *node)
{
    lks_tensor *qkv = node->inputs[0], *y = node->outputs[0], *lse = node->outputs[1];
    lks_node_append(graph, NULL, "attention_grad", node->attributes,
                    sizeof(lks_attention_attributes),
                    LKS_TENSORS(qkv, y, lse, lks_gradient_of(graph, y)),
                    LKS_TENSORS(lks_gradient_target(graph, qkv)));
}

static const lks_op attention_op = {"attention",
                                    "multi-head attention over packed queries, keys and values",
                                    attention_differentiate};

static bool attention_check(lks_graph *graph, const lks_tensor *qkv, int heads, int kv_heads,
                            double dropout)
{
    if (!lks_op_wants_number(graph, &attention_op, "qkv", qkv))
        return false;
    if (heads < 1 || kv_heads < 1 || heads % kv_heads != 0)
        lks_graph_refuse(graph,
                         "attention: %d heads and %d key-value heads; the second must divide the "
                         "first",
                         heads, kv_heads);
    else if (qkv->shape.axes != 3 || qkv->shape.size[2] % (heads + 2 * (int64_t)kv_heads) != 0)
        lks_graph_refuse(graph,
                         "attention: qkv is %s; it must be B x T x (%d + 2 x %d) times a head's "
                         "width",
                         LKS_SHAPE_OF(qkv), heads, kv_heads);
    else if (!(dropout >= 0 && dropout < 1))
        lks_graph_refuse(graph, "attention: a dropout of %g; it must be in [0, 1)", dropout);
    else
        return true;
    return false;
}

lks_tensor *lks_op_attention(lks_graph *graph, lks_tensor *qkv, int heads, int kv_heads,
                             bool causal, double dropout)
{
    uint32_t instance = lks_graph_random_instance(graph);
    if (!lks_op_ready(graph, &attention_op, LKS_TENSORS(qkv)) ||
        !attention_check(graph, qkv, heads, kv_heads, dropout))
        return NULL;
    int64_t batch = qkv->shape.size[0], context = qkv->shape.size[1];
    int64_t width = qkv->shape.size[2] / (heads + 2 * (int64_t)kv_heads);
    lks_attention_attributes attributes = {
        heads, kv_heads, (int)width, causal, (float)(1.0 / sqrt((double)width)), 0, instance};
    if (lks_graph_get_mode(graph) == LKS_GRAPH_TRAIN)
        attributes.dropout = (float)dropout;
    lks_tensor *y = lks_tensor_number(graph, LKS_SHAPE(batch, context, heads * width));
    lks_tensor *lse = NULL;
    if (lks_gradient_wanted(qkv))
        lse = lks_tensor_create(graph, LKS_F32, LKS_SHAPE(batch, heads, context));
    lks_node_append(graph, &attention_op, "attention", &attributes, sizeof attributes,
                    LKS_TENSORS(qkv), LKS_TENSORS(y, lse));
    return y;
}
