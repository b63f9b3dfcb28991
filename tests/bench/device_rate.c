/* The rate of a device's matrix products: bench_device_rate DEVICE f32|bf16 [N] prints TFLOP/s of N x N x N, the
 * best of some rounds. */
#include "kernels/device.h"
#include "kernels/ops.h"
#include "runtime/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5, REPEATS = 10 };

typedef struct rate {
    lks_device *device;
    lks_kernel *kernel;
    void *a, *b, *c, *workspace;
} rate;

static lks_status open_product(rate *r, const char *device, lks_dtype dtype, int64_t n)
{
    static const lks_matmul_attributes attributes = {.alpha = 1};
    lks_kernel_tensor square = {dtype, LKS_SHAPE(n, n)}, inputs[] = {square, square};
    lks_kernel_spec spec = {"matmul", &attributes, inputs, 2, &square, 1};
    size_t bytes = (size_t)(n * n) * lks_dtype_bytes(dtype);
    LKS_TRY(lks_device_open(&r->device, device, 0));
    LKS_TRY(lks_kernel_prepare(&r->kernel, r->device, &spec));
    LKS_TRY(lks_device_allocate(r->device, bytes, &r->a));
    LKS_TRY(lks_device_allocate(r->device, bytes, &r->b));
    LKS_TRY(lks_device_allocate(r->device, bytes, &r->c));
    return lks_device_allocate(r->device, lks_kernel_workspace(r->kernel), &r->workspace);
}

/* Numbers that are not all zero: a processor may be faster, and cooler, with zeros. */
static lks_status fill(const rate *r, void *memory, size_t bytes)
{
    unsigned char *host = malloc(bytes);
    if (!host)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for %zu bytes", bytes);
    unsigned word = 1;
    for (size_t i = 0; i < bytes; ++i) {
        word = word * 1664525u + 1013904223u;
        host[i] = (unsigned char)(i % 2 ? 0x3f : word >> 24); /* bf16 near 1 */
    }
    lks_status status = lks_device_copy_in(r->device, memory, host, bytes);
    free(host);
    return status;
}

static lks_status measure(const rate *r, int64_t n, double *best)
{
    const void *inputs[] = {r->a, r->b};
    void *outputs[] = {r->c};
    lks_kernel_context context = {0, NULL};
    lks_kernel_run run = {inputs, outputs, NULL, r->workspace, &context};
    for (int round = 0; round <= ROUNDS; ++round) {
        LKS_TRY(lks_device_synchronize(r->device));
        uint64_t start = lks_clock_ns();
        for (int i = 0; i < REPEATS; ++i)
            LKS_TRY(lks_kernel_execute(r->kernel, &run));
        LKS_TRY(lks_device_synchronize(r->device));
        double flops = 2.0 * (double)n * (double)n * (double)n * REPEATS;
        double found = flops / lks_clock_seconds_since(start) / 1e12;
        if (round > 0 && found > *best) /* the first warms up */
            *best = found;
    }
    return LKS_OK;
}

int main(int argc, char **argv)
{
    rate r = {0};
    double best = 0;
    lks_dtype dtype;
    if (argc < 3 || !lks_dtype_parse(argv[2], &dtype) || (dtype != LKS_F32 && dtype != LKS_BF16)) {
        fprintf(stderr, "usage: %s DEVICE f32|bf16 [N]\n", argv[0]);
        return LKS_ERR_USAGE;
    }
    int64_t n = argc > 3 ? atoll(argv[3]) : 8192;
    size_t bytes = (size_t)(n * n) * lks_dtype_bytes(dtype);
    lks_status status = open_product(&r, argv[1], dtype, n);
    if (status == LKS_OK)
        status = fill(&r, r.a, bytes);
    if (status == LKS_OK)
        status = fill(&r, r.b, bytes);
    if (status == LKS_OK)
        status = measure(&r, n, &best);
    if (status != LKS_OK) {
        fprintf(stderr, "%s\n", lks_status_message());
        return (int)status;
    }
    printf("%.3f\n", best);
    return 0;
}
