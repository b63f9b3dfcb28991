#include "runtime/graph/op_driver.h"

static lks_node *binary_append(lks_graph *graph, const lks_op *op, lks_binary_function function,
                               lks_tensor *a, lks_tensor *b, lks_tensor *y)
{
    lks_binary_attributes attributes = {function};
    lks_node *node = lks_node_append(graph, op, "binary", &attributes, sizeof attributes,
                                     LKS_TENSORS(a, b), LKS_TENSORS(y));
    lks_node_share(node, 0);
    return node;
}

static void differentiate_a(lks_graph *graph, lks_binary_function function, lks_tensor *a,
                            lks_tensor *b, lks_tensor *dy)
{
    if (!lks_gradient_wanted(a))
        return;
    if (function == LKS_BINARY_ADD || function == LKS_BINARY_SUBTRACT)
        lks_gradient_add(graph, a, dy);
    else
        binary_append(graph, NULL, function, dy, b, lks_gradient_target(graph, a));
}

/* What goes to b before the sum over the axes along which b was repeated:
 * dy, -dy, dy a, -dy y / b. */
static void differentiate_b(lks_graph *graph, lks_binary_function function, const lks_node *node,
                            lks_tensor *dy)
{
    lks_tensor *a = node->inputs[0], *b = node->inputs[1], *y = node->outputs[0];
    int64_t inner = lks_tensor_elements(b), middle = lks_tensor_elements(a) / inner;
    float sign = function == LKS_BINARY_SUBTRACT || function == LKS_BINARY_DIVIDE ? -1.0f : 1.0f;
    if (!lks_gradient_wanted(b))
        return;
    if (function == LKS_BINARY_ADD && middle == 1) {
        lks_gradient_add(graph, b, lks_tensor_view(graph, dy, b->shape));
        return;
    }
    if (function == LKS_BINARY_MULTIPLY && middle == 1) {
        binary_append(graph, NULL, function, dy, a, lks_gradient_target(graph, b));
        return;
    }
    lks_tensor *terms = dy;
    if (function == LKS_BINARY_MULTIPLY || function == LKS_BINARY_DIVIDE) {
        terms = lks_tensor_like(graph, a);
        binary_append(graph, NULL, LKS_BINARY_MULTIPLY, dy, function == LKS_BINARY_MULTIPLY ? a : y,
                      terms);
    }
    if (function == LKS_BINARY_DIVIDE) {
        lks_tensor *products = terms;
        terms = lks_tensor_like(graph, a);
        binary_append(graph, NULL, LKS_BINARY_DIVIDE, products, b, terms);
    }
    lks_reduce_attributes attributes = {1, middle, inner, sign};
    lks_node_append(graph, NULL, "reduce", &attributes, sizeof attributes, LKS_TENSORS(terms),
                    LKS_TENSORS(lks_gradient_target(graph, b)));
}

static void binary_differentiate(lks_graph *graph, const lks_node *node)
{
    const lks_binary_attributes *attributes = node->attributes;
    lks_tensor *dy = lks_gradient_of(graph, node->outputs[0]);
    differentiate_b(graph, attributes->function, node, dy);
    differentiate_a(graph, attributes->function, node->inputs[0], node->inputs[1], dy);
}

static const lks_op binary_op = {"binary", "a + b, a - b, a b or a / b", binary_differentiate};

static bool is_suffix(const lks_shape *shape, const lks_shape *suffix)
{
    int skipped = shape->axes - suffix->axes;
    if (skipped < 0)
        return false;
    for (int i = 0; i < suffix->axes; ++i)
        if (shape->size[skipped + i] != suffix->size[i])
            return false;
    return true;
}

lks_tensor *lks_op_binary(lks_graph *graph, lks_binary_function function, lks_tensor *a,
                          lks_tensor *b)
{
    if (!lks_op_ready(graph, &binary_op, LKS_TENSORS(a, b)) ||
        !lks_op_wants_number(graph, &binary_op, "a", a) ||
        !lks_op_wants_number(graph, &binary_op, "b", b))
        return NULL;
    if (!is_suffix(&a->shape, &b->shape)) {
        lks_graph_refuse(graph,
                         "binary: a is %s and b %s; b's axes must be a's, or the last of them",
                         LKS_SHAPE_OF(a), LKS_SHAPE_OF(b));
        return NULL;
    }
    lks_tensor *y = lks_tensor_like(graph, a);
    binary_append(graph, &binary_op, function, a, b, y);
    return y;
}
