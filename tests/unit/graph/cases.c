#include "cases.h"

#define CASE(name) static void name(lks_graph *g)

/* --- Fused ops ----------------------------------------------------------------- */

static void linear_case(lks_graph *g, lks_activation f, bool bias)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 3, 6));
    lks_tensor *w = variable(g, "w", LKS_SHAPE(5, 6));
    loss_of(g, lks_op_linear(g, x, w, bias ? variable(g, "b", LKS_SHAPE(5)) : NULL, f));
}
CASE(linear_identity)
{
    linear_case(g, LKS_IDENTITY, true);
}
CASE(linear_plain)
{
    linear_case(g, LKS_IDENTITY, false);
}
CASE(linear_relu)
{
    linear_case(g, LKS_RELU, true);
}
CASE(linear_gelu)
{
    linear_case(g, LKS_GELU, true);
}
CASE(linear_of_input)
{
    lks_tensor *w = variable(g, "w", LKS_SHAPE(5, 4));
    loss_of(g, lks_op_linear(g, lks_input(g, "features"), w, NULL, LKS_GELU));
}
CASE(linear_frozen_weight)
{
    lks_tensor *w = lks_constant(g, LKS_SHAPE(2, 3), (float[]){1, 2, 3, -1, 0, 2});
    lks_tensor *x = variable(g, "x", LKS_SHAPE(BATCH, 3));
    loss_of(g, lks_op_linear(g, x, w, variable(g, "b", LKS_SHAPE(2)), LKS_IDENTITY));
}

static lks_tensor *layer(lks_graph *g, lks_tensor *x, const char *name, int64_t outputs,
                         lks_activation f)
{
    const lks_shape *shape = lks_tensor_shape(x);
    lks_tensor *w =
        variable(g, lks_name(g, "%s.w", name), LKS_SHAPE(outputs, shape->size[shape->axes - 1]));
    return lks_op_linear(g, x, w, variable(g, lks_name(g, "%s.b", name), LKS_SHAPE(outputs)), f);
}
static void layers(lks_graph *g, bool regions)
{
    lks_tensor *h = activation(g, "x", LKS_SHAPE(BATCH, 3, 6));
    for (int i = 0; i < 3; ++i) {
        if (regions)
            lks_graph_recompute_begin(g);
        h = layer(g, h, lks_name(g, "layer %d", i), 8 - i, i < 2 ? LKS_GELU : LKS_IDENTITY);
        if (regions)
            lks_graph_recompute_end(g);
    }
    loss_of(g, h);
}
CASE(layers_gelu)
{
    layers(g, false);
}
CASE(layers_relu)
{
    lks_tensor *h = layer(g, activation(g, "x", LKS_SHAPE(BATCH, 3)), "up", 4, LKS_RELU);
    loss_of(g, layer(g, h, "down", 5, LKS_IDENTITY));
}
CASE(layers_of_a_view)
{
    lks_tensor *h = layer(g, activation(g, "x", LKS_SHAPE(BATCH, 4, 6)), "up", 8, LKS_GELU);
    loss_of(g, layer(g, lks_op_reshape(g, h, LKS_SHAPE(BATCH, 2, 16)), "down", 5, LKS_IDENTITY));
}
/* The derivative of an activation that several read is applied once, to the sum of what they give. */
CASE(layers_read_twice)
{
    lks_tensor *h = layer(g, activation(g, "x", LKS_SHAPE(BATCH, 3, 6)), "up", 8, LKS_GELU);
    lks_tensor *a = layer(g, h, "a", 5, LKS_IDENTITY), *b = layer(g, h, "b", 5, LKS_GELU);
    loss_of(g, lks_op_binary(g, LKS_BINARY_MULTIPLY, a, b));
}
CASE(layers_read_as_view)
{
    lks_tensor *h = layer(g, activation(g, "x", LKS_SHAPE(BATCH, 4, 6)), "up", 6, LKS_GELU);
    lks_tensor *a = layer(g, h, "a", 6, LKS_IDENTITY);
    lks_tensor *b = lks_op_reshape(g, h, *lks_tensor_shape(h));
    loss_of(g, lks_op_binary(g, LKS_BINARY_ADD, a, b));
}
CASE(layer_of_itself)
{
    lks_tensor *h = layer(g, variable(g, "x", LKS_SHAPE(BATCH, 6)), "up", 8, LKS_GELU);
    loss_of(g, lks_op_linear(g, h, h, NULL, LKS_IDENTITY));
}

static void attention_case(lks_graph *g, int heads, int kv_heads, bool causal, double dropout)
{
    lks_tensor *qkv = activation(g, "qkv", LKS_SHAPE(BATCH, PLACES, (heads + 2 * kv_heads) * 3));
    loss_of(g, lks_op_attention(g, qkv, heads, kv_heads, causal, dropout));
}
CASE(attention_causal)
{
    attention_case(g, 2, 2, true, 0);
}
CASE(attention_full)
{
    attention_case(g, 2, 2, false, 0);
}
CASE(attention_grouped)
{
    attention_case(g, 4, 2, true, 0);
}
CASE(attention_dropout)
{
    attention_case(g, 2, 2, true, 0.3);
}

static void norm_case(lks_graph *g, lks_norm_kind kind, bool bias)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 3, 8));
    lks_tensor *gain = variable(g, "gain", LKS_SHAPE(8));
    loss_of(g,
            lks_op_norm(g, kind, x, gain, bias ? variable(g, "bias", LKS_SHAPE(8)) : NULL, 1e-3));
}
CASE(norm_layer)
{
    norm_case(g, LKS_NORM_LAYER, true);
}
CASE(norm_layer_plain)
{
    norm_case(g, LKS_NORM_LAYER, false);
}
CASE(norm_rms)
{
    norm_case(g, LKS_NORM_RMS, true);
}
CASE(norm_of_parameter)
{
    lks_tensor *x = variable(g, "x", LKS_SHAPE(BATCH, 8));
    lks_tensor *y =
        lks_op_norm(g, LKS_NORM_LAYER, x, variable(g, "gain", LKS_SHAPE(8)), NULL, 1e-3);
    loss_of(g, lks_op_binary(g, LKS_BINARY_MULTIPLY, y, x));
}
CASE(norm_frozen_gain)
{
    lks_tensor *gain = lks_constant(g, LKS_SHAPE(4), (float[]){1, 2, 0.5f, 1});
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 4));
    loss_of(g, lks_op_norm(g, LKS_NORM_RMS, x, gain, NULL, 1e-3));
}
CASE(norm_of_input)
{
    lks_tensor *gain = variable(g, "gain", LKS_SHAPE(4));
    loss_of(g, lks_op_norm(g, LKS_NORM_LAYER, lks_input(g, "features"), gain,
                           variable(g, "bias", LKS_SHAPE(4)), 1e-3));
}

/* Uses norm(x + r), the sum, or both. */
static void norm_residual_case(lks_graph *g, bool use_norm, bool use_sum)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 3, 8));
    lks_tensor *r = activation(g, "r", LKS_SHAPE(BATCH, 3, 8)), *sum;
    lks_tensor *y = lks_op_norm_residual(g, LKS_NORM_LAYER, x, r, variable(g, "gain", LKS_SHAPE(8)),
                                         variable(g, "bias", LKS_SHAPE(8)), 1e-3, &sum);
    lks_tensor *both = use_norm && use_sum ? lks_op_binary(g, LKS_BINARY_MULTIPLY, y, sum) : NULL;
    loss_of(g, both != NULL ? both : use_norm ? y : sum);
}
CASE(norm_residual)
{
    norm_residual_case(g, true, true);
}
CASE(norm_residual_norm_alone)
{
    norm_residual_case(g, true, false);
}
CASE(norm_residual_sum_alone)
{
    norm_residual_case(g, false, true);
}
CASE(norm_residual_of_itself)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 8)), *sum;
    lks_tensor *y = lks_op_norm_residual(g, LKS_NORM_RMS, x, x, variable(g, "gain", LKS_SHAPE(8)),
                                         NULL, 1e-3, &sum);
    loss_of(g, lks_op_binary(g, LKS_BINARY_ADD, y, sum));
}

CASE(embedding)
{
    loss_of(g,
            lks_op_embedding(g, lks_input(g, "ids"), variable(g, "table", LKS_SHAPE(VOCABULARY, 4)),
                             variable(g, "place", LKS_SHAPE(PLACES, 4))));
}
CASE(embedding_plain)
{
    loss_of(g, lks_op_embedding(g, lks_input(g, "ids"),
                                activation(g, "table", LKS_SHAPE(VOCABULARY, 4)), NULL));
}
CASE(cross_entropy)
{
    lks_tensor *logits = activation(g, "logits", LKS_SHAPE(BATCH, PLACES, VOCABULARY + 3));
    lks_graph_loss(g, lks_op_cross_entropy(g, logits, lks_input(g, "targets"), VOCABULARY));
}
CASE(cross_entropy_of_parameter)
{
    lks_tensor *logits = variable(g, "logits", LKS_SHAPE(BATCH, PLACES, VOCABULARY));
    lks_graph_loss(g, lks_op_cross_entropy(g, logits, lks_input(g, "targets"), VOCABULARY));
}
CASE(squared_error_masked)
{
    lks_tensor *p = activation(g, "prediction", LKS_SHAPE(BATCH, 3));
    lks_graph_loss(g, lks_op_squared_error(g, p, lks_input(g, "values")));
}

static void conv2d_case(lks_graph *g, int stride, int padding, int groups)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 6, 5, 4));
    lks_tensor *w = variable(g, "w", LKS_SHAPE(6, 3, 2, 4 / groups));
    loss_of(g, lks_op_conv2d(g, x, w, groups == 1 ? variable(g, "b", LKS_SHAPE(6)) : NULL, stride,
                             padding, groups));
}
CASE(conv2d)
{
    conv2d_case(g, 1, 1, 1);
}
CASE(conv2d_strided)
{
    conv2d_case(g, 2, 0, 1);
}
CASE(conv2d_grouped)
{
    conv2d_case(g, 2, 1, 2);
}

static void batch_norm_case(lks_graph *g, bool residual, lks_activation f)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 3, 2, 4));
    float away[24]; /* from relu's corner */
    for (int i = 0; i < 24; ++i)
        away[i] = i % 3 == 0 ? 6.0f : -6.0f;
    lks_tensor *r = NULL;
    if (residual)
        r = lks_op_binary(g, LKS_BINARY_ADD, activation(g, "r", LKS_SHAPE(BATCH, 3, 2, 4)),
                          lks_constant(g, LKS_SHAPE(3, 2, 4), away));
    lks_shape channels = LKS_SHAPE(4);
    loss_of(g, lks_op_batch_norm(g, x, variable(g, "gain", channels), variable(g, "bias", channels),
                                 lks_buffer(g, "mean", channels, 0),
                                 lks_buffer(g, "variance", channels, 1), r, f, 1e-3));
}
CASE(batch_norm)
{
    batch_norm_case(g, false, LKS_IDENTITY);
}
CASE(batch_norm_relu)
{
    batch_norm_case(g, false, LKS_RELU);
}
CASE(batch_norm_residual)
{
    batch_norm_case(g, true, LKS_IDENTITY);
}
CASE(batch_norm_residual_relu)
{
    batch_norm_case(g, true, LKS_RELU);
}

static void pool2d_case(lks_graph *g, lks_pool_kind kind, int padding)
{
    lks_tensor *x = lks_op_affine(g, variable(g, "x", LKS_SHAPE(BATCH, 6, 5, 3)), 0.2, 0);
    float apart[6 * 5 * 3]; /* the values of a window, so that its largest stays the same one */
    for (int i = 0; i < 90; ++i)
        apart[i] = 0.5f * (float)(i / 15 % 3 * 3 + i / 3 % 5 % 3 - 4);
    if (kind == LKS_POOL_MAX)
        x = lks_op_binary(g, LKS_BINARY_ADD, x, lks_constant(g, LKS_SHAPE(6, 5, 3), apart));
    loss_of(g, lks_op_pool2d(g, x, kind, 3, 2, padding));
}
CASE(pool2d_max)
{
    pool2d_case(g, LKS_POOL_MAX, 1);
}
CASE(pool2d_mean)
{
    pool2d_case(g, LKS_POOL_MEAN, 1);
}
CASE(global_mean)
{
    loss_of(g, lks_op_global_mean(g, activation(g, "x", LKS_SHAPE(BATCH, 3, 4, 5))));
}
CASE(image)
{
    lks_tensor *shift = lks_constant(g, LKS_SHAPE(3), (float[]){120, 130, 125});
    lks_tensor *scale = lks_constant(g, LKS_SHAPE(3), (float[]){0.01f, 0.02f, 0.015f});
    lks_tensor *x = lks_op_image(g, lks_input(g, "image"), shift, scale);
    loss_of(g, lks_op_conv2d(g, x, variable(g, "w", LKS_SHAPE(4, 3, 3, 3)), NULL, 2, 1, 1));
}
CASE(dropout)
{
    loss_of(g, lks_op_dropout(g, activation(g, "x", LKS_SHAPE(BATCH, 3, 7)), 0.4));
}

/* --- Primitive ops --------------------------------------------------------------- */

/* Arguments between 0.6 and 1.4, where every function is smooth. */
static void unary_case(lks_graph *g, lks_unary_function f)
{
    lks_tensor *x = lks_op_affine(g, variable(g, "x", LKS_SHAPE(BATCH, 9)), 0.4, 1.0);
    loss_of(g, lks_op_unary(g, f, x));
}
CASE(unary_relu)
{
    unary_case(g, LKS_UNARY_RELU);
}
CASE(unary_gelu)
{
    unary_case(g, LKS_UNARY_GELU);
}
CASE(unary_silu)
{
    unary_case(g, LKS_UNARY_SILU);
}
CASE(unary_tanh)
{
    unary_case(g, LKS_UNARY_TANH);
}
CASE(unary_sigmoid)
{
    unary_case(g, LKS_UNARY_SIGMOID);
}
CASE(unary_exp)
{
    unary_case(g, LKS_UNARY_EXP);
}
CASE(unary_log)
{
    unary_case(g, LKS_UNARY_LOG);
}
CASE(unary_sqrt)
{
    unary_case(g, LKS_UNARY_SQRT);
}
CASE(unary_square)
{
    unary_case(g, LKS_UNARY_SQUARE);
}
CASE(unary_reciprocal)
{
    unary_case(g, LKS_UNARY_RECIPROCAL);
}
CASE(affine)
{
    loss_of(g, lks_op_affine(g, activation(g, "x", LKS_SHAPE(BATCH, 9)), -1.5, 0.25));
}

static void binary_case(lks_graph *g, lks_binary_function f, bool suffix)
{
    lks_tensor *a = activation(g, "a", LKS_SHAPE(BATCH, 3, 4));
    lks_tensor *b = variable(g, "b", suffix ? LKS_SHAPE(3, 4) : LKS_SHAPE(BATCH, 3, 4));
    loss_of(g, lks_op_binary(g, f, a, lks_op_affine(g, b, 0.4, 1.0)));
}
CASE(binary_add)
{
    binary_case(g, LKS_BINARY_ADD, false);
}
CASE(binary_add_suffix)
{
    binary_case(g, LKS_BINARY_ADD, true);
}
CASE(binary_subtract)
{
    binary_case(g, LKS_BINARY_SUBTRACT, false);
}
CASE(binary_subtract_suffix)
{
    binary_case(g, LKS_BINARY_SUBTRACT, true);
}
CASE(binary_multiply)
{
    binary_case(g, LKS_BINARY_MULTIPLY, false);
}
CASE(binary_multiply_suffix)
{
    binary_case(g, LKS_BINARY_MULTIPLY, true);
}
CASE(binary_divide)
{
    binary_case(g, LKS_BINARY_DIVIDE, false);
}
CASE(binary_divide_suffix)
{
    binary_case(g, LKS_BINARY_DIVIDE, true);
}
CASE(binary_of_parameters)
{
    lks_tensor *a = variable(g, "a", LKS_SHAPE(BATCH, 3));
    lks_tensor *b = variable(g, "b", LKS_SHAPE(3));
    lks_tensor *sum = lks_op_binary(g, LKS_BINARY_ADD, a, b);
    loss_of(g, lks_op_binary(g, LKS_BINARY_MULTIPLY, sum, b));
}

static void matmul_case(lks_graph *g, bool ta, bool tb)
{
    lks_tensor *a = activation(g, "a", ta ? LKS_SHAPE(BATCH, 4, 3) : LKS_SHAPE(BATCH, 3, 4));
    lks_tensor *b = variable(g, "b", tb ? LKS_SHAPE(BATCH, 5, 4) : LKS_SHAPE(BATCH, 4, 5));
    loss_of(g, lks_op_matmul(g, a, b, ta, tb));
}
CASE(matmul)
{
    matmul_case(g, false, false);
}
CASE(matmul_transposed_a)
{
    matmul_case(g, true, false);
}
CASE(matmul_transposed_b)
{
    matmul_case(g, false, true);
}
CASE(matmul_transposed_both)
{
    matmul_case(g, true, true);
}
CASE(matmul_of_itself)
{
    lks_tensor *a = activation(g, "a", LKS_SHAPE(3, 4));
    loss_of(g, lks_op_matmul(g, a, a, false, true));
}
CASE(softmax)
{
    loss_of(g, lks_op_softmax(g, activation(g, "x", LKS_SHAPE(BATCH, 3, 4)), false));
}
CASE(softmax_causal)
{
    loss_of(g, lks_op_softmax(g, activation(g, "x", LKS_SHAPE(BATCH, 4, 4)), true));
}
CASE(reduce_sum)
{
    loss_of(g, lks_op_reduce_sum(g, activation(g, "x", LKS_SHAPE(BATCH, 3, 4)), 1));
}
CASE(reduce_mean)
{
    loss_of(g, lks_op_reduce_mean(g, activation(g, "x", LKS_SHAPE(BATCH, 3, 4)), 2));
}
CASE(permute)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 3, 4, 5));
    loss_of(g, lks_op_permute(g, x, (int[]){2, 0, 3, 1}));
}
CASE(slice)
{
    loss_of(g, lks_op_slice(g, activation(g, "x", LKS_SHAPE(BATCH, 5, 4)), 1, 1, 4));
}
CASE(concatenate)
{
    lks_tensor *a = activation(g, "a", LKS_SHAPE(BATCH, 3, 4));
    lks_tensor *b = variable(g, "b", LKS_SHAPE(BATCH, 1, 4));
    loss_of(g, lks_op_concatenate(g, (lks_tensor *[]){a, b, a}, 3, 1));
}
CASE(reshape)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 6));
    lks_tensor *folded = lks_op_reshape(g, x, LKS_SHAPE(BATCH, 2, 3));
    lks_tensor *turned = lks_op_permute(g, folded, (int[]){0, 2, 1});
    loss_of(g, lks_op_binary(g, LKS_BINARY_MULTIPLY, lks_op_reshape(g, turned, LKS_SHAPE(BATCH, 6)),
                             x));
}
CASE(reshaped_parameter)
{
    lks_tensor *w = variable(g, "w", LKS_SHAPE(12));
    lks_tensor *as_matrix = lks_op_reshape(g, w, LKS_SHAPE(3, 4));
    lks_tensor *y = lks_op_linear(g, lks_input(g, "features"), as_matrix, NULL, LKS_IDENTITY);
    loss_of(g, lks_op_linear(g, y, lks_op_reshape(g, w, LKS_SHAPE(4, 3)), NULL, LKS_IDENTITY));
}

/* --- Between ops ------------------------------------------------------------------- */

CASE(square_by_product)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 5));
    loss_of(g, lks_op_binary(g, LKS_BINARY_MULTIPLY, x, x));
}
CASE(twice_by_sum)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 5));
    loss_of(g, lks_op_binary(g, LKS_BINARY_ADD, x, x));
}
CASE(zero_by_difference)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 5));
    lks_tensor *zero = lks_op_binary(g, LKS_BINARY_SUBTRACT, x, x);
    loss_of(g, lks_op_binary(g, LKS_BINARY_ADD, lks_op_unary(g, LKS_UNARY_SQUARE, zero), x));
}
/* Three readers, of which two pass their gradient on without a copy. */
CASE(used_three_times)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 5));
    lks_tensor *a = lks_op_unary(g, LKS_UNARY_TANH, x);
    lks_tensor *b = lks_op_binary(g, LKS_BINARY_ADD, x, a);
    lks_tensor *c = lks_op_binary(g, LKS_BINARY_MULTIPLY, b, x);
    loss_of(g, lks_op_binary(g, LKS_BINARY_ADD, c, b));
}
/* The gradient of the sum goes to both of its sides, and one side reads it again later. */
CASE(residual_stream)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 3, 6));
    for (int i = 0; i < 3; ++i) {
        lks_tensor *w = variable(g, lks_name(g, "w%d", i), LKS_SHAPE(6, 6));
        x = lks_op_binary(g, LKS_BINARY_ADD, x, lks_op_linear(g, x, w, NULL, LKS_GELU));
    }
    loss_of(g, x);
}
/* A kernel would read and write the gradient that it shares with the sum's other side. */
CASE(residual_of_linear)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 3, 6));
    lks_tensor *y = lks_op_linear(g, x, variable(g, "w", LKS_SHAPE(6, 6)), NULL, LKS_IDENTITY);
    loss_of(g, lks_op_binary(g, LKS_BINARY_ADD, x, y));
}
/* a gets a contribution while b still has to read the gradient that both share. */
CASE(shared_gradient_read_late)
{
    lks_tensor *b = lks_op_unary(g, LKS_UNARY_SQUARE, variable(g, "b", LKS_SHAPE(BATCH, 5)));
    lks_tensor *a = activation(g, "a", LKS_SHAPE(BATCH, 5));
    lks_tensor *c = lks_op_unary(g, LKS_UNARY_TANH, a);
    lks_tensor *sum = lks_op_binary(g, LKS_BINARY_ADD, a, b);
    loss_of(g, lks_op_binary(g, LKS_BINARY_MULTIPLY, sum, c));
}
CASE(residual_stream_normed)
{
    lks_tensor *x = activation(g, "x", LKS_SHAPE(BATCH, 3, 6));
    for (int i = 0; i < 2; ++i) {
        lks_tensor *w = variable(g, lks_name(g, "w%d", i), LKS_SHAPE(6, 6));
        lks_tensor *gain = variable(g, lks_name(g, "gain%d", i), LKS_SHAPE(6));
        lks_tensor *y = lks_op_norm(g, LKS_NORM_RMS, x, gain, NULL, 1e-2);
        x = lks_op_binary(g, LKS_BINARY_ADD, lks_op_linear(g, y, w, NULL, LKS_IDENTITY), x);
    }
    loss_of(g, x);
}
CASE(tied_weights)
{
    lks_tensor *table = variable(g, "table", LKS_SHAPE(VOCABULARY + 2, 4));
    lks_tensor *x =
        lks_op_embedding(g, lks_input(g, "ids"), table, variable(g, "place", LKS_SHAPE(PLACES, 4)));
    lks_tensor *logits = lks_op_linear(g, x, table, NULL, LKS_IDENTITY);
    lks_graph_loss(g, lks_op_cross_entropy(g, logits, lks_input(g, "targets"), VOCABULARY));
}
CASE(unused_parameter)
{
    variable(g, "unused", LKS_SHAPE(3, 5));
    lks_buffer(g, "unused buffer", LKS_SHAPE(3), 1.0);
    lks_tensor *dead = lks_op_affine(g, variable(g, "of dead ops", LKS_SHAPE(4)), 2, 0);
    lks_op_unary(g, LKS_UNARY_EXP, dead);
    loss_of(g, variable(g, "x", LKS_SHAPE(BATCH, 2)));
}
enum { GPT_WIDTH = 8 };

static lks_tensor *gpt_linear(lks_graph *g, lks_tensor *x, const char *name, int i, int64_t width,
                              lks_activation f)
{
    int64_t from = lks_tensor_shape(x)->size[2];
    lks_tensor *w = variable(g, lks_name(g, "h%d.%s", i, name), LKS_SHAPE(width, from));
    lks_tensor *b = variable(g, lks_name(g, "h%d.%s.bias", i, name), LKS_SHAPE(width));
    return lks_op_linear(g, x, w, b, f);
}

/* *stream += x, and the norm of that. x NULL: of the stream as it is. */
static lks_tensor *gpt_norm(lks_graph *g, lks_tensor *x, const char *name, int i,
                            lks_tensor **stream)
{
    lks_tensor *gain = variable(g, lks_name(g, "h%d.%s", i, name), LKS_SHAPE(GPT_WIDTH));
    lks_tensor *bias = variable(g, lks_name(g, "h%d.%s.bias", i, name), LKS_SHAPE(GPT_WIDTH));
    if (x == NULL)
        return lks_op_norm(g, LKS_NORM_LAYER, *stream, gain, bias, 1e-1);
    return lks_op_norm_residual(g, LKS_NORM_LAYER, x, *stream, gain, bias, 1e-1, stream);
}

static void gpt_case(lks_graph *g, int layers, bool recomputed)
{
    lks_tensor *table = variable(g, "table", LKS_SHAPE(VOCABULARY + 1, GPT_WIDTH)), *y = NULL;
    lks_tensor *place = variable(g, "place", LKS_SHAPE(PLACES, GPT_WIDTH));
    lks_tensor *stream = lks_op_embedding(g, lks_input(g, "ids"), table, place);
    stream = lks_op_dropout(g, stream, 0.1);
    for (int i = 0; i < layers; ++i) {
        if (recomputed)
            lks_graph_recompute_begin(g);
        y = gpt_norm(g, y, "norm1", i, &stream);
        y = gpt_linear(g, y, "qkv", i, 3 * GPT_WIDTH, LKS_IDENTITY);
        y = lks_op_attention(g, y, 2, 2, true, 0.1);
        y = lks_op_dropout(g, gpt_linear(g, y, "out", i, GPT_WIDTH, LKS_IDENTITY), 0.1);
        y = gpt_norm(g, y, "norm2", i, &stream);
        y = gpt_linear(g, y, "up", i, 4 * GPT_WIDTH, LKS_GELU);
        y = lks_op_dropout(g, gpt_linear(g, y, "down", i, GPT_WIDTH, LKS_IDENTITY), 0.1);
        if (recomputed)
            lks_graph_recompute_end(g);
    }
    y = gpt_norm(g, y, "norm", layers, &stream);
    lks_tensor *logits = lks_op_linear(g, y, table, NULL, LKS_IDENTITY);
    lks_graph_output(g, "logits", logits);
    if (lks_graph_get_mode(g) != LKS_GRAPH_PREDICT)
        lks_graph_loss(g, lks_op_cross_entropy(g, logits, lks_input(g, "targets"), VOCABULARY));
}
CASE(small_gpt)
{
    gpt_case(g, 2, false);
}
void build_gpt_recomputed(lks_graph *graph)
{
    gpt_case(graph, 6, true);
}
void build_gpt_kept(lks_graph *graph)
{
    gpt_case(graph, 6, false);
}
CASE(small_cnn)
{
    lks_tensor *shift = lks_constant(g, LKS_SHAPE(3), (float[]){120, 130, 125});
    lks_tensor *scale = lks_constant(g, LKS_SHAPE(3), (float[]){0.01f, 0.02f, 0.015f});
    lks_tensor *x = lks_op_image(g, lks_input(g, "image"), shift, scale);
    lks_shape channels = LKS_SHAPE(4);
    x = lks_op_conv2d(g, x, variable(g, "stem", LKS_SHAPE(4, 3, 3, 3)), NULL, 1, 1, 1);
    for (int i = 0; i < 2; ++i) {
        lks_tensor *w = variable(g, lks_name(g, "w%d", i), LKS_SHAPE(4, 3, 3, 4));
        lks_tensor *y = lks_op_conv2d(g, x, w, NULL, 1, 1, 1);
        x = lks_op_batch_norm(g, y, variable(g, lks_name(g, "gain%d", i), channels),
                              variable(g, lks_name(g, "bias%d", i), channels),
                              lks_buffer(g, lks_name(g, "mean%d", i), channels, 0),
                              lks_buffer(g, lks_name(g, "variance%d", i), channels, 1), x,
                              LKS_IDENTITY, 1e-2);
    }
    x = lks_op_global_mean(g, lks_op_pool2d(g, x, LKS_POOL_MEAN, 2, 2, 0));
    loss_of(g, lks_op_linear(g, x, variable(g, "head", LKS_SHAPE(5, 4)),
                             variable(g, "head bias", LKS_SHAPE(5)), LKS_IDENTITY));
}

void build_cnn(lks_graph *graph)
{
    small_cnn(graph);
}
void build_tied(lks_graph *graph)
{
    tied_weights(graph);
}
void build_unused(lks_graph *graph)
{
    unused_parameter(graph);
}

void build_layers(lks_graph *graph)
{
    layers(graph, false);
}
void build_layers_recomputed(lks_graph *graph)
{
    layers(graph, true);
}
void build_layers_read_twice(lks_graph *graph)
{
    layers_read_twice(graph);
}

#define ALONE(name)                                                                                \
    {                                                                                              \
#name, name                                                                                \
    }
const graph_case graph_cases[] = {
    ALONE(linear_identity),
    ALONE(linear_plain),
    ALONE(linear_relu),
    ALONE(linear_gelu),
    ALONE(linear_of_input),
    ALONE(linear_frozen_weight),
    ALONE(layers_gelu),
    ALONE(layers_relu),
    ALONE(layers_of_a_view),
    ALONE(layers_read_twice),
    ALONE(layers_read_as_view),
    ALONE(layer_of_itself),
    ALONE(attention_causal),
    ALONE(attention_full),
    ALONE(attention_grouped),
    ALONE(attention_dropout),
    ALONE(norm_layer),
    ALONE(norm_layer_plain),
    ALONE(norm_rms),
    ALONE(norm_of_parameter),
    ALONE(norm_frozen_gain),
    ALONE(norm_of_input),
    ALONE(norm_residual),
    ALONE(norm_residual_norm_alone),
    ALONE(norm_residual_sum_alone),
    ALONE(norm_residual_of_itself),
    ALONE(embedding),
    ALONE(embedding_plain),
    ALONE(cross_entropy),
    ALONE(cross_entropy_of_parameter),
    ALONE(squared_error_masked),
    ALONE(conv2d),
    ALONE(conv2d_strided),
    ALONE(conv2d_grouped),
    ALONE(batch_norm),
    ALONE(batch_norm_relu),
    ALONE(batch_norm_residual),
    ALONE(batch_norm_residual_relu),
    ALONE(pool2d_max),
    ALONE(pool2d_mean),
    ALONE(global_mean),
    ALONE(image),
    ALONE(dropout),
    ALONE(unary_relu),
    ALONE(unary_gelu),
    ALONE(unary_silu),
    ALONE(unary_tanh),
    ALONE(unary_sigmoid),
    ALONE(unary_exp),
    ALONE(unary_log),
    ALONE(unary_sqrt),
    ALONE(unary_square),
    ALONE(unary_reciprocal),
    ALONE(affine),
    ALONE(binary_add),
    ALONE(binary_add_suffix),
    ALONE(binary_subtract),
    ALONE(binary_subtract_suffix),
    ALONE(binary_multiply),
    ALONE(binary_multiply_suffix),
    ALONE(binary_divide),
    ALONE(binary_divide_suffix),
    ALONE(binary_of_parameters),
    ALONE(matmul),
    ALONE(matmul_transposed_a),
    ALONE(matmul_transposed_b),
    ALONE(matmul_transposed_both),
    ALONE(matmul_of_itself),
    ALONE(softmax),
    ALONE(softmax_causal),
    ALONE(reduce_sum),
    ALONE(reduce_mean),
    ALONE(permute),
    ALONE(slice),
    ALONE(concatenate),
    ALONE(reshape),
    ALONE(reshaped_parameter),
    ALONE(square_by_product),
    ALONE(twice_by_sum),
    ALONE(zero_by_difference),
    ALONE(used_three_times),
    ALONE(residual_of_linear),
    ALONE(shared_gradient_read_late),
    ALONE(residual_stream),
    ALONE(residual_stream_normed),
    ALONE(tied_weights),
    ALONE(unused_parameter),
    ALONE(small_gpt),
    ALONE(small_cnn),
};
const int graph_case_count = (int)(sizeof graph_cases / sizeof *graph_cases);
