/* "reduce" and "expand": sums over, and copies along, the middle axis of outer x middle x inner. */
#include "kernels/cpu/cpu.h"

/* Sums of a tile of columns are taken in f32 over RUN rows and those in f64. */
enum { REDUCE_LANES = 16, REDUCE_TILE = 256, REDUCE_RUN = 32 };

static lks_status reduce_create(void **state, const lks_kernel_spec *spec, bool expand)
{
    lks_reduce_attributes *s;
    LKS_TRY(expand ? lks_shapes_expect_expand(spec, NULL) : lks_shapes_expect_reduce(spec, NULL));
    LKS_TRY(LKS_NEW(&s));
    *s = *(const lks_reduce_attributes *)spec->attributes;
    *state = s;
    return LKS_OK;
}

static lks_status reduce_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    (void)device;
    *workspace = 0;
    return reduce_create(state, spec, false);
}

static lks_status expand_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    (void)device;
    *workspace = 0;
    return reduce_create(state, spec, true);
}

static double reduce_row(int64_t n, const float *x)
{
    double lane[REDUCE_LANES] = {0};
    int64_t i = 0;
    for (; i + REDUCE_LANES <= n; i += REDUCE_LANES)
        for (int l = 0; l < REDUCE_LANES; ++l)
            lane[l] += (double)x[i + l];
    for (int l = 0; i < n; ++i, ++l)
        lane[l] += (double)x[i];
    for (int step = REDUCE_LANES / 2; step; step /= 2)
        for (int l = 0; l < step; ++l)
            lane[l] += lane[l + step];
    return lane[0];
}

/* total[c] = sum over rows of x[row, c] for `width` columns. */
static void reduce_columns(int64_t rows, int64_t stride, int64_t width, const float *x,
                           double *total)
{
    float part[REDUCE_TILE];
    for (int64_t c = 0; c < width; ++c)
        total[c] = 0.0;
    for (int64_t first = 0; first < rows; first += REDUCE_RUN) {
        int64_t end = first + REDUCE_RUN < rows ? first + REDUCE_RUN : rows;
        for (int64_t c = 0; c < width; ++c)
            part[c] = x[first * stride + c];
        for (int64_t row = first + 1; row < end; ++row)
#pragma omp simd
            for (int64_t c = 0; c < width; ++c)
                part[c] += x[row * stride + c];
#pragma omp simd
        for (int64_t c = 0; c < width; ++c)
            total[c] += (double)part[c];
    }
}

static void reduce_store(int64_t count, float scale, const double *total, bool accumulate, float *y)
{
    for (int64_t c = 0; c < count; ++c) {
        float v = (float)((double)scale * total[c]);
        y[c] = accumulate ? y[c] + v : v;
    }
}

static lks_status reduce_run(void *state, const lks_kernel_run *run)
{
    const lks_reduce_attributes *s = state;
    const float *x = run->inputs[0];
    float *y = run->outputs[0];
    double total[REDUCE_TILE];
    for (int64_t o = 0; o < s->outer; ++o, x += s->middle * s->inner, y += s->inner) {
        if (s->inner == 1) {
            total[0] = reduce_row(s->middle, x);
            reduce_store(1, s->scale, total, run->accumulate[0], y);
            continue;
        }
        for (int64_t c = 0; c < s->inner; c += REDUCE_TILE) {
            int64_t width = s->inner - c < REDUCE_TILE ? s->inner - c : REDUCE_TILE;
            reduce_columns(s->middle, s->inner, width, x + c, total);
            reduce_store(width, s->scale, total, run->accumulate[0], y + c);
        }
    }
    return LKS_OK;
}

/* y[i] (+)= scale x[i * step]. */
static void expand_row(int64_t n, int step, float scale, const float *x, bool accumulate, float *y)
{
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        float v = scale * x[i * step];
        y[i] = accumulate ? y[i] + v : v;
    }
}

static lks_status expand_run(void *state, const lks_kernel_run *run)
{
    const lks_reduce_attributes *s = state;
    const float *x = run->inputs[0];
    float *y = run->outputs[0];
    bool accumulate = run->accumulate[0];
    for (int64_t o = 0; o < s->outer; ++o, x += s->inner) {
        if (s->inner == 1)
            expand_row(s->middle, 0, s->scale, x, accumulate, y);
        for (int64_t m = 0; m < s->middle && s->inner > 1; ++m)
            expand_row(s->inner, 1, s->scale, x, accumulate, y + m * s->inner);
        y += s->middle * s->inner;
    }
    return LKS_OK;
}

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_reduce) = {
    .name = "reduce",
    .prepare = reduce_prepare,
    .run = reduce_run,
    .release = lks_memory_free,
};

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_expand) = {
    .name = "expand",
    .prepare = expand_prepare,
    .run = expand_run,
    .release = lks_memory_free,
};
