/* What the files of the cuda device share.
 *
 * One file per kernel or family, as in kernels/cpu; each kernel ends in a
 *
 *     extern "C" const lks_kernel_driver lks_cuda_kernel_norm = {"norm", prepare, run, release};
 *
 * and is named in meson.build's list. All else in a file is static. No atomics on floating-point numbers; every sum has one fixed
 * order that follows from shapes. `run` only starts work on the device's stream: it allocates nothing and waits for nothing.
 */
#ifndef LKS_KERNELS_CUDA_CUDA_CUH
#define LKS_KERNELS_CUDA_CUDA_CUH

#include <lks_target.cuh>

#define LKS_RNG_QUALIFIER __host__ __device__
extern "C" {
#include "kernels/device_driver.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"
#include "runtime/base/memory.h"
#include "runtime/base/rng.h"
}

typedef __nv_bfloat16 lks_bf16;

/* The first thing that a kernel found wrong in its data; pinned host memory that the device writes too. */
typedef struct lks_cuda_fault {
    int kind; /* 0: none; see cuda_device.cu for the messages */
    int32_t value;
    long long row, bound;
} lks_cuda_fault;
enum { LKS_CUDA_FAULT_NONE, LKS_CUDA_FAULT_ID, LKS_CUDA_FAULT_TARGET };

/* copy_in's ring of pinned memory: what it copies from may change at once. */
enum { LKS_CUDA_STAGES = 4, LKS_CUDA_STAGE_BYTES = 1 << 20 };

/* The instance behind the handle: lks_cuda_of(device). */
typedef struct lks_cuda_device {
    int ordinal;
    int multiprocessors;
    int capability; /* major part of the compute capability */
    bool tf32; /* products of f32 may round their factors to tf32 */
    size_t shared_bytes; /* dynamic shared memory that a block may opt in to */
    cudaStream_t stream; /* kernels and ordinary copies; own, or a link's (cuda_stream.h) */
    cudaStream_t own;    /* the device's */
    cudaStream_t uploads;
    cudaEvent_t ready[LKS_UPLOAD_SLOTS], released[LKS_UPLOAD_SLOTS];
    cudaEvent_t staged[LKS_CUDA_STAGES]; /* the copy out of that stage is done */
    char *stages;                        /* LKS_CUDA_STAGES times LKS_CUDA_STAGE_BYTES */
    int next_stage;
    lks_cuda_fault *fault; /* host address; the same on the device (unified addressing) */
    void *products;        /* products.h's */
    uint64_t waits;
    char *arithmetic;
    char uuid[48];
} lks_cuda_device;

static inline lks_cuda_device *lks_cuda_of(const lks_device *device)
{
    return static_cast<lks_cuda_device *>(lks_device_instance(device));
}

/* `what` was being done when the runtime said `error`: LKS_ERR_INTERNAL with both ("no memory" says how
 * much there is). */
lks_status lks_cuda_fail(cudaError_t error, const char *what);
#define LKS_CUDA(expression)                                                                       \
    do {                                                                                           \
        cudaError_t lks_cuda_error_ = (expression);                                                \
        if (lks_cuda_error_ != cudaSuccess)                                                        \
            return lks_cuda_fail(lks_cuda_error_, #expression);                                    \
    } while (0)
/* After a launch. */
#define LKS_CUDA_LAUNCHED() LKS_CUDA(cudaGetLastError())

/* Before the first launch of a kernel with more than 48 KiB of dynamic shared memory. The cache leaves it room for as many
 * blocks as there are registers for. */
template <typename Kernel>
static inline lks_status lks_cuda_allow_shared(Kernel *kernel, size_t bytes)
{
    LKS_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                  cudaFuncAttributeMaxDynamicSharedMemorySize, (int)bytes));
    LKS_CUDA(cudaFuncSetAttribute(reinterpret_cast<const void *>(kernel),
                                  cudaFuncAttributePreferredSharedMemoryCarveout,
                                  cudaSharedmemCarveoutMaxShared));
    return LKS_OK;
}

/* Blocks of `threads` threads for `items` of work that a grid-stride loop shares out. */
static inline unsigned lks_cuda_blocks(const lks_cuda_device *cuda, int64_t items, int threads)
{
    int64_t wanted = (items + threads - 1) / threads, most = (int64_t)cuda->multiprocessors * 16;
    return (unsigned)(wanted < 1 ? 1 : wanted < most ? wanted : most);
}

/* f<T> for the compute type; f<T, O> for it and the type of an output that may be f32 beside bf16. */
#define LKS_BY_TYPE(compute, f) ((compute) == LKS_F32 ? f<float> : f<lks_bf16>)
#define LKS_BY_TYPES(compute, result, f)                                                           \
    ((compute) == LKS_F32  ? f<float, float>                                                       \
     : (result) == LKS_F32 ? f<lks_bf16, float>                                                    \
                           : f<lks_bf16, lks_bf16>)

/* --- Device code ------------------------------------------------------------- */

/* The value of a float or bf16 element, and the rounding of a result to the element's type. */
static __device__ __forceinline__ float lks_load(const float *p, int64_t i)
{
    return p[i];
}
static __device__ __forceinline__ float lks_load(const lks_bf16 *p, int64_t i)
{
    return __bfloat162float(p[i]);
}
static __device__ __forceinline__ void lks_store(float *p, int64_t i, float x)
{
    p[i] = x;
}
static __device__ __forceinline__ void lks_store(lks_bf16 *p, int64_t i, float x)
{
    p[i] = __float2bfloat16_rn(x);
}

/* N consecutive elements as floats: one access to memory where `at` is a multiple of N and the array
 * is aligned to N elements, as all tensors of kernels are for N up to 8. */
template <int N> struct lks_values {
    float x[N];
};
template <typename T, int N> struct alignas(sizeof(T) * N) lks_pack {
    T x[N];
};
template <int N, typename T>
static __device__ __forceinline__ lks_values<N> lks_load_values(const T *p, int64_t at)
{
    const lks_pack<T, N> pack = *reinterpret_cast<const lks_pack<T, N> *>(p + at);
    lks_values<N> values;
#pragma unroll
    for (int i = 0; i < N; ++i)
        values.x[i] = lks_load(pack.x, i);
    return values;
}
template <int N, typename T>
static __device__ __forceinline__ void lks_store_values(T *p, int64_t at,
                                                        const lks_values<N> &values)
{
    lks_pack<T, N> pack;
#pragma unroll
    for (int i = 0; i < N; ++i)
        lks_store(pack.x, i, values.x[i]);
    *reinterpret_cast<lks_pack<T, N> *>(p + at) = pack;
}

/* body(at, lks_count<N>()) for elements [at, at + N), shared out over all threads of the launch: fours, then ones. */
template <int N> struct lks_count {
    static constexpr int value = N;
};
template <typename Body> static __device__ __forceinline__ void lks_each(int64_t n, Body body)
{
    const int64_t thread = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    const int64_t threads = (int64_t)gridDim.x * blockDim.x;
    for (int64_t four = thread; four < n / 4; four += threads)
        body(4 * four, lks_count<4>());
    for (int64_t one = n / 4 * 4 + thread; one < n; one += threads)
        body(one, lks_count<1>());
}

/* An element that is out of range, the first to be reported of all; the next call that waits fails with it. */
static __device__ __forceinline__ void lks_cuda_report(lks_cuda_fault *fault, int kind,
                                                       int32_t value, long long row,
                                                       long long bound)
{
    if (atomicCAS(&fault->kind, (int)LKS_CUDA_FAULT_NONE, kind) != LKS_CUDA_FAULT_NONE)
        return;
    fault->value = value;
    fault->row = row;
    fault->bound = bound;
}

/* Sixteen bytes of consecutive elements, as they lie in memory. */
template <typename T> struct lks_vector {
    enum { SIZE = 16 / sizeof(T) };
    uint32_t word[4];

    static __device__ __forceinline__ lks_vector load(const T *from)
    {
        uint4 raw = *reinterpret_cast<const uint4 *>(from);
        return {{raw.x, raw.y, raw.z, raw.w}};
    }
    __device__ __forceinline__ void store(T *to) const
    {
        *reinterpret_cast<uint4 *>(to) = make_uint4(word[0], word[1], word[2], word[3]);
    }
    /* `i` known when compiling, or the vector goes through memory. */
    __device__ __forceinline__ float operator[](int i) const
    {
        if constexpr (sizeof(T) == 4)
            return __uint_as_float(word[i]);
        else
            return __uint_as_float(i % 2 ? word[i / 2] & 0xffff0000u : word[i / 2] << 16);
    }
    static __device__ __forceinline__ lks_vector round(const float *x)
    {
        lks_vector out;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if constexpr (sizeof(T) == 4)
                out.word[i] = __float_as_uint(x[i]);
            else
                out.word[i] = lks_pack_bf16(x[2 * i], x[2 * i + 1]);
        }
        return out;
    }
};

/* Sums over the warp by butterfly: the same order always, the result in all lanes. */
static __device__ __forceinline__ float lks_warp_sum(float x)
{
    for (int offset = 16; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}
static __device__ __forceinline__ float lks_warp_max(float x)
{
    for (int offset = 16; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}

#endif
