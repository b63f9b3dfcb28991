/* "matmul": products of matrices over equal leading axes, by oneDNN. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/onednn.h"

typedef struct matmul_state {
    lks_onednn_matmul *product;
} matmul_state;

typedef struct matmul_operand {
    int64_t batch, rows, columns; /* of op(x) */
    lks_onednn_steps steps;
} matmul_operand;

static lks_status matmul_describe(matmul_operand *out, const lks_kernel_spec *spec,
                                  const lks_kernel_tensor *x, bool transpose)
{
    int axes = x->shape.axes;
    if (axes < 2)
        return lks_cpu_refuse(spec, "a matrix has at least two axes");
    int64_t rows = x->shape.size[axes - 2], columns = x->shape.size[axes - 1];
    *out = (matmul_operand){
        .batch = lks_cpu_elements(x) / (rows * columns),
        .rows = transpose ? columns : rows,
        .columns = transpose ? rows : columns,
        .steps = {rows * columns, transpose ? 1 : columns, transpose ? columns : 1},
    };
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
        return lks_cpu_refuse(spec, "the leading axes of a and b differ");
    if (a->columns != b->rows)
        return lks_cpu_refuse(spec, "op(a) has %lld columns, op(b) %lld rows",
                              (long long)a->columns, (long long)b->rows);
    wanted.size[wanted.axes - 2] = a->rows;
    wanted.size[wanted.axes - 1] = b->columns;
    return lks_cpu_expect_shape(spec, "c", &spec->outputs[0], &wanted);
}

static lks_status matmul_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    matmul_operand a = {0}, b = {0};
    LKS_TRY(lks_cpu_expect_types(spec, "ff", "f"));
    LKS_TRY(lks_cpu_expect_attributes(spec));
    const lks_matmul_attributes *attributes = spec->attributes;
    LKS_TRY(matmul_describe(&a, spec, &spec->inputs[0], attributes->transpose_a));
    LKS_TRY(matmul_describe(&b, spec, &spec->inputs[1], attributes->transpose_b));
    LKS_TRY(matmul_check(spec, &a, &b));
    const lks_onednn_matmul_spec wanted = {
        .batch = a.batch,
        .m = a.rows,
        .n = b.columns,
        .k = a.columns,
        .a = a.steps,
        .b = b.steps,
        .c = {a.rows * b.columns, b.columns, 1},
        .alpha = attributes->alpha,
        .overwrite = true,
        .accumulate = true,
    };
    matmul_state *s;
    LKS_TRY(LKS_NEW(&s));
    lks_status status = lks_onednn_matmul_open(&s->product, lks_cpu_of(device), &wanted, workspace);
    if (status != LKS_OK) {
        lks_memory_free(s);
        return status;
    }
    *state = s;
    return LKS_OK;
}

static lks_status matmul_run(void *state, const lks_kernel_run *run)
{
    const matmul_state *s = state;
    return lks_onednn_matmul_execute(s->product, run->inputs[0], run->inputs[1], NULL,
                                     run->outputs[0], run->accumulate[0], run->workspace);
}

static void matmul_release(void *state)
{
    matmul_state *s = state;
    lks_onednn_matmul_close(s->product);
    lks_memory_free(s);
}

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_matmul) = {
    .name = "matmul",
    .prepare = matmul_prepare,
    .run = matmul_run,
    .release = matmul_release,
};
