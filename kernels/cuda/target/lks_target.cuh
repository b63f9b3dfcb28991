/* What device code is written against: the launch, shared memory and tensor cores of a CUDA device.
 *
 * This is the one for nvcc. Tests put another of the same name before it in the include path, which runs
 * the same source thread by thread on a CPU.
 */
#ifndef LKS_TARGET_CUH
#define LKS_TARGET_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <stdint.h>

/* kernel<<<grid, block, shared_bytes, stream>>>(arguments); errors: cudaGetLastError. */
#define LKS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                 \
    kernel<<<(grid), (block), (shared_bytes), (stream)>>>(__VA_ARGS__)

/* The dynamic shared memory of a kernel as an array of `type`, 16-byte aligned. Once per kernel. */
#define LKS_DYNAMIC_SHARED(type, name)                                                             \
    extern __shared__ __align__(16) unsigned char lks_dynamic_shared[];                            \
    type *name = reinterpret_cast<type *>(lks_dynamic_shared)

/* Fragments as in the PTX ISA, "Matrix Fragments for mma.m16n8k16": a 16x16 row-major bf16 in four
 * registers, b 16x8 column-major in two, d 16x8 f32 in four; d += a b. All lanes of the warp. */
static __device__ __forceinline__ void lks_mma_bf16(float d[4], const uint32_t a[4],
                                                    const uint32_t b[2])
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/* Four 8x8 matrices of 16-bit elements; lane i gives the address in shared memory of row i mod 8 of matrix
 * i div 8 (16 bytes, 16-byte aligned). "ldmatrix.x4", with .trans below. */
static __device__ __forceinline__ void lks_load_matrices(uint32_t r[4], const void *row)
{
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}
static __device__ __forceinline__ void lks_load_matrices_transposed(uint32_t r[4], const void *row)
{
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address));
}

/* 16 (or 4) bytes from global to shared memory while the thread goes on, zeros when not `valid`; groups of
 * copies are committed, and waited for down to the `Left` newest groups (then __syncthreads). */
static __device__ __forceinline__ void lks_copy16(void *shared, const void *global, bool valid)
{
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(global),
                 "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void lks_copy4(void *shared, const void *global, bool valid)
{
    uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    int bytes = valid ? 4 : 0;
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(address), "l"(global),
                 "r"(bytes)
                 : "memory");
}
static __device__ __forceinline__ void lks_copy_commit()
{
    asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int Left> static __device__ __forceinline__ void lks_copy_wait()
{
    asm volatile("cp.async.wait_group %0;" ::"n"(Left) : "memory");
}

/* The thread's lane, asked for anew at each call: a place computed from it is not kept in a register meanwhile. */
static __device__ __forceinline__ int lks_lane()
{
    int lane;
    asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
    return lane;
}

/* 2^x to about two units in the last place; 0 below 2^-126. */
static __device__ __forceinline__ float lks_exp2(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/* Two numbers rounded to the nearest bf16, `low` in the lower half. */
static __device__ __forceinline__ uint32_t lks_pack_bf16(float low, float high)
{
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

#endif
