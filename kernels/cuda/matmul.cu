/* "matmul": products of matrices over equal leading axes, by cuBLASLt. */
#include "kernels/cuda/products.h"

typedef struct matmul_operand {
    int64_t batch, rows, columns; /* of op(x) */
    int64_t row_length, elements; /* in memory */
} matmul_operand;

static lks_status matmul_describe(matmul_operand *out, const lks_kernel_spec *spec,
                                  const lks_kernel_tensor *x, bool transpose)
{
    int axes = x->shape.axes;
    if (axes < 2)
        return lks_cuda_refuse(spec, "a matrix has at least two axes");
    int64_t rows = x->shape.size[axes - 2], columns = x->shape.size[axes - 1];
    *out = (matmul_operand){lks_cuda_elements(x) / (rows * columns), transpose ? columns : rows,
                            transpose ? rows : columns, columns, rows * columns};
    return LKS_OK;
}

static lks_status matmul_check(const lks_kernel_spec *spec, const matmul_operand *a,
                               const matmul_operand *b)
{
    const lks_shape *left = &spec->inputs[0].shape, *right = &spec->inputs[1].shape;
    lks_shape wanted = *left;
    bool same = left->axes == right->axes;
    for (int i = 0; same && i < left->axes - 2; ++i)
        same = left->size[i] == right->size[i];
    if (!same)
        return lks_cuda_refuse(spec, "the leading axes of a and b differ");
    if (a->columns != b->rows)
        return lks_cuda_refuse(spec, "op(a) has %lld columns, op(b) %lld rows",
                               (long long)a->columns, (long long)b->rows);
    wanted.size[wanted.axes - 2] = a->rows;
    wanted.size[wanted.axes - 1] = b->columns;
    return lks_cuda_expect_shape(spec, "c", &spec->outputs[0], &wanted);
}

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
    matmul_operand a = {}, b = {};
    lks_product_spec product = {};
    LKS_TRY(lks_cuda_expect_types(spec, "tt", "g", &product.type));
    LKS_TRY(lks_cuda_expect_attributes(spec));
    const lks_matmul_attributes *attributes = (const lks_matmul_attributes *)spec->attributes;
    LKS_TRY(matmul_describe(&a, spec, &spec->inputs[0], attributes->transpose_a));
    LKS_TRY(matmul_describe(&b, spec, &spec->inputs[1], attributes->transpose_b));
    LKS_TRY(matmul_check(spec, &a, &b));
    product.result = spec->outputs[0].dtype;
    product.m = a.rows, product.n = b.columns, product.k = a.columns, product.batch = a.batch;
    product.lda = a.row_length, product.ldb = b.row_length, product.ldc = b.columns;
    product.stride_a = a.elements, product.stride_b = b.elements;
    product.stride_c = a.rows * b.columns;
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
