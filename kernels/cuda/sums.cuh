/* Sums in f64 with one fixed order. */
#ifndef LKS_KERNELS_CUDA_SUMS_CUH
#define LKS_KERNELS_CUDA_SUMS_CUH

#include "kernels/cuda/cuda.cuh"

/* Over the warp by butterfly; the result in all lanes. */
static __device__ __forceinline__ double lks_warp_sum(double x)
{
    for (int offset = 16; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

/* Over a block of `Threads` threads, all of which call it: the warps' sums in order of the warps. The
 * result in all threads. `parts`: shared memory of the block, Threads / 32 of them. */
template <int Threads>
static __device__ __forceinline__ double lks_block_sum(double x, double *parts)
{
    x = lks_warp_sum(x);
    __syncthreads(); /* whoever still reads the sums of the call before */
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < Threads / 32; ++i)
        x += parts[i];
    return x;
}

#endif
