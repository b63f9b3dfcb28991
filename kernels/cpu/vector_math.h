/* Elementary functions that GCC vectorises: no branch, no call, no table.
 *
 * Errors, in units of u = 2^-24 relative to the exact value of the f32 argument,
 * with and without fused multiply-add (tests/conformance checks them over all
 * of f32's range in steps):
 *     lks_exp      4 u, and 2^-126 absolute below e^-87.3; overflows to infinity
 *     lks_expm1    6 u
 *     lks_tanh     8 u
 *     lks_sigmoid  8 u, and 2^-126 absolute
 *     lks_gelu     (12 + 10 |t|) u and 2^-122 absolute, t = 2 sqrt(2/pi)(x + 0.044715 x^3)
 *     lks_gelu_derivative  (12 + 10 |t|) u (s + |x| t' s (1 - s)), s = sigmoid(t), and
 *                  2^-117 absolute
 * NaN gives NaN.
 */
#ifndef LKS_KERNELS_CPU_VECTOR_MATH_H
#define LKS_KERNELS_CPU_VECTOR_MATH_H

#include <math.h>
#include <stdint.h>
#include <string.h>

/* a b + c, rounded once where the instruction set has it. For where bits must
 * not depend on what the compiler contracts: a vector loop and its tail. */
static inline float lks_fma(float a, float b, float c)
{
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
    return __builtin_fmaf(a, b, c);
#else
    return a * b + c;
#endif
}

static inline float lks_bits_float(int32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline int32_t lks_float_bits(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* x = n ln2 + r, |r| <= ln2/2 + rounding; returns e^r - 1 and n. The addition
 * of 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits. ln2
 * is split so that n * high is exact for |n| < 2^9. The polynomial is Taylor's:
 * the first term left out is below 2^-27 of e^r. */
static inline float lks_exp_reduced(float x, int32_t *n)
{
    const float magic = 0x1.8p23f;
    float shifted = lks_fma(x, 0x1.715476p+0f, magic);
    float whole = shifted - magic;
    *n = (int32_t)((uint32_t)lks_float_bits(shifted) - (uint32_t)lks_float_bits(magic));
    float r = lks_fma(whole, -0x1.7f7d1cp-20f, lks_fma(whole, -0x1.62e4p-1f, x));
    float p = 1.0f / 5040;
    p = lks_fma(p, r, 1.0f / 720);
    p = lks_fma(p, r, 1.0f / 120);
    p = lks_fma(p, r, 1.0f / 24);
    p = lks_fma(p, r, 1.0f / 6);
    p = lks_fma(p, r, 0.5f);
    return lks_fma(p, r * r, r);
}

/* 2^n for -126 <= n <= 127; anything for the n of a NaN. */
static inline float lks_power_of_two(int32_t n)
{
    return lks_bits_float((int32_t)(((uint32_t)n + 127u) << 23));
}

static inline float lks_exp(float x)
{
    int32_t n;
    x = x < -104.0f ? -104.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float e = 1.0f + lks_exp_reduced(x, &n);
    int32_t half = n >> 1; /* two factors, since n reaches 128 and -150 */
    return e * lks_power_of_two(half) * lks_power_of_two(n - half);
}

/* For -30 <= x <= 30 only. */
static inline float lks_expm1_small(float x)
{
    int32_t n;
    float e = lks_exp_reduced(x, &n);
    float scale = lks_power_of_two(n);
    return lks_fma(e, scale, scale - 1.0f);
}

static inline float lks_tanh(float x)
{
    float size = fabsf(x);
    size = size > 10.0f ? 10.0f : size;
    float e = lks_expm1_small(2.0f * size);
    return copysignf(e / (e + 2.0f), x);
}

static inline float lks_sigmoid(float x)
{
    return 1.0f / (1.0f + lks_exp(-x));
}

/* 2 sqrt(2/pi) (x + 0.044715 x^3): (1 + tanh(t/2))/2 = sigmoid(t). */
static inline float lks_gelu_argument(float x)
{
    return x * lks_fma(0x1.2444f2p-4f, x * x, 0x1.988454p+0f);
}

static inline float lks_gelu(float x)
{
    return x * lks_sigmoid(lks_gelu_argument(x));
}

static inline float lks_gelu_derivative(float x)
{
    float s = lks_sigmoid(lks_gelu_argument(x));
    float slope = lks_fma(3.0f * 0x1.2444f2p-4f, x * x, 0x1.988454p+0f);
    /* x slope s (1 - s) tends to 0 where x slope overflows. */
    float bounded = x < -100.0f ? -100.0f : x > 100.0f ? 100.0f : x;
    slope = slope > 1e4f ? 1e4f : slope;
    return lks_fma(bounded * slope * s, 1.0f - s, s);
}

#endif
