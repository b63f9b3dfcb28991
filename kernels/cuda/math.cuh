/* Elementary functions that more than one kernel needs. Errors in units of u = 2^-24, with CUDA's expf (2 ulp)
 * and IEEE division:
 *     lks_sigmoid  8 u
 *     lks_gelu     (12 + 10 |t|) u, t = 2 sqrt(2/pi) (x + 0.044715 x^3)
 */
#ifndef LKS_KERNELS_CUDA_MATH_CUH
#define LKS_KERNELS_CUDA_MATH_CUH

#include "kernels/cuda/cuda.cuh"

static __device__ __forceinline__ float lks_sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* 2 sqrt(2/pi) (x + 0.044715 x^3): (1 + tanh(t/2))/2 = sigmoid(t). */
static __device__ __forceinline__ float lks_gelu_argument(float x)
{
    return x * fmaf(0x1.2444f2p-4f, x * x, 0x1.988454p+0f);
}

static __device__ __forceinline__ float lks_gelu(float x)
{
    return x * lks_sigmoid(lks_gelu_argument(x));
}

static __device__ __forceinline__ float lks_gelu_derivative(float x)
{
    float s = lks_sigmoid(lks_gelu_argument(x));
    float slope = fmaf(3.0f * 0x1.2444f2p-4f, x * x, 0x1.988454p+0f);
    /* x slope s (1 - s) tends to 0 where x slope overflows. */
    float bounded = fminf(fmaxf(x, -100.0f), 100.0f);
    return fmaf(bounded * fminf(slope, 1e4f) * s, 1.0f - s, s);
}

#endif
