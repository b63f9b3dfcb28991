#include "kernels/cpu/onednn.h"

lks_status lks_onednn_check(dnnl_status_t status, const char *call)
{
    static const char *const names[] = {"success",       "out of memory", "invalid arguments",
                                        "unimplemented", "iterator ends", "runtime error",
                                        "not required"};
    if (status == dnnl_success)
        return LKS_OK;
    const char *name = (size_t)status < sizeof names / sizeof *names ? names[status] : "unknown";
    return LKS_FAIL(LKS_ERR_INTERNAL, "oneDNN: %s (%d): %s", name, (int)status, call);
}

enum { OVERWRITE, ACCUMULATE, FORMS };

struct lks_onednn_matmul {
    lks_onednn_matmul_spec spec;
    bool gemm; /* dnnl_sgemm; else the primitives */
    dnnl_stream_t stream;
    dnnl_primitive_t primitive[FORMS];
    dnnl_memory_t a, b, bias, c, scratch[FORMS];
};

/* Batched products have three axes. */
static lks_status describe(dnnl_memory_desc_t *out, dnnl_data_type_t type, int64_t batch,
                           int64_t rows, int64_t columns, const lks_onednn_steps *steps)
{
    dnnl_dims_t sizes = {batch, rows, columns};
    dnnl_dims_t strides = {steps->batch, steps->row, steps->column};
    int skip = batch == 1;
    LKS_ONEDNN(dnnl_memory_desc_init_by_strides(out, 3 - skip, sizes + skip, type, strides + skip));
    return LKS_OK;
}

static lks_status describe_all(const lks_onednn_matmul_spec *spec, dnnl_memory_desc_t *a,
                               dnnl_memory_desc_t *b, dnnl_memory_desc_t *bias,
                               dnnl_memory_desc_t *c)
{
    dnnl_data_type_t type = spec->type == LKS_BF16 ? dnnl_bf16 : dnnl_f32;
    LKS_TRY(describe(a, type, spec->batch, spec->m, spec->k, &spec->a));
    LKS_TRY(describe(b, type, spec->batch, spec->k, spec->n, &spec->b));
    LKS_TRY(describe(c, dnnl_f32, spec->batch, spec->m, spec->n, &spec->c));
    if (!spec->bias) {
        *bias = (dnnl_memory_desc_t){0};
        return LKS_OK;
    }
    dnnl_dims_t sizes = {1, 1, spec->n};
    dnnl_dims_t strides = {spec->n, spec->n, 1};
    int skip = spec->batch == 1;
    LKS_ONEDNN(
        dnnl_memory_desc_init_by_strides(bias, 3 - skip, sizes + skip, dnnl_f32, strides + skip));
    return LKS_OK;
}

static lks_status make_attributes(dnnl_primitive_attr_t attributes, float alpha, bool accumulate)
{
    LKS_ONEDNN(dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user));
    if (alpha != 1.0f)
        LKS_ONEDNN(dnnl_primitive_attr_set_output_scales(attributes, 1, 0, &alpha));
    if (!accumulate)
        return LKS_OK;
    dnnl_post_ops_t post;
    LKS_ONEDNN(dnnl_post_ops_create(&post));
    lks_status status =
        lks_onednn_check(dnnl_post_ops_append_sum(post, 1.0f), "dnnl_post_ops_append_sum");
    if (status == LKS_OK)
        status = lks_onednn_check(dnnl_primitive_attr_set_post_ops(attributes, post),
                                  "dnnl_primitive_attr_set_post_ops");
    dnnl_post_ops_destroy(post);
    return status;
}

static lks_status make_primitive(lks_onednn_matmul *matmul, lks_cpu_device *cpu,
                                 const dnnl_matmul_desc_t *product, int form, float alpha,
                                 size_t *workspace)
{
    dnnl_primitive_attr_t attributes;
    dnnl_primitive_desc_t description = NULL;
    LKS_ONEDNN(dnnl_primitive_attr_create(&attributes));
    lks_status status = make_attributes(attributes, alpha, form == ACCUMULATE);
    if (status == LKS_OK)
        status = lks_onednn_check(
            dnnl_primitive_desc_create(&description, product, attributes, cpu->engine, NULL),
            "dnnl_primitive_desc_create(matmul)");
    dnnl_primitive_attr_destroy(attributes);
    LKS_TRY(status);
    const dnnl_memory_desc_t *scratch =
        dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
    size_t bytes = dnnl_memory_desc_get_size(scratch);
    if (bytes > *workspace)
        *workspace = bytes;
    status = lks_onednn_check(
        dnnl_memory_create(&matmul->scratch[form], scratch, cpu->engine, DNNL_MEMORY_NONE),
        "dnnl_memory_create(scratchpad)");
    if (status == LKS_OK)
        status = lks_onednn_check(dnnl_primitive_create(&matmul->primitive[form], description),
                                  "dnnl_primitive_create(matmul)");
    dnnl_primitive_desc_destroy(description);
    return status;
}

static lks_status make(lks_onednn_matmul *matmul, lks_cpu_device *cpu,
                       const lks_onednn_matmul_spec *spec, size_t *workspace)
{
    dnnl_memory_desc_t a, b, bias, c;
    dnnl_matmul_desc_t product;
    LKS_TRY(describe_all(spec, &a, &b, &bias, &c));
    LKS_ONEDNN(dnnl_matmul_desc_init(&product, &a, &b, spec->bias ? &bias : NULL, &c));
    LKS_ONEDNN(dnnl_memory_create(&matmul->a, &a, cpu->engine, DNNL_MEMORY_NONE));
    LKS_ONEDNN(dnnl_memory_create(&matmul->b, &b, cpu->engine, DNNL_MEMORY_NONE));
    LKS_ONEDNN(dnnl_memory_create(&matmul->c, &c, cpu->engine, DNNL_MEMORY_NONE));
    if (spec->bias)
        LKS_ONEDNN(dnnl_memory_create(&matmul->bias, &bias, cpu->engine, DNNL_MEMORY_NONE));
    if (spec->overwrite)
        LKS_TRY(make_primitive(matmul, cpu, &product, OVERWRITE, spec->alpha, workspace));
    if (spec->accumulate)
        LKS_TRY(make_primitive(matmul, cpu, &product, ACCUMULATE, spec->alpha, workspace));
    return LKS_OK;
}

/* Measured with oneDNN 2.6.3 over a transformer's products, in GFLOP/s: where b's
 * rows are contiguous (gradients) dnnl_sgemm reaches 110-117 and the primitive 86-117; where
 * they are not (forward) the primitive reaches 102-115 and dnnl_sgemm 89-112. */
static bool prefers_gemm(const lks_onednn_matmul_spec *spec)
{
    return spec->type != LKS_BF16 && spec->batch == 1 && !spec->bias && spec->b.column == 1 &&
           spec->c.column == 1;
}

lks_status lks_onednn_matmul_open(lks_onednn_matmul **out, lks_cpu_device *cpu,
                                  const lks_onednn_matmul_spec *spec, size_t *workspace)
{
    lks_onednn_matmul *matmul;
    *out = NULL;
    *workspace = 0;
    LKS_TRY(LKS_NEW(&matmul));
    matmul->spec = *spec;
    matmul->gemm = prefers_gemm(spec);
    matmul->stream = cpu->stream;
    lks_status status = matmul->gemm ? LKS_OK : make(matmul, cpu, spec, workspace);
    if (status != LKS_OK) {
        lks_onednn_matmul_close(matmul);
        return status;
    }
    *out = matmul;
    return LKS_OK;
}

void lks_onednn_matmul_close(lks_onednn_matmul *matmul)
{
    if (!matmul)
        return;
    for (int form = 0; form < FORMS; ++form) {
        dnnl_primitive_destroy(matmul->primitive[form]);
        dnnl_memory_destroy(matmul->scratch[form]);
    }
    dnnl_memory_destroy(matmul->a);
    dnnl_memory_destroy(matmul->b);
    dnnl_memory_destroy(matmul->bias);
    dnnl_memory_destroy(matmul->c);
    lks_memory_free(matmul);
}

/* oneDNN's handles are not const; it writes only to the destination. */
static void *handle(const void *data)
{
    return (void *)(uintptr_t)data;
}

static lks_status execute_gemm(const lks_onednn_matmul_spec *spec, const float *a, const float *b,
                               float *c, bool accumulate)
{
    bool transposed = spec->a.column != 1 || spec->a.row < spec->k;
    LKS_ONEDNN(dnnl_sgemm(transposed ? 'T' : 'N', 'N', spec->m, spec->n, spec->k, spec->alpha, a,
                          transposed ? spec->a.column : spec->a.row, b, spec->b.row,
                          accumulate ? 1.0f : 0.0f, c, spec->c.row));
    return LKS_OK;
}

lks_status lks_onednn_matmul_execute(lks_onednn_matmul *matmul, const void *a, const void *b,
                                     const float *bias, float *c, bool accumulate, void *workspace)
{
    int form = accumulate ? ACCUMULATE : OVERWRITE;
    if (matmul->gemm)
        return execute_gemm(&matmul->spec, a, b, c, accumulate);
    if (!matmul->primitive[form])
        return LKS_FAIL(LKS_ERR_INTERNAL, "matrix product: not prepared to %s",
                        accumulate ? "accumulate" : "overwrite");
    LKS_ONEDNN(dnnl_memory_set_data_handle(matmul->a, handle(a)));
    LKS_ONEDNN(dnnl_memory_set_data_handle(matmul->b, handle(b)));
    LKS_ONEDNN(dnnl_memory_set_data_handle(matmul->c, c));
    LKS_ONEDNN(dnnl_memory_set_data_handle(matmul->scratch[form], workspace));
    dnnl_exec_arg_t arguments[5] = {{DNNL_ARG_SRC, matmul->a},
                                    {DNNL_ARG_WEIGHTS, matmul->b},
                                    {DNNL_ARG_DST, matmul->c},
                                    {DNNL_ARG_SCRATCHPAD, matmul->scratch[form]},
                                    {DNNL_ARG_BIAS, matmul->bias}};
    if (matmul->bias)
        LKS_ONEDNN(dnnl_memory_set_data_handle(matmul->bias, handle(bias)));
    LKS_ONEDNN(dnnl_primitive_execute(matmul->primitive[form], matmul->stream, matmul->bias ? 5 : 4,
                                      arguments));
    return LKS_OK;
}
