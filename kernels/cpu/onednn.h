/* oneDNN behind lockstep's status, and its matrix product prepared once. */
#ifndef LKS_KERNELS_CPU_ONEDNN_H
#define LKS_KERNELS_CPU_ONEDNN_H

#include "kernels/cpu/cpu.h"

/* LKS_ERR_INTERNAL with oneDNN's status and the call. */
lks_status lks_onednn_check(dnnl_status_t status, const char *call) LKS_MUST_CHECK;
#define LKS_ONEDNN(call) LKS_TRY(lks_onednn_check((call), #call))

/* c[m, n] = alpha sum_k a[m, k] b[k, n] + bias[n], or c += the same, for each of
 * `batch` products. Steps are in elements; of the last two of a matrix one is 1. */
typedef struct lks_onednn_steps {
    int64_t batch, row, column;
} lks_onednn_steps;

typedef struct lks_onednn_matmul_spec {
    int64_t batch, m, n, k; /* batch 1: no batch axis */
    lks_onednn_steps a, b, c;
    float alpha;
    lks_dtype type; /* of a and b: LKS_F32 (or LKS_NONE), LKS_BF16; all else is f32 */
    bool bias;
    bool overwrite, accumulate; /* which of the two will be run: either or both */
} lks_onednn_matmul_spec;

typedef struct lks_onednn_matmul lks_onednn_matmul;

/* *workspace gets the bytes that execute needs, 64-byte aligned. */
lks_status lks_onednn_matmul_open(lks_onednn_matmul **out, lks_cpu_device *cpu,
                                  const lks_onednn_matmul_spec *spec,
                                  size_t *workspace) LKS_MUST_CHECK;
void lks_onednn_matmul_close(lks_onednn_matmul *matmul); /* NULL is fine */
/* Allocates nothing. */
lks_status lks_onednn_matmul_execute(lks_onednn_matmul *matmul, const void *a, const void *b,
                                     const float *bias, float *c, bool accumulate,
                                     void *workspace) LKS_MUST_CHECK;

#endif
