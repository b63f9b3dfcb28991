/* "matmul": products of matrices over equal leading axes, by cuBLASLt. */
#include "kernels/cuda/products.h"

/* The product that overwrites c, and the one that adds to it. */
typedef struct matmul_state {
    lks_product *products[2];
} matmul_state;

static void matmul_release(void *state)
{
    matmul_state *s = (matmul_state *)state;
    for (int i = 0; i < 2; ++i)
        lks_product_release(s->products[i]);
    lks_memory_free(s);
}

static lks_status matmul_create(matmul_state *s, lks_device *device, lks_product_spec *product,
                                size_t *workspace)
{
    *workspace = 0;
    for (int i = 0; i < 2; ++i) {
        product->accumulate = i == 1;
        LKS_TRY(lks_product_prepare(&s->products[i], lks_cuda_of(device), product));
        if (!s->products[i])
            return LKS_FAIL(LKS_ERR_INTERNAL,
                            "kernel matmul: the library has no product of %lld x %lld x %lld",
                            (long long)product->m, (long long)product->n, (long long)product->k);
        size_t bytes = lks_product_workspace(s->products[i]);
        *workspace = bytes > *workspace ? bytes : *workspace;
    }
    return LKS_OK;
}

static lks_status matmul_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    lks_matmul_sizes size;
    lks_product_spec product = {};
    LKS_TRY(lks_shapes_expect_matmul(spec, &size, &product.type));
    const lks_matmul_attributes *attributes = (const lks_matmul_attributes *)spec->attributes;
    product.result = spec->outputs[0].dtype;
    product.m = size.m, product.n = size.n, product.k = size.k, product.batch = size.batch;
    product.lda = attributes->transpose_a ? size.m : size.k;
    product.ldb = attributes->transpose_b ? size.k : size.n;
    product.ldc = size.n;
    product.stride_a = size.m * size.k, product.stride_b = size.k * size.n;
    product.stride_c = size.m * size.n;
    product.transpose_a = attributes->transpose_a;
    product.transpose_b = attributes->transpose_b;
    product.alpha = attributes->alpha;
    matmul_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    lks_status status = matmul_create(s, device, &product, workspace);
    if (status != LKS_OK) {
        matmul_release(s);
        return status;
    }
    *state = s;
    return LKS_OK;
}

static lks_status matmul_run(void *state, const lks_kernel_run *run)
{
    const matmul_state *s = (const matmul_state *)state;
    return lks_product_run(s->products[run->accumulate[0]], run->inputs[0], run->inputs[1],
                           run->outputs[0], NULL, NULL, run->workspace);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_matmul = {"matmul", matmul_prepare, matmul_run,
                                                             matmul_release};
