/* "softmax" and its gradient over the last axis. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"

enum { SOFTMAX_LANES = 16 };

typedef struct softmax_state {
    size_t rows, width;
    size_t period; /* rows of one matrix when causal, else 0 */
} softmax_state;

static lks_status softmax_create(void **state, const lks_kernel_spec *spec)
{
    const lks_softmax_attributes *attributes = spec->attributes;
    const lks_kernel_tensor *x = &spec->inputs[0];
    softmax_state *s;
    LKS_TRY(LKS_NEW(&s));
    s->width = (size_t)lks_spec_columns(x);
    s->rows = (size_t)lks_spec_rows(x);
    s->period = attributes->causal ? (size_t)x->shape.size[x->shape.axes - 2] : 0;
    *state = s;
    return LKS_OK;
}

static lks_status softmax_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                  size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_softmax(spec, NULL));
    return softmax_create(state, spec);
}

static lks_status softmax_grad_prepare(void **state, lks_device *device,
                                       const lks_kernel_spec *spec, size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_softmax_grad(spec, NULL));
    return softmax_create(state, spec);
}

/* Columns that row `row` sees. */
static size_t softmax_visible(const softmax_state *s, size_t row)
{
    if (!s->period)
        return s->width;
    size_t last = row % s->period;
    return last < s->width ? last + 1 : s->width;
}

static float softmax_fold(float *lane)
{
    for (int step = SOFTMAX_LANES / 2; step; step /= 2)
        for (int l = 0; l < step; ++l)
            lane[l] += lane[l + step];
    return lane[0];
}

static float softmax_largest(size_t n, const float *x)
{
    float lane[SOFTMAX_LANES];
    size_t i = 0;
    for (int l = 0; l < SOFTMAX_LANES; ++l)
        lane[l] = x[0];
    for (; i + SOFTMAX_LANES <= n; i += SOFTMAX_LANES)
        for (int l = 0; l < SOFTMAX_LANES; ++l)
            lane[l] = x[i + l] > lane[l] ? x[i + l] : lane[l];
    for (; i < n; ++i)
        lane[0] = x[i] > lane[0] ? x[i] : lane[0];
    for (int l = 1; l < SOFTMAX_LANES; ++l)
        lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
    return lane[0];
}

/* y = e^(x - largest); returns the sum of y. */
static float softmax_exponentials(size_t n, float largest, const float *x, float *y)
{
    float lane[SOFTMAX_LANES] = {0};
    size_t i = 0;
#pragma omp simd
    for (size_t j = 0; j < n; ++j)
        y[j] = lks_exp(x[j] - largest);
    for (; i + SOFTMAX_LANES <= n; i += SOFTMAX_LANES)
        for (int l = 0; l < SOFTMAX_LANES; ++l)
            lane[l] += y[i + l];
    for (int l = 0; i < n; ++i, ++l)
        lane[l] += y[i];
    return softmax_fold(lane);
}

static float softmax_dot(size_t n, const float *a, const float *b)
{
    float lane[SOFTMAX_LANES] = {0};
    size_t i = 0;
    for (; i + SOFTMAX_LANES <= n; i += SOFTMAX_LANES)
        for (int l = 0; l < SOFTMAX_LANES; ++l)
            lane[l] += a[i + l] * b[i + l];
    for (int l = 0; i < n; ++i, ++l)
        lane[l] += a[i] * b[i];
    return softmax_fold(lane);
}

static lks_status softmax_run(void *state, const lks_kernel_run *run)
{
    const softmax_state *s = state;
    const float *x = run->inputs[0];
    float *y = run->outputs[0];
    for (size_t row = 0; row < s->rows; ++row, x += s->width, y += s->width) {
        size_t n = softmax_visible(s, row);
        float sum = softmax_exponentials(n, softmax_largest(n, x), x, y);
#pragma omp simd
        for (size_t i = 0; i < n; ++i)
            y[i] /= sum;
        for (size_t i = n; i < s->width; ++i)
            y[i] = 0.0f;
    }
    return LKS_OK;
}

static lks_status softmax_grad_run(void *state, const lks_kernel_run *run)
{
    const softmax_state *s = state;
    const float *dy = run->inputs[0], *y = run->inputs[1];
    float *dx = run->outputs[0];
    bool accumulate = run->accumulate[0];
    for (size_t row = 0; row < s->rows; ++row) {
        size_t n = softmax_visible(s, row);
        float dot = softmax_dot(n, dy, y);
#pragma omp simd
        for (size_t i = 0; i < n; ++i) {
            float g = y[i] * (dy[i] - dot);
            dx[i] = accumulate ? dx[i] + g : g;
        }
        for (size_t i = n; i < s->width && !accumulate; ++i)
            dx[i] = 0.0f;
        dy += s->width, y += s->width, dx += s->width;
    }
    return LKS_OK;
}

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_softmax) = {
    .name = "softmax",
    .prepare = softmax_prepare,
    .run = softmax_run,
    .release = lks_memory_free,
};

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_softmax_grad) = {
    .name = "softmax_grad",
    .prepare = softmax_grad_prepare,
    .run = softmax_grad_run,
    .release = lks_memory_free,
};
