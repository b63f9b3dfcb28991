/* What a device can do: the best and the worst of some rounds, each long enough for its clocks and its power to settle:
 *     bench_device_rate DEVICE f32|bf16 [N]   products of N x N x N, in TFLOP/s
 *     bench_device_rate DEVICE copy [N]       copies of N x N f32 within its memory, in GB/s read and written */
#include "kernels/device.h"
#include "kernels/ops.h"
#include "runtime/base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 5 };
static const double WARM_SECONDS = 0.5, ROUND_SECONDS = 0.4;

typedef struct rate {
    lks_device *device;
    lks_kernel *kernel; /* NULL: copies */
    size_t bytes;       /* of each matrix */
    void *a, *b, *c, *workspace;
    double work; /* of one call: operations, or bytes */
} rate;

static lks_status open_product(rate *r, lks_dtype dtype, int64_t n)
{
    static const lks_matmul_attributes attributes = {.alpha = 1};
    lks_kernel_tensor square = {dtype, LKS_SHAPE(n, n)}, inputs[] = {square, square};
    lks_kernel_spec spec = {"matmul", &attributes, inputs, 2, &square, 1};
    LKS_TRY(lks_kernel_prepare(&r->kernel, r->device, &spec));
    r->work = 2.0 * (double)n * (double)n * (double)n;
    LKS_TRY(lks_device_allocate(r->device, r->bytes, &r->c));
    return lks_device_allocate(r->device, lks_kernel_workspace(r->kernel), &r->workspace);
}

/* Numbers that are not all zero: a processor may be faster, and cooler, with zeros. */
static lks_status fill(const rate *r, void *memory)
{
    unsigned char *host = malloc(r->bytes);
    if (!host)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for %zu bytes", r->bytes);
    unsigned word = 1;
    for (size_t i = 0; i < r->bytes; ++i) {
        word = word * 1664525u + 1013904223u;
        unsigned sign = word >> 24 & 0x80; /* bf16 near 1 or -1 */
        host[i] = (unsigned char)(i % 2 ? 0x3f | sign : word >> 16);
    }
    lks_status status = lks_device_copy_in(r->device, memory, host, r->bytes);
    free(host);
    return status;
}

static lks_status rate_open(rate *r, const char *device, lks_dtype dtype, int64_t n)
{
    bool copies = dtype == LKS_NONE;
    r->bytes = (size_t)(n * n) * lks_dtype_bytes(copies ? LKS_F32 : dtype);
    r->work = 2.0 * (double)r->bytes;
    LKS_TRY(lks_device_open(&r->device, device, 0));
    if (!copies)
        LKS_TRY(open_product(r, dtype, n));
    LKS_TRY(lks_device_allocate(r->device, r->bytes, &r->a));
    LKS_TRY(lks_device_allocate(r->device, r->bytes, &r->b));
    LKS_TRY(fill(r, r->a));
    return fill(r, r->b);
}

static lks_status work(const rate *r)
{
    const void *inputs[] = {r->a, r->b};
    void *outputs[] = {r->c};
    lks_kernel_context context = {0, NULL};
    lks_kernel_run run = {inputs, outputs, NULL, r->workspace, &context};
    return r->kernel ? lks_kernel_execute(r->kernel, &run)
                     : lks_device_copy(r->device, r->a, r->b, r->bytes);
}

static lks_status work_some(const rate *r, uint64_t times, double *seconds)
{
    LKS_TRY(lks_device_synchronize(r->device));
    uint64_t start = lks_clock_ns();
    for (uint64_t i = 0; i < times; ++i)
        LKS_TRY(work(r));
    LKS_TRY(lks_device_synchronize(r->device));
    *seconds = lks_clock_seconds_since(start);
    return LKS_OK;
}

/* Warms up, and finds how many times fill a round. */
static lks_status find_times(const rate *r, uint64_t *times)
{
    uint64_t start = lks_clock_ns();
    double seconds = 0;
    for (*times = 1;; *times *= seconds < ROUND_SECONDS / 2 ? 2 : 1) {
        LKS_TRY(work_some(r, *times, &seconds));
        if (seconds >= ROUND_SECONDS / 2 && lks_clock_seconds_since(start) >= WARM_SECONDS)
            break;
    }
    *times = 1 + (uint64_t)((double)*times * ROUND_SECONDS / seconds);
    return LKS_OK;
}

static lks_status measure(const rate *r, double *best, double *worst)
{
    uint64_t times = 0;
    LKS_TRY(find_times(r, &times));
    for (int round = 0; round < ROUNDS; ++round) {
        double seconds = 0;
        LKS_TRY(work_some(r, times, &seconds));
        double found = r->work * (double)times / seconds;
        *best = found > *best ? found : *best;
        *worst = round == 0 || found < *worst ? found : *worst;
    }
    return LKS_OK;
}

static void rate_close(rate *r)
{
    size_t workspace = r->kernel ? lks_kernel_workspace(r->kernel) : 0;
    void *matrices[] = {r->a, r->b, r->c};
    lks_kernel_release(r->kernel);
    for (int i = 0; i < 3; ++i)
        if (matrices[i])
            lks_device_free(r->device, matrices[i], r->bytes);
    if (r->workspace)
        lks_device_free(r->device, r->workspace, workspace);
    lks_device_close(r->device);
}

int main(int argc, char **argv)
{
    rate r = {0};
    double best = 0, worst = 0;
    lks_dtype dtype = LKS_NONE;
    bool copies = argc > 2 && !strcmp(argv[2], "copy");
    int64_t n = argc > 3 ? atoll(argv[3]) : 8192;
    bool known = copies || (argc > 2 && lks_dtype_parse(argv[2], &dtype) &&
                            (dtype == LKS_F32 || dtype == LKS_BF16));
    if (!known || n < 1) {
        fprintf(stderr, "usage: %s DEVICE f32|bf16|copy [N]\n", argv[0]);
        return LKS_ERR_USAGE;
    }
    lks_status status = rate_open(&r, argv[1], dtype, n);
    if (status == LKS_OK)
        status = measure(&r, &best, &worst);
    rate_close(&r);
    if (status != LKS_OK) {
        fprintf(stderr, "%s\n", lks_status_message());
        return (int)status;
    }
    double unit = copies ? 1e9 : 1e12;
    printf("%.4g %.4g\n", best / unit, worst / unit);
    return 0;
}
