/* "unary" and "unary_grad": elementwise functions of one tensor. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"

enum { UNARY_TILE = 512 }; /* slopes computed at a time */

typedef struct unary_state {
    lks_unary_attributes attributes;
    size_t count;
} unary_state;

static lks_status unary_create(void **state, const lks_kernel_spec *spec)
{
    unary_state *s;
    LKS_TRY(LKS_NEW(&s));
    s->attributes = *(const lks_unary_attributes *)spec->attributes;
    s->count = lks_shape_elements(&spec->inputs[0].shape);
    *state = s;
    return LKS_OK;
}

static lks_status unary_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_unary(spec, NULL));
    return unary_create(state, spec);
}

static lks_status unary_grad_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                     size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_unary_grad(spec, NULL));
    return unary_create(state, spec);
}

/* log x = k ln2 + log(1 + f) with 2/3 <= 1 + f < 4/3, and log(1 + f) = 2 atanh(t) with t = f / (2 +
 * f), written f - (f^2/2 - t (f^2/2 + series)) so that f, which is exact, leads. Within 3 u. */
static inline float unary_log(float x)
{
    const uint32_t two_thirds = 0x3f2aaaab;
    bool tiny = x < 0x1p-126f;
    uint32_t bits = (uint32_t)lks_float_bits(tiny ? x * 0x1p24f : x);
    int32_t k = (int32_t)(bits - two_thirds) >> 23;
    float f = lks_bits_float((int32_t)(bits - ((uint32_t)k << 23))) - 1.0f;
    float exponent = (float)(k - (tiny ? 24 : 0));
    float t = f / (2.0f + f), z = t * t, half = 0.5f * f * f;
    float series =
        z * (2.0f / 3 + z * (2.0f / 5 + z * (2.0f / 7 + z * (2.0f / 9 + z * 2.0f / 11))));
    float low = exponent * 0x1.7f7d1cp-20f + t * (half + series);
    float y = exponent * 0x1.62e4p-1f - ((half - low) - f);
    y = x == INFINITY ? x : y;
    y = x == 0.0f ? -INFINITY : y;
    return x >= 0.0f ? y : NAN;
}

/* y[i] = `value`, an expression of the element v = x[i]; y may be x. */
#define UNARY_EACH(value)                                                                          \
    _Pragma("omp simd") for (size_t i = 0; i < n; ++i)                                             \
    {                                                                                              \
        const float v = x[i];                                                                      \
        y[i] = (value);                                                                            \
    }                                                                                              \
    break

static lks_status unary_run(void *state, const lks_kernel_run *run)
{
    const unary_state *s = state;
    const float *x = run->inputs[0];
    float *y = run->outputs[0];
    const size_t n = s->count;
    const float alpha = s->attributes.alpha, beta = s->attributes.beta;
    switch (s->attributes.function) {
    case LKS_UNARY_RELU:
        UNARY_EACH(v < 0.0f ? 0.0f : v);
    case LKS_UNARY_GELU:
        UNARY_EACH(lks_gelu(v));
    case LKS_UNARY_SILU:
        UNARY_EACH(v * lks_sigmoid(v));
    case LKS_UNARY_TANH:
        UNARY_EACH(lks_tanh(v));
    case LKS_UNARY_SIGMOID:
        UNARY_EACH(lks_sigmoid(v));
    case LKS_UNARY_EXP:
        UNARY_EACH(lks_exp(v));
    case LKS_UNARY_LOG:
        UNARY_EACH(unary_log(v));
    case LKS_UNARY_SQRT:
        UNARY_EACH(sqrtf(v));
    case LKS_UNARY_SQUARE:
        UNARY_EACH(v * v);
    case LKS_UNARY_RECIPROCAL:
        UNARY_EACH(1.0f / v);
    case LKS_UNARY_AFFINE:
        UNARY_EACH(alpha * v + beta);
    }
    return LKS_OK;
}

static inline float unary_silu_derivative(float x)
{
    float s = lks_sigmoid(x);
    return s + (x < -100.0f ? -100.0f : x) * s * (1.0f - s);
}

/* slope[i] = `value`, an expression of v = x[i] and r = y[i]. */
#define UNARY_SLOPE(value)                                                                         \
    _Pragma("omp simd") for (size_t i = 0; i < n; ++i)                                             \
    {                                                                                              \
        const float v = x[i], r = y[i];                                                            \
        (void)v, (void)r;                                                                          \
        slope[i] = (value);                                                                        \
    }                                                                                              \
    break

static void unary_slopes(const lks_unary_attributes *attributes, size_t n, const float *x,
                         const float *y, float *restrict slope)
{
    const float alpha = attributes->alpha;
    switch (attributes->function) {
    case LKS_UNARY_RELU:
        UNARY_SLOPE(r > 0.0f ? 1.0f : 0.0f);
    case LKS_UNARY_GELU:
        UNARY_SLOPE(lks_gelu_derivative(v));
    case LKS_UNARY_SILU:
        UNARY_SLOPE(unary_silu_derivative(v));
    case LKS_UNARY_TANH:
        UNARY_SLOPE(1.0f - r * r);
    case LKS_UNARY_SIGMOID:
        UNARY_SLOPE(r * (1.0f - r));
    case LKS_UNARY_EXP:
        UNARY_SLOPE(r);
    case LKS_UNARY_LOG:
        UNARY_SLOPE(1.0f / v);
    case LKS_UNARY_SQRT:
        UNARY_SLOPE(0.5f / r);
    case LKS_UNARY_SQUARE:
        UNARY_SLOPE(2.0f * v);
    case LKS_UNARY_RECIPROCAL:
        UNARY_SLOPE(-(r * r));
    case LKS_UNARY_AFFINE:
        UNARY_SLOPE(alpha);
    }
}

static lks_status unary_grad_run(void *state, const lks_kernel_run *run)
{
    const unary_state *s = state;
    const float *dy = run->inputs[0], *x = run->inputs[1], *y = run->inputs[2];
    float *dx = run->outputs[0];
    const bool accumulate = run->accumulate[0];
    float slope[UNARY_TILE];
    for (size_t first = 0; first < s->count; first += UNARY_TILE) {
        size_t n = s->count - first < UNARY_TILE ? s->count - first : UNARY_TILE;
        unary_slopes(&s->attributes, n, x + first, y + first, slope);
#pragma omp simd
        for (size_t i = 0; i < n; ++i) {
            float g = dy[first + i] * slope[i];
            dx[first + i] = accumulate ? dx[first + i] + g : g;
        }
    }
    return LKS_OK;
}

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_unary) = {
    .name = "unary",
    .prepare = unary_prepare,
    .run = unary_run,
    .release = lks_memory_free,
};

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_unary_grad) = {
    .name = "unary_grad",
    .prepare = unary_grad_prepare,
    .run = unary_grad_run,
    .release = lks_memory_free,
};
