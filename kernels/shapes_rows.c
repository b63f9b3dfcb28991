#include "kernels/shapes.h"

/* --- Linear ----------------------------------------------------------------------- */

static lks_status expect_matrix(const lks_kernel_spec *spec, const char *name,
                                const lks_kernel_tensor *tensor, int64_t rows, int64_t columns)
{
    if (lks_spec_columns(tensor) != columns || lks_spec_rows(tensor) != rows)
        return lks_spec_refuse(
            spec, "%s is %lld x %lld, %lld x %lld wanted", name, (long long)lks_spec_rows(tensor),
            (long long)lks_spec_columns(tensor), (long long)rows, (long long)columns);
    return LKS_OK;
}

lks_status lks_shapes_expect_linear(const lks_kernel_spec *spec, lks_linear_sizes *out)
{
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_kernel_tensor *x = &spec->inputs[0], *w = &spec->inputs[1], *pre = &spec->outputs[1];
    const lks_linear_attributes *attributes = spec->attributes;
    int64_t m = lks_spec_rows(x), k = lks_spec_columns(x), n = lks_spec_rows(w);
    LKS_TRY(expect_matrix(spec, "w", w, n, k));
    LKS_TRY(lks_spec_expect_elements(spec, "b", &spec->inputs[2], n));
    LKS_TRY(expect_matrix(spec, "y", &spec->outputs[0], m, n));
    LKS_TRY(lks_spec_expect_elements(spec, "pre", pre, m * n));
    if (lks_spec_present(pre) && attributes->activation != LKS_GELU)
        return lks_spec_refuse(spec, "pre is only for gelu");
    *out = (lks_linear_sizes){m, k, n};
    return LKS_OK;
}

lks_status lks_shapes_expect_linear_grad_input(const lks_kernel_spec *spec, lks_linear_sizes *out)
{
    const lks_kernel_tensor *dz = &spec->inputs[0], *w = &spec->inputs[1];
    int64_t m = lks_spec_rows(dz), n = lks_spec_columns(dz), k = lks_spec_columns(w);
    LKS_TRY(expect_matrix(spec, "w", w, n, k));
    LKS_TRY(expect_matrix(spec, "dx", &spec->outputs[0], m, k));
    LKS_TRY(lks_spec_expect_elements(spec, "saved", &spec->inputs[2], m * k));
    if (lks_spec_present(&spec->inputs[2]))
        LKS_TRY(lks_spec_expect_attributes(spec));
    *out = (lks_linear_sizes){m, k, n};
    return LKS_OK;
}

lks_status lks_shapes_expect_linear_grad_weight(const lks_kernel_spec *spec, lks_linear_sizes *out)
{
    const lks_kernel_tensor *dz = &spec->inputs[0], *x = &spec->inputs[1];
    int64_t m = lks_spec_rows(dz), n = lks_spec_columns(dz), k = lks_spec_columns(x);
    LKS_TRY(expect_matrix(spec, "x", x, m, k));
    LKS_TRY(expect_matrix(spec, "dw", &spec->outputs[0], n, k));
    LKS_TRY(lks_spec_expect_elements(spec, "db", &spec->outputs[1], n));
    *out = (lks_linear_sizes){m, k, n};
    return LKS_OK;
}

lks_status lks_shapes_expect_activation_grad(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "tt", "t", compute));
    LKS_TRY(lks_spec_expect_attributes(spec));
    int64_t elements = lks_spec_elements(&spec->inputs[0]);
    LKS_TRY(lks_spec_expect_elements(spec, "saved", &spec->inputs[1], elements));
    return lks_spec_expect_elements(spec, "dz", &spec->outputs[0], elements);
}

/* --- Attention -------------------------------------------------------------------- */

static lks_status expect_heads(const lks_kernel_spec *spec, const lks_kernel_tensor *y,
                               const lks_kernel_tensor *lse)
{
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_attention_attributes *with = spec->attributes;
    const lks_shape *qkv = &spec->inputs[0].shape;
    if (with->heads < 1 || with->kv_heads < 1 || with->width < 1 ||
        with->heads % with->kv_heads != 0 || !(with->scale > 0) ||
        !(with->dropout >= 0 && with->dropout < 1))
        return lks_spec_refuse(spec, "heads %d, kv_heads %d, width %d, scale %g, dropout %g",
                               with->heads, with->kv_heads, with->width, (double)with->scale,
                               (double)with->dropout);
    int64_t stride = (int64_t)(with->heads + 2 * with->kv_heads) * with->width;
    if (qkv->axes != 3 || qkv->size[2] != stride)
        return lks_spec_refuse(spec, "qkv must be B x T x %lld", (long long)stride);
    int64_t tokens = qkv->size[0] * qkv->size[1];
    LKS_TRY(lks_spec_expect_elements(spec, "y", y, tokens * with->heads * with->width));
    return lks_spec_expect_elements(spec, "lse", lse, tokens * with->heads);
}

lks_status lks_shapes_expect_attention(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "t", "tF", compute));
    return expect_heads(spec, &spec->outputs[0], &spec->outputs[1]);
}

lks_status lks_shapes_expect_attention_grad(const lks_kernel_spec *spec, lks_dtype *compute)
{
    const lks_kernel_tensor *in = spec->inputs;
    LKS_TRY(lks_spec_expect_types(spec, "ttft", "t", compute));
    LKS_TRY(lks_spec_expect_elements(spec, "dy", &in[3], lks_spec_elements(&in[1])));
    LKS_TRY(lks_spec_expect_elements(spec, "dqkv", &spec->outputs[0], lks_spec_elements(&in[0])));
    return expect_heads(spec, &in[1], &in[2]);
}

/* --- Norm --------------------------------------------------------------------------- */

lks_status lks_shapes_expect_norm(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "tTtT", "tTFF", compute));
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_kernel_tensor *in = spec->inputs, *to = spec->outputs;
    int64_t elements = lks_spec_elements(in), rows = lks_spec_rows(in),
            width = lks_spec_columns(in);
    LKS_TRY(lks_spec_expect_elements(spec, "residual", &in[1], elements));
    LKS_TRY(lks_spec_expect_elements(spec, "gain", &in[2], width));
    LKS_TRY(lks_spec_expect_elements(spec, "bias", &in[3], width));
    LKS_TRY(lks_spec_expect_elements(spec, "y", &to[0], elements));
    LKS_TRY(lks_spec_expect_elements(spec, "s", &to[1], elements));
    LKS_TRY(lks_spec_expect_elements(spec, "mean", &to[2], rows));
    LKS_TRY(lks_spec_expect_elements(spec, "rstd", &to[3], rows));
    if (lks_spec_present(&in[1]) != lks_spec_present(&to[1]))
        return lks_spec_refuse(spec, "residual and s go together");
    return LKS_OK;
}

lks_status lks_shapes_expect_norm_grad(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "ttFftT", "tfF", compute));
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_kernel_tensor *in = spec->inputs, *to = spec->outputs;
    const lks_norm_attributes *attributes = spec->attributes;
    int64_t elements = lks_spec_elements(in), rows = lks_spec_rows(in),
            width = lks_spec_columns(in);
    LKS_TRY(lks_spec_expect_elements(spec, "gain", &in[1], width));
    LKS_TRY(lks_spec_expect_elements(spec, "mean", &in[2], rows));
    LKS_TRY(lks_spec_expect_elements(spec, "rstd", &in[3], rows));
    LKS_TRY(lks_spec_expect_elements(spec, "dy", &in[4], elements));
    LKS_TRY(lks_spec_expect_elements(spec, "dsum", &in[5], elements));
    LKS_TRY(lks_spec_expect_elements(spec, "ds", &to[0], elements));
    LKS_TRY(lks_spec_expect_elements(spec, "dgain", &to[1], width));
    LKS_TRY(lks_spec_expect_elements(spec, "dbias", &to[2], width));
    if ((attributes->kind == LKS_NORM_LAYER) != lks_spec_present(&in[2]))
        return lks_spec_refuse(spec, "a layer norm has a mean, an rms norm has none");
    return LKS_OK;
}

/* --- Tokens, losses, dropout ---------------------------------------------------------- */

static lks_status expect_table(const lks_kernel_spec *spec, const lks_kernel_tensor *y,
                               const lks_kernel_tensor *table, const lks_kernel_tensor *place)
{
    const lks_kernel_tensor *ids = &spec->inputs[0];
    if (table->shape.axes != 2 || ids->shape.axes < 1)
        return lks_spec_refuse(spec, "the table needs two axes and the ids one or more");
    int64_t width = lks_spec_columns(table), period = lks_spec_columns(ids);
    LKS_TRY(lks_spec_expect_elements(spec, "y", y, lks_spec_elements(ids) * width));
    return lks_spec_expect_elements(spec, "place", place, period * width);
}

lks_status lks_shapes_expect_embedding(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "itT", "t", compute));
    return expect_table(spec, &spec->outputs[0], &spec->inputs[1], &spec->inputs[2]);
}

lks_status lks_shapes_expect_embedding_grad(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "it", "fF", compute));
    return expect_table(spec, &spec->inputs[1], &spec->outputs[0], &spec->outputs[1]);
}

lks_status lks_shapes_expect_cross_entropy(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "ti", "Td", compute));
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_cross_entropy_attributes *attributes = spec->attributes;
    int64_t rows = lks_spec_rows(&spec->inputs[0]), columns = lks_spec_columns(&spec->inputs[0]);
    if (attributes->classes < 1 || attributes->classes > columns)
        return lks_spec_refuse(spec, "%lld classes for %lld columns",
                               (long long)attributes->classes, (long long)columns);
    LKS_TRY(lks_spec_expect_elements(spec, "targets", &spec->inputs[1], rows));
    LKS_TRY(lks_spec_expect_elements(spec, "dlogits", &spec->outputs[0], rows * columns));
    return lks_spec_expect_elements(spec, "stats", &spec->outputs[1], 3);
}

lks_status lks_shapes_expect_squared_error(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "tf", "d", compute));
    LKS_TRY(lks_spec_expect_shape(spec, "target", &spec->inputs[1], &spec->inputs[0].shape));
    return lks_spec_expect_elements(spec, "stats", &spec->outputs[0], 3);
}

lks_status lks_shapes_expect_squared_error_grad(const lks_kernel_spec *spec, lks_dtype *compute)
{
    const lks_shape *prediction = &spec->inputs[0].shape;
    LKS_TRY(lks_spec_expect_types(spec, "tf", "t", compute));
    LKS_TRY(lks_spec_expect_shape(spec, "target", &spec->inputs[1], prediction));
    return lks_spec_expect_shape(spec, "dprediction", &spec->outputs[0], prediction);
}

lks_status lks_shapes_expect_dropout(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "tT", "t", compute));
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_kernel_tensor *x = &spec->inputs[0];
    const lks_dropout_attributes *attributes = spec->attributes;
    LKS_TRY(lks_spec_expect_elements(spec, "residual", &spec->inputs[1], lks_spec_elements(x)));
    LKS_TRY(lks_spec_expect_elements(spec, "y", &spec->outputs[0], lks_spec_elements(x)));
    if (x->shape.axes < 1 || !(attributes->rate >= 0 && attributes->rate < 1))
        return lks_spec_refuse(spec, "x needs a sample axis and the rate (%g) be in [0, 1)",
                               (double)attributes->rate);
    return LKS_OK;
}
