#include "tests/golden/ops_cases.h"

#define CASE(name) static lks_tensor *build_##name(const op_case *c)

static lks_tensor *linear(const op_case *c, lks_activation f, bool bias)
{
    lks_tensor *x = op_input(c, "x"), *w = op_parameter(c, "w");
    return lks_op_linear(c->graph, x, w, bias ? op_parameter(c, "b") : NULL, f);
}
CASE(linear)
{
    return linear(c, LKS_IDENTITY, true);
}
CASE(linear_plain)
{
    return linear(c, LKS_IDENTITY, false);
}
CASE(linear_relu)
{
    return linear(c, LKS_RELU, true);
}
CASE(linear_gelu)
{
    return linear(c, LKS_GELU, true);
}

CASE(attention)
{
    return lks_op_attention(c->graph, op_input(c, "qkv"), 2, 2, false, 0);
}
CASE(attention_causal)
{
    return lks_op_attention(c->graph, op_input(c, "qkv"), 2, 2, true, 0);
}
CASE(attention_grouped)
{
    return lks_op_attention(c->graph, op_input(c, "qkv"), 4, 2, true, 0);
}

static lks_tensor *norm(const op_case *c, lks_norm_kind kind, bool bias)
{
    lks_tensor *x = op_input(c, "x"), *gain = op_parameter(c, "gain");
    return lks_op_norm(c->graph, kind, x, gain, bias ? op_parameter(c, "bias") : NULL, 1e-3);
}
CASE(norm_layer)
{
    return norm(c, LKS_NORM_LAYER, true);
}
CASE(norm_layer_plain)
{
    return norm(c, LKS_NORM_LAYER, false);
}
CASE(norm_rms)
{
    return norm(c, LKS_NORM_RMS, false);
}
CASE(norm_residual)
{
    lks_tensor *x = op_input(c, "x"), *r = op_input(c, "r"), *sum;
    lks_tensor *y = lks_op_norm_residual(c->graph, LKS_NORM_LAYER, x, r, op_parameter(c, "gain"),
                                         op_parameter(c, "bias"), 1e-3, &sum);
    return lks_op_binary(c->graph, LKS_BINARY_MULTIPLY, y, sum);
}

CASE(embedding)
{
    lks_tensor *table = op_parameter(c, "table"), *place = op_parameter(c, "place");
    return lks_op_embedding(c->graph, lks_input(c->graph, "ids"), table, place);
}
CASE(cross_entropy)
{
    lks_tensor *logits = op_input(c, "logits");
    return lks_op_cross_entropy(c->graph, logits, lks_input(c->graph, "targets"), 7);
}
CASE(squared_error)
{
    return lks_op_squared_error(c->graph, op_input(c, "x"), lks_input(c->graph, "values"));
}

static lks_tensor *conv2d(const op_case *c, bool bias, int stride, int padding, int groups)
{
    lks_tensor *x = op_input(c, "x"), *w = op_parameter(c, "w");
    lks_tensor *b = bias ? op_parameter(c, "b") : NULL;
    return lks_op_conv2d(c->graph, x, w, b, stride, padding, groups);
}
CASE(conv2d)
{
    return conv2d(c, true, 1, 1, 1);
}
CASE(conv2d_strided)
{
    return conv2d(c, false, 2, 0, 1);
}
CASE(conv2d_grouped)
{
    return conv2d(c, false, 2, 1, 2);
}
CASE(conv2d_point)
{
    return conv2d(c, false, 2, 0, 1);
}

static lks_tensor *batch_norm(const op_case *c, bool residual, lks_activation f)
{
    lks_tensor *x = op_input(c, "x"), *r = residual ? op_input(c, "r") : NULL;
    lks_tensor *gain = op_parameter(c, "gain"), *bias = op_parameter(c, "bias");
    return lks_op_batch_norm(c->graph, x, gain, bias, op_buffer(c, "mean"),
                             op_buffer(c, "variance"), r, f, 1e-3);
}
CASE(batch_norm)
{
    return batch_norm(c, false, LKS_IDENTITY);
}
CASE(batch_norm_relu)
{
    return batch_norm(c, false, LKS_RELU);
}
CASE(batch_norm_residual)
{
    return batch_norm(c, true, LKS_IDENTITY);
}
CASE(batch_norm_residual_relu)
{
    return batch_norm(c, true, LKS_RELU);
}
CASE(batch_norm_evaluate)
{
    return batch_norm(c, false, LKS_IDENTITY);
}

CASE(pool_max)
{
    return lks_op_pool2d(c->graph, op_input(c, "x"), LKS_POOL_MAX, 3, 2, 1);
}
CASE(pool_mean)
{
    return lks_op_pool2d(c->graph, op_input(c, "x"), LKS_POOL_MEAN, 3, 2, 1);
}
CASE(global_mean)
{
    return lks_op_global_mean(c->graph, op_input(c, "x"));
}
CASE(image)
{
    lks_tensor *y = lks_op_image(c->graph, lks_input(c->graph, "image"), op_constant(c, "shift"),
                                 op_constant(c, "scale"));
    return lks_op_binary(c->graph, LKS_BINARY_MULTIPLY, y, op_parameter(c, "w"));
}
CASE(dropout)
{
    return lks_op_dropout(c->graph, op_input(c, "x"), 0.4);
}

#define UNARY(name, function)                                                                      \
    CASE(name)                                                                                     \
    {                                                                                              \
        return lks_op_unary(c->graph, function, op_input(c, "x"));                                 \
    }
UNARY(relu, LKS_UNARY_RELU)
UNARY(gelu, LKS_UNARY_GELU)
UNARY(silu, LKS_UNARY_SILU)
UNARY(tanh, LKS_UNARY_TANH)
UNARY(sigmoid, LKS_UNARY_SIGMOID)
UNARY(exp, LKS_UNARY_EXP)
UNARY(log, LKS_UNARY_LOG)
UNARY(sqrt, LKS_UNARY_SQRT)
UNARY(square, LKS_UNARY_SQUARE)
UNARY(reciprocal, LKS_UNARY_RECIPROCAL)
CASE(affine)
{
    return lks_op_affine(c->graph, op_input(c, "x"), -1.5, 0.25);
}

#define BINARY(name, function)                                                                     \
    CASE(name)                                                                                     \
    {                                                                                              \
        return lks_op_binary(c->graph, function, op_input(c, "a"), op_input(c, "b"));              \
    }
BINARY(add, LKS_BINARY_ADD)
BINARY(add_suffix, LKS_BINARY_ADD)
BINARY(subtract_suffix, LKS_BINARY_SUBTRACT)
BINARY(multiply_suffix, LKS_BINARY_MULTIPLY)
BINARY(divide, LKS_BINARY_DIVIDE)
BINARY(divide_suffix, LKS_BINARY_DIVIDE)

#define MATMUL(name, transpose_a, transpose_b)                                                     \
    CASE(name)                                                                                     \
    {                                                                                              \
        return lks_op_matmul(c->graph, op_input(c, "a"), op_input(c, "b"), transpose_a,            \
                             transpose_b);                                                         \
    }
MATMUL(matmul, false, false)
MATMUL(matmul_transposed_a, true, false)
MATMUL(matmul_transposed_b, false, true)
MATMUL(matmul_transposed_both, true, true)

CASE(softmax)
{
    return lks_op_softmax(c->graph, op_input(c, "x"), false);
}
CASE(softmax_causal)
{
    return lks_op_softmax(c->graph, op_input(c, "x"), true);
}
CASE(reduce_sum)
{
    return lks_op_reduce_sum(c->graph, op_input(c, "x"), 1);
}
CASE(reduce_mean)
{
    return lks_op_reduce_mean(c->graph, op_input(c, "x"), 2);
}
CASE(permute)
{
    return lks_op_permute(c->graph, op_input(c, "x"), (int[]){2, 0, 3, 1});
}
CASE(reshape)
{
    lks_tensor *folded = lks_op_reshape(c->graph, op_input(c, "x"), LKS_SHAPE(2, 2, 3));
    lks_tensor *turned = lks_op_permute(c->graph, folded, (int[]){0, 2, 1});
    return lks_op_reshape(c->graph, turned, LKS_SHAPE(2, 6));
}
CASE(slice)
{
    return lks_op_slice(c->graph, op_input(c, "x"), 1, 1, 4);
}
CASE(concatenate)
{
    lks_tensor *parts[] = {op_input(c, "a"), op_input(c, "b")};
    return lks_op_concatenate(c->graph, parts, 2, 1);
}

#define ENTRY(name)                                                                                \
    {                                                                                              \
#name, build_##name                                                                        \
    }
/* clang-format off */
const op_builder op_builders[] = {
    ENTRY(linear), ENTRY(linear_plain), ENTRY(linear_relu), ENTRY(linear_gelu), ENTRY(attention),
    ENTRY(attention_causal), ENTRY(attention_grouped), ENTRY(norm_layer), ENTRY(norm_layer_plain),
    ENTRY(norm_rms), ENTRY(norm_residual), ENTRY(embedding), ENTRY(cross_entropy),
    ENTRY(squared_error), ENTRY(conv2d), ENTRY(conv2d_strided), ENTRY(conv2d_grouped),
    ENTRY(conv2d_point), ENTRY(batch_norm), ENTRY(batch_norm_relu), ENTRY(batch_norm_residual),
    ENTRY(batch_norm_residual_relu), ENTRY(batch_norm_evaluate), ENTRY(pool_max), ENTRY(pool_mean),
    ENTRY(global_mean), ENTRY(image), ENTRY(dropout), ENTRY(relu), ENTRY(gelu), ENTRY(silu),
    ENTRY(tanh), ENTRY(sigmoid), ENTRY(exp), ENTRY(log), ENTRY(sqrt), ENTRY(square),
    ENTRY(reciprocal), ENTRY(affine), ENTRY(add), ENTRY(add_suffix), ENTRY(subtract_suffix),
    ENTRY(multiply_suffix), ENTRY(divide), ENTRY(divide_suffix), ENTRY(matmul),
    ENTRY(matmul_transposed_a), ENTRY(matmul_transposed_b), ENTRY(matmul_transposed_both),
    ENTRY(softmax), ENTRY(softmax_causal), ENTRY(reduce_sum), ENTRY(reduce_mean), ENTRY(permute),
    ENTRY(reshape), ENTRY(slice), ENTRY(concatenate),
};
/* clang-format on */
const size_t op_builder_count = sizeof op_builders / sizeof *op_builders;
