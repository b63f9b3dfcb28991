#include "runtime/graph/op_driver.h"

static void product_append(lks_graph *graph, lks_tensor *a, lks_tensor *b, bool transpose_a,
                           bool transpose_b, lks_tensor *target)
{
    lks_matmul_attributes attributes = {transpose_a, transpose_b, 1.0f};
    lks_node_append(graph, NULL, "matmul", &attributes, sizeof attributes, LKS_TENSORS(a, b),
                    LKS_TENSORS(target));
}

static void matmul_differentiate(lks_graph *graph, const lks_node *node)
{
    const lks_matmul_attributes *attributes = node->attributes;
    bool ta = attributes->transpose_a, tb = attributes->transpose_b;
    lks_tensor *a = node->inputs[0], *b = node->inputs[1];
    lks_tensor *dc = lks_gradient_of(graph, node->outputs[0]);
    if (lks_gradient_wanted(a)) {
        lks_tensor *da = lks_gradient_target(graph, a);
        if (ta)
            product_append(graph, b, dc, tb, true, da);
        else
            product_append(graph, dc, b, false, !tb, da);
    }
    if (lks_gradient_wanted(b)) {
        lks_tensor *db = lks_gradient_target(graph, b);
        if (tb)
            product_append(graph, dc, a, true, ta, db);
        else
            product_append(graph, a, dc, !ta, false, db);
    }
}

static const lks_op matmul_op = {"matmul", "products of matrices over equal leading axes",
                                 matmul_differentiate};

lks_tensor *lks_op_matmul(lks_graph *graph, lks_tensor *a, lks_tensor *b, bool transpose_a,
                          bool transpose_b)
{
    if (!lks_op_ready(graph, &matmul_op, LKS_TENSORS(a, b)) ||
        !lks_op_wants_number(graph, &matmul_op, "a", a) ||
        !lks_op_wants_number(graph, &matmul_op, "b", b))
        return NULL;
    int axes = a->shape.axes;
    bool good = axes >= 2 && b->shape.axes == axes;
    for (int i = 0; good && i < axes - 2; ++i)
        good = a->shape.size[i] == b->shape.size[i];
    if (good)
        good = a->shape.size[transpose_a ? axes - 2 : axes - 1] ==
               b->shape.size[transpose_b ? axes - 1 : axes - 2];
    if (!good) {
        lks_graph_refuse(graph,
                         "matmul: a is %s%s and b %s%s; their leading axes must be equal, and the "
                         "columns of a the rows of b",
                         LKS_SHAPE_OF(a), transpose_a ? " (transposed)" : "", LKS_SHAPE_OF(b),
                         transpose_b ? " (transposed)" : "");
        return NULL;
    }
    lks_shape shape = a->shape;
    shape.size[axes - 2] = a->shape.size[transpose_a ? axes - 1 : axes - 2];
    shape.size[axes - 1] = b->shape.size[transpose_b ? axes - 2 : axes - 1];
    lks_matmul_attributes attributes = {transpose_a, transpose_b, 1.0f};
    lks_tensor *c = lks_tensor_number(graph, shape);
    lks_node_append(graph, &matmul_op, "matmul", &attributes, sizeof attributes, LKS_TENSORS(a, b),
                    LKS_TENSORS(c));
    return c;
}
