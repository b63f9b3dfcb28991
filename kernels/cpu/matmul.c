/* "matmul": products of matrices over equal leading axes, by oneDNN. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/onednn.h"

typedef struct matmul_state {
    lks_onednn_matmul *product;
} matmul_state;

static lks_status matmul_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    lks_matmul_sizes size;
    LKS_TRY(lks_shapes_expect_matmul(spec, &size, NULL));
    const lks_matmul_attributes *attributes = spec->attributes;
    int64_t m = size.m, n = size.n, k = size.k;
    bool across_a = attributes->transpose_a, across_b = attributes->transpose_b;
    const lks_onednn_matmul_spec wanted = {
        .batch = size.batch,
        .m = m,
        .n = n,
        .k = k,
        .a = {m * k, across_a ? 1 : k, across_a ? m : 1},
        .b = {k * n, across_b ? 1 : n, across_b ? k : 1},
        .c = {m * n, n, 1},
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
