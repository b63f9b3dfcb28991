/* Matrix products on the device: cuBLASLt's, chosen by a rule from shapes, with a fixed workspace. */
#ifndef LKS_KERNELS_CUDA_PRODUCTS_H
#define LKS_KERNELS_CUDA_PRODUCTS_H

#include "kernels/cuda/cuda.cuh"

/* Row-major: c[m, n] = epilogue(alpha op(a) op(b) + (accumulate ? c : 0)), batched over `batch` with the given strides
 * (elements). op(a) is m x k, op(b) k x n; `lda`, `ldb`, `ldc` are the row lengths in memory. a and b
 * have `type`; c has `result` (bf16 or f32); sums are in f32. */
typedef enum lks_epilogue {
    LKS_EPILOGUE_NONE,
    LKS_EPILOGUE_BIAS, /* + bias[n], of type `result` */
    LKS_EPILOGUE_BIAS_GELU, /* gelu(x + bias[n]), x + bias[n] to `pre` (m x n, `result`); bias may be absent */
    LKS_EPILOGUE_GELU_GRAD, /* x gelu'(pre), pre as above, read; not with `accumulate` */
} lks_epilogue;

typedef struct lks_product_spec {
    lks_dtype type, result;
    int64_t m, n, k, batch;
    int64_t lda, ldb, ldc, stride_a, stride_b, stride_c;
    bool transpose_a, transpose_b, accumulate;
    float alpha;
    lks_epilogue epilogue;
    bool bias, pre; /* with LKS_EPILOGUE_BIAS_GELU: there is a bias, `pre` is wanted */
} lks_product_spec;

/* Whether the product has a bias, and a matrix beside c: `pre`. */
static inline bool lks_product_has_bias(const lks_product_spec *spec)
{
    return spec->epilogue == LKS_EPILOGUE_BIAS ||
           (spec->epilogue == LKS_EPILOGUE_BIAS_GELU && spec->bias);
}
static inline bool lks_product_has_pre(const lks_product_spec *spec)
{
    return spec->epilogue == LKS_EPILOGUE_GELU_GRAD ||
           (spec->epilogue == LKS_EPILOGUE_BIAS_GELU && spec->pre);
}
/* cublasLt.h: rows and matrices of `pre` begin at multiples of 8 elements. Nor is anything added to a gradient of gelu:
 * the epilogue would multiply that too. */
static inline bool lks_product_is_possible(const lks_product_spec *spec)
{
    if (spec->epilogue == LKS_EPILOGUE_GELU_GRAD && spec->accumulate)
        return false;
    return !lks_product_has_pre(spec) || (spec->ldc % 8 == 0 && spec->stride_c % 8 == 0);
}

typedef struct lks_product lks_product;

/* One handle per device. f32 factors are rounded to tf32 only where cuda->tf32. */
lks_status lks_products_open(void **out, lks_cuda_device *cuda) LKS_MUST_CHECK;
void lks_products_close(void *products); /* NULL is fine */
/* "cublasLt 13.0.2" into `out`, returned: part of the arithmetic. */
const char *lks_products_version(char *out, size_t size);

/* *out is NULL where the product is not possible or the library has none with the epilogue: it is then to be done apart. */
lks_status lks_product_prepare(lks_product **out, lks_cuda_device *cuda,
                               const lks_product_spec *spec) LKS_MUST_CHECK;
void lks_product_release(lks_product *product); /* NULL is fine */
size_t lks_product_workspace(const lks_product *product);
/* c may be a or b nowhere. */
lks_status lks_product_run(lks_product *product, const void *a, const void *b, void *c,
                           const void *bias, void *pre, void *workspace) LKS_MUST_CHECK;

#endif
