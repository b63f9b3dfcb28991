/* Products by cuBLASLt. Its matrices are column-major, so the transposed product is asked for: c^T = op(b)^T op(a)^T.
 *
 * The algorithm is the first that the library's heuristic names for the shapes (nothing is timed), among those
 * whose parts of a sum, if it is split, go through the workspace and are added in order.
 */
#include "kernels/cuda/products.h"

#include <cublasLt.h>
#include <stdio.h>

namespace
{

/* Of matrices and vectors the library may expect ALIGNMENT; of the workspace it does expect WORKSPACE_ALIGNMENT. */
enum : size_t { WORKSPACE_BYTES = 32 << 20, ALIGNMENT = 16, WORKSPACE_ALIGNMENT = 256 };

struct products {
    cublasLtHandle_t handle;
};

lks_status fail(cublasStatus_t status, const char *what)
{
    return LKS_FAIL(LKS_ERR_INTERNAL, "cublasLt: %s: %s", what, cublasLtGetStatusString(status));
}
#define TRY_LT(expression)                                                                         \
    do {                                                                                           \
        cublasStatus_t status_ = (expression);                                                     \
        if (status_ != CUBLAS_STATUS_SUCCESS)                                                      \
            return fail(status_, #expression);                                                     \
    } while (0)

cudaDataType_t type_of(lks_dtype type)
{
    return type == LKS_BF16 ? CUDA_R_16BF : CUDA_R_32F;
}

template <typename T>
lks_status set(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t attribute, T value)
{
    TRY_LT(cublasLtMatmulDescSetAttribute(product, attribute, &value, sizeof value));
    return LKS_OK;
}
template <typename T>
lks_status set(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t attribute, T value)
{
    TRY_LT(cublasLtMatrixLayoutSetAttribute(layout, attribute, &value, sizeof value));
    return LKS_OK;
}
template <typename T>
lks_status set(cublasLtMatmulPreference_t preference,
               cublasLtMatmulPreferenceAttributes_t attribute, T value)
{
    TRY_LT(cublasLtMatmulPreferenceSetAttribute(preference, attribute, &value, sizeof value));
    return LKS_OK;
}

lks_status make_layout(cublasLtMatrixLayout_t *out, lks_dtype type, int64_t rows, int64_t columns,
                       int64_t step, int64_t batch, int64_t stride)
{
    TRY_LT(cublasLtMatrixLayoutCreate(out, type_of(type), (uint64_t)rows, (uint64_t)columns, step));
    LKS_TRY(set(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, (int32_t)batch));
    return set(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, stride);
}

/* The matrix as it lies in memory, row-major rows x columns or (transposed) columns x rows. */
lks_status make_factor(cublasLtMatrixLayout_t *out, const lks_product_spec *spec, int64_t rows,
                       int64_t columns, bool transposed, int64_t step, int64_t stride)
{
    return make_layout(out, spec->type, transposed ? rows : columns, transposed ? columns : rows,
                       step, spec->batch, stride);
}

cublasLtEpilogue_t epilogue_of(const lks_product_spec *spec)
{
    if (spec->epilogue == LKS_EPILOGUE_BIAS)
        return CUBLASLT_EPILOGUE_BIAS;
    if (spec->epilogue == LKS_EPILOGUE_NONE)
        return CUBLASLT_EPILOGUE_DEFAULT;
    if (spec->epilogue == LKS_EPILOGUE_GELU_GRAD)
        return CUBLASLT_EPILOGUE_DGELU;
    if (spec->pre)
        return spec->bias ? CUBLASLT_EPILOGUE_GELU_AUX_BIAS : CUBLASLT_EPILOGUE_GELU_AUX;
    return spec->bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
}

} // namespace

struct lks_product {
    const products *library;
    cudaStream_t stream;
    cublasLtMatmulDesc_t description;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
    size_t workspace;
    float alpha, beta;
    bool bias, pre;
};

namespace
{

lks_status describe_epilogue(lks_product *product, const lks_product_spec *spec)
{
    cublasLtMatmulDesc_t description = product->description;
    /* Stands for the address until there is one: its alignment counts. */
    const void *somewhere = reinterpret_cast<const void *>(ALIGNMENT);
    LKS_TRY(set(description, CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue_of(spec)));
    if (product->bias)
        LKS_TRY(set(description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, somewhere));
    if (product->pre) {
        LKS_TRY(set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD, spec->ldc));
        LKS_TRY(set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_BATCH_STRIDE, spec->stride_c));
        LKS_TRY(set(description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, somewhere));
    }
    return LKS_OK;
}

lks_status describe(lks_product *product, const lks_product_spec *spec, bool tf32)
{
    cublasComputeType_t compute =
        spec->type == LKS_F32 && tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
    TRY_LT(cublasLtMatmulDescCreate(&product->description, compute, CUDA_R_32F));
    LKS_TRY(set(product->description, CUBLASLT_MATMUL_DESC_TRANSA,
                spec->transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N));
    LKS_TRY(set(product->description, CUBLASLT_MATMUL_DESC_TRANSB,
                spec->transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N));
    LKS_TRY(describe_epilogue(product, spec));
    LKS_TRY(make_factor(&product->a, spec, spec->m, spec->k, spec->transpose_a, spec->lda,
                        spec->stride_a));
    LKS_TRY(make_factor(&product->b, spec, spec->k, spec->n, spec->transpose_b, spec->ldb,
                        spec->stride_b));
    return make_layout(&product->c, spec->result, spec->n, spec->m, spec->ldc, spec->batch,
                       spec->stride_c);
}

lks_status limit(cublasLtMatmulPreference_t preference)
{
    LKS_TRY(set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, (uint64_t)WORKSPACE_BYTES));
    LKS_TRY(set(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
                (uint32_t)CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    for (cublasLtMatmulPreferenceAttributes_t matrix :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES})
        LKS_TRY(set(preference, matrix, (uint32_t)ALIGNMENT));
    return LKS_OK;
}

/* *found is false where the library has none. */
lks_status choose(lks_product *product, cublasLtMatmulPreference_t preference, bool *found)
{
    cublasLtMatmulHeuristicResult_t result = {};
    int count = 0;
    LKS_TRY(limit(preference));
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        product->library->handle, product->description, product->b, product->a, product->c,
        product->c, preference, 1, &result, &count);
    *found = status == CUBLAS_STATUS_SUCCESS && count == 1 && result.state == CUBLAS_STATUS_SUCCESS;
    bool refused = status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE;
    if (status != CUBLAS_STATUS_SUCCESS && !refused)
        return fail(status, "cublasLtMatmulAlgoGetHeuristic");
    product->algorithm = result.algo;
    product->workspace = result.workspaceSize;
    return LKS_OK;
}

lks_status prepare(lks_product *product, const lks_product_spec *spec, bool tf32, bool *found)
{
    cublasLtMatmulPreference_t preference;
    LKS_TRY(describe(product, spec, tf32));
    TRY_LT(cublasLtMatmulPreferenceCreate(&preference));
    lks_status status = choose(product, preference, found);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status == LKS_OK && !*found && spec->epilogue == LKS_EPILOGUE_NONE)
        return LKS_FAIL(LKS_ERR_INTERNAL,
                        "cublasLt has no product of %lld x %lld and %lld x %lld %s, %lld at once",
                        (long long)spec->m, (long long)spec->k, (long long)spec->k,
                        (long long)spec->n, lks_dtype_name(spec->type), (long long)spec->batch);
    return status;
}

} // namespace

lks_status lks_products_open(void **out, lks_cuda_device *cuda)
{
    products *library;
    (void)cuda;
    LKS_TRY(LKS_NEW(&library));
    cublasStatus_t status = cublasLtCreate(&library->handle);
    if (status != CUBLAS_STATUS_SUCCESS) {
        lks_memory_free(library);
        return fail(status, "cublasLtCreate");
    }
    *out = library;
    return LKS_OK;
}

void lks_products_close(void *products_)
{
    products *library = static_cast<products *>(products_);
    if (!library)
        return;
    cublasLtDestroy(library->handle);
    lks_memory_free(library);
}

const char *lks_products_version(char *out, size_t size)
{
    size_t version = cublasLtGetVersion();
    snprintf(out, size, "cublasLt %zu.%zu.%zu", version / 10000, version / 100 % 100,
             version % 100);
    return out;
}

lks_status lks_product_prepare(lks_product **out, lks_cuda_device *cuda,
                               const lks_product_spec *spec)
{
    lks_product *product;
    bool found = false;
    *out = nullptr;
    if (!lks_product_is_possible(spec))
        return LKS_OK;
    LKS_TRY(LKS_NEW(&product));
    product->library = static_cast<const products *>(cuda->products);
    product->stream = cuda->stream;
    product->alpha = spec->alpha;
    product->beta = spec->accumulate ? 1.0f : 0.0f;
    product->bias = lks_product_has_bias(spec);
    product->pre = lks_product_has_pre(spec);
    lks_status status = prepare(product, spec, cuda->tf32, &found);
    if (status == LKS_OK && found)
        *out = product;
    else
        lks_product_release(product);
    return status;
}

void lks_product_release(lks_product *product)
{
    if (!product)
        return;
    for (cublasLtMatrixLayout_t layout : {product->a, product->b, product->c})
        if (layout)
            cublasLtMatrixLayoutDestroy(layout);
    if (product->description)
        cublasLtMatmulDescDestroy(product->description);
    lks_memory_free(product);
}

size_t lks_product_workspace(const lks_product *product)
{
    return product->workspace ? product->workspace + WORKSPACE_ALIGNMENT : 0;
}

lks_status lks_product_run(lks_product *product, const void *a, const void *b, void *c,
                           const void *bias, void *pre, void *workspace)
{
    uintptr_t scratch = lks_round_up(reinterpret_cast<uintptr_t>(workspace), WORKSPACE_ALIGNMENT);
    if (product->bias)
        LKS_TRY(set(product->description, CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias));
    if (product->pre)
        LKS_TRY(set(product->description, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER, pre));
    TRY_LT(cublasLtMatmul(product->library->handle, product->description, &product->alpha, b,
                          product->b, a, product->a, &product->beta, c, product->c, c, product->c,
                          &product->algorithm, reinterpret_cast<void *>(scratch),
                          product->workspace, product->stream));
    return LKS_OK;
}
