/* kernels/cuda/target/lks_target.cuh for the emulator: the same names, run thread by thread on a CPU. See README.md. */
#ifndef LKS_TARGET_CUH
#define LKS_TARGET_CUH

#include <cuda_bf16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <tuple>
#include <type_traits>
#include <utility>

#include "emulation.h"

/* One copy per block, since blocks run one after the other, on one thread of the system. All thread-local variables of a
 * module lie together, which is how they are found and filled before each block. */
#undef __shared__
#define __shared__ static thread_local
#undef __launch_bounds__
#define __launch_bounds__(...)

#define threadIdx (lks_emulation_self->index)
#define blockIdx (lks_emulation_self->block)
#define blockDim (lks_emulation_self->block_size)
#define gridDim (lks_emulation_self->grid_size)
static const int warpSize = 32;

/* --- Launch -------------------------------------------------------------------- */

template <typename... P> struct lks_emulation_call {
    void (*kernel)(P...);
    std::tuple<P...> arguments;

    template <size_t... I>
    __attribute__((no_sanitize("thread"))) void spread(std::index_sequence<I...>) const
    {
        kernel(std::get<I>(arguments)...);
    }
    static __attribute__((no_sanitize("thread"))) void run(const void *self)
    {
        static_cast<const lks_emulation_call *>(self)->spread(std::index_sequence_for<P...>());
    }
};

template <typename... P, typename... A>
static void lks_emulation_start(const char *name, const char *file, int line, dim3 grid, dim3 block,
                                size_t shared_bytes, cudaStream_t stream, void (*kernel)(P...),
                                A &&...arguments)
{
    using call = lks_emulation_call<P...>;
    lks_emulation_launch(
        {name, file, line, reinterpret_cast<const void *>(kernel), call::run,
         std::make_shared<call>(call{kernel, std::tuple<P...>(std::forward<A>(arguments)...)}),
         grid, block, shared_bytes},
        stream);
}

#define LKS_LAUNCH(kernel, grid, block, shared_bytes, stream, ...)                                 \
    lks_emulation_start(#kernel, __FILE__, __LINE__, (grid), (block), (shared_bytes), (stream),    \
                        kernel __VA_OPT__(, ) __VA_ARGS__)

#define LKS_DYNAMIC_SHARED(type, name)                                                             \
    type *name = static_cast<type *>(lks_emulation_dynamic_shared())

/* --- Barriers and warps -------------------------------------------------------- */

static inline void __syncthreads()
{
    lks_emulation_block_barrier("__syncthreads", 0);
}
static inline int __syncthreads_count(int predicate)
{
    return lks_emulation_block_barrier("__syncthreads_count", predicate != 0);
}
static inline int __syncthreads_or(int predicate)
{
    return lks_emulation_block_barrier("__syncthreads_or", predicate != 0) != 0;
}
static inline int __syncthreads_and(int predicate)
{
    return lks_emulation_block_barrier("__syncthreads_and", predicate == 0) == 0;
}
static inline void __syncwarp(unsigned mask = 0xffffffffu)
{
    lks_emulation_converge(LKS_COLLECTIVE_SYNC, "__syncwarp", mask, nullptr, 0, nullptr, 0);
}
static inline void __threadfence()
{
    lks_emulation_fence();
}
static inline void __threadfence_block()
{
    lks_emulation_fence();
}
static inline void __threadfence_system()
{
    lks_emulation_fence();
}

struct lks_emulation_shuffle {
    uint64_t bits;
    int source;
};
template <typename T>
static inline T lks_emulation_shuffled(const char *what, unsigned mask, T value, int source)
{
    static_assert(sizeof(T) == 4 || sizeof(T) == 8 || std::is_same_v<T, __nv_bfloat162>);
    lks_emulation_shuffle in = {0, source};
    memcpy(&in.bits, &value, sizeof value);
    T out;
    lks_emulation_converge(LKS_COLLECTIVE_SHUFFLE, what, mask, &in, sizeof in, &out, sizeof out);
    return out;
}
static inline int lks_emulation_lane()
{
    return (int)(lks_emulation_self->number % 32);
}
static inline int lks_lane()
{
    return lks_emulation_lane();
}
template <typename T>
static inline T __shfl_sync(unsigned mask, T value, int source, int width = 32)
{
    int lane = lks_emulation_lane();
    return lks_emulation_shuffled("__shfl_sync", mask, value,
                                  (lane & ~(width - 1)) | (source & (width - 1)));
}
template <typename T>
static inline T __shfl_xor_sync(unsigned mask, T value, int flip, int width = 32)
{
    int lane = lks_emulation_lane(), source = lane ^ flip;
    return lks_emulation_shuffled("__shfl_xor_sync", mask, value,
                                  source > (lane | (width - 1)) ? lane : source);
}
template <typename T>
static inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    int lane = lks_emulation_lane(), source = lane - (int)delta;
    return lks_emulation_shuffled("__shfl_up_sync", mask, value,
                                  source < (lane & ~(width - 1)) ? lane : source);
}
template <typename T>
static inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32)
{
    int lane = lks_emulation_lane(), source = lane + (int)delta;
    return lks_emulation_shuffled("__shfl_down_sync", mask, value,
                                  source > (lane | (width - 1)) ? lane : source);
}

static inline unsigned lks_emulation_word(lks_emulation_collective kind, const char *what,
                                          unsigned mask, unsigned word)
{
    unsigned out;
    lks_emulation_converge(kind, what, mask, &word, sizeof word, &out, sizeof out);
    return out;
}
static inline unsigned __ballot_sync(unsigned mask, int predicate)
{
    return lks_emulation_word(LKS_COLLECTIVE_BALLOT, "__ballot_sync", mask, predicate != 0);
}
static inline int __any_sync(unsigned mask, int predicate)
{
    return lks_emulation_word(LKS_COLLECTIVE_BALLOT, "__any_sync", mask, predicate != 0) != 0;
}
static inline int __all_sync(unsigned mask, int predicate)
{
    return lks_emulation_word(LKS_COLLECTIVE_BALLOT, "__all_sync", mask, predicate == 0) == 0;
}
static inline unsigned __match_any_sync(unsigned mask, unsigned value)
{
    return lks_emulation_word(LKS_COLLECTIVE_MATCH, "__match_any_sync", mask, value);
}
static inline unsigned __match_any_sync(unsigned mask, int value)
{
    return __match_any_sync(mask, (unsigned)value);
}
static inline unsigned __reduce_add_sync(unsigned mask, unsigned value)
{
    return lks_emulation_word(LKS_COLLECTIVE_ADD, "__reduce_add_sync", mask, value);
}
static inline unsigned __reduce_min_sync(unsigned mask, unsigned value)
{
    return lks_emulation_word(LKS_COLLECTIVE_MIN, "__reduce_min_sync", mask, value);
}
static inline unsigned __reduce_max_sync(unsigned mask, unsigned value)
{
    return lks_emulation_word(LKS_COLLECTIVE_MAX, "__reduce_max_sync", mask, value);
}

/* --- Tensor cores and copies: as declared in the device's lks_target.cuh ------- */

static inline void lks_mma_bf16(float d[4], const uint32_t a[4], const uint32_t b[2])
{
    lks_emulation_mma in = {{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
    lks_emulation_converge(LKS_COLLECTIVE_MMA_BF16, "lks_mma_bf16", 0xffffffffu, &in, sizeof in, d,
                           4 * sizeof *d);
}
static inline void lks_emulation_load_rows(const char *what, uint32_t *r, const void *row,
                                           int matrices, bool transposed)
{
    lks_emulation_rows in = {row, matrices, transposed};
    lks_emulation_converge(LKS_COLLECTIVE_LOAD_MATRICES, what, 0xffffffffu, &in, sizeof in, r,
                           (size_t)matrices * sizeof *r);
}
static inline void lks_load_matrices(uint32_t r[4], const void *row)
{
    lks_emulation_load_rows("lks_load_matrices", r, row, 4, false);
}
static inline void lks_load_matrices_transposed(uint32_t r[4], const void *row)
{
    lks_emulation_load_rows("lks_load_matrices_transposed", r, row, 4, true);
}
static inline void lks_copy16(void *shared, const void *global, bool valid)
{
    lks_emulation_copy(shared, global, 16, valid);
}
static inline void lks_copy4(void *shared, const void *global, bool valid)
{
    lks_emulation_copy(shared, global, 4, valid);
}
static inline void lks_copy_commit()
{
    lks_emulation_copy_commit();
}
template <int Left> static inline void lks_copy_wait()
{
    lks_emulation_copy_wait(Left);
}

/* y = f(x), nearest, to about two units in the last place as the device's functions have it: one drawn from x is added. */
static inline float lks_emulation_off(float y, float x)
{
    uint32_t bits, from;
    memcpy(&bits, &y, sizeof bits);
    memcpy(&from, &x, sizeof from);
    uint32_t exponent = bits >> 23 & 0xff;
    if (x == 0 || exponent < 2 || exponent > 252) /* exact, or at the end of what there is */
        return y;
    bits += (from * 0x9e3779b1u >> 8) % 3 - 1;
    memcpy(&y, &bits, sizeof y);
    return y;
}

/* As in the device's lks_target.cuh: 2^x, 0 below 2^-126; two numbers rounded to bf16, `low` in the lower half. */
static inline float lks_exp2(float x)
{
    float y = lks_emulation_off(exp2f(x), x);
    return y < 0x1p-126f ? 0.0f : y;
}
static inline uint32_t lks_pack_bf16(float low, float high)
{
    __nv_bfloat16_raw l = __float2bfloat16_rn(low), h = __float2bfloat16_rn(high);
    return (uint32_t)h.x << 16 | l.x;
}

/* --- Atomics: integers alone; there are none for floating-point numbers --------- */

template <typename T, typename F>
static inline T lks_emulation_change(T *address, const char *what, F change)
{
    static_assert(std::is_integral_v<T>, "no atomics on floating-point numbers: the order of a "
                                         "sum must be fixed");
    lks_emulation_atomic(address, sizeof *address, what);
    T old = __atomic_load_n(address, __ATOMIC_RELAXED);
    __atomic_store_n(address, change(old), __ATOMIC_RELAXED);
    return old;
}
template <typename T> static inline T atomicAdd(T *address, std::type_identity_t<T> value)
{
    return lks_emulation_change(address, "atomicAdd", [=](T old) { return (T)(old + value); });
}
template <typename T> static inline T atomicSub(T *address, std::type_identity_t<T> value)
{
    return lks_emulation_change(address, "atomicSub", [=](T old) { return (T)(old - value); });
}
template <typename T> static inline T atomicMin(T *address, std::type_identity_t<T> value)
{
    return lks_emulation_change(address, "atomicMin", [=](T o) { return o < value ? o : value; });
}
template <typename T> static inline T atomicMax(T *address, std::type_identity_t<T> value)
{
    return lks_emulation_change(address, "atomicMax", [=](T o) { return o > value ? o : value; });
}
template <typename T> static inline T atomicOr(T *address, std::type_identity_t<T> value)
{
    return lks_emulation_change(address, "atomicOr", [=](T old) { return (T)(old | value); });
}
template <typename T> static inline T atomicAnd(T *address, std::type_identity_t<T> value)
{
    return lks_emulation_change(address, "atomicAnd", [=](T old) { return (T)(old & value); });
}
template <typename T> static inline T atomicExch(T *address, std::type_identity_t<T> value)
{
    return lks_emulation_change(address, "atomicExch", [=](T) { return value; });
}
template <typename T>
static inline T atomicCAS(T *address, std::type_identity_t<T> wanted, std::type_identity_t<T> value)
{
    return lks_emulation_change(address, "atomicCAS",
                                [=](T old) { return old == wanted ? value : old; });
}

/* --- Arithmetic ---------------------------------------------------------------- */

/* How far off they may be: CUDA C++ Programming Guide, "Mathematical Functions". Of the fast ones (__expf) there is none here:
 * their errors grow with the argument. Macros, since the C library has the names. */
static inline float lks_emulation_expf(float a)
{
    return lks_emulation_off(expf(a), a);
}
static inline float lks_emulation_tanhf(float a)
{
    float y = lks_emulation_off(tanhf(a), a);
    return y > 1 ? 1.0f : y < -1 ? -1.0f : y; /* NaN stays */
}
#define expf lks_emulation_expf
#define tanhf lks_emulation_tanhf
/* Not to be fused with what it goes into. */
template <typename T> static inline T lks_emulation_rounded(T x)
{
#ifdef __x86_64__
    __asm__("" : "+x"(x));
#else
    __asm__("" : "+m"(x));
#endif
    return x;
}
static inline float __fmaf_rn(float a, float b, float c)
{
    return fmaf(a, b, c);
}
static inline double __fma_rn(double a, double b, double c)
{
    return fma(a, b, c);
}
static inline float __fadd_rn(float a, float b)
{
    return lks_emulation_rounded(a + b);
}
static inline float __fsub_rn(float a, float b)
{
    return lks_emulation_rounded(a - b);
}
static inline float __fmul_rn(float a, float b)
{
    return lks_emulation_rounded(a * b);
}
static inline float __fdiv_rn(float a, float b)
{
    return a / b;
}
static inline float __fsqrt_rn(float a)
{
    return sqrtf(a);
}
static inline float __frcp_rn(float a)
{
    return 1 / a;
}
static inline double __dadd_rn(double a, double b)
{
    return lks_emulation_rounded(a + b);
}
static inline double __dmul_rn(double a, double b)
{
    return lks_emulation_rounded(a * b);
}
static inline float __fdividef(float a, float b)
{
    return a / b;
}
static inline float rsqrtf(float a)
{
    return (float)(1 / sqrt((double)a));
}
static inline double rsqrt(double a)
{
    return 1 / sqrt(a);
}
static inline float __saturatef(float a)
{
    return a > 1 ? 1.0f : a > 0 ? a : 0.0f;
}
static inline float __int_as_float(int bits)
{
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}
static inline int __float_as_int(float value)
{
    int out;
    memcpy(&out, &value, sizeof out);
    return out;
}
static inline float __uint_as_float(unsigned bits)
{
    return __int_as_float((int)bits);
}
static inline unsigned __float_as_uint(float value)
{
    return (unsigned)__float_as_int(value);
}
static inline unsigned __umulhi(unsigned a, unsigned b)
{
    return (unsigned)(((uint64_t)a * b) >> 32);
}
static inline uint64_t __umul64hi(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 wide;
    return (uint64_t)(((wide)a * b) >> 64);
}
static inline int __popc(unsigned a)
{
    return __builtin_popcount(a);
}
static inline int __clz(int a)
{
    return a ? __builtin_clz((unsigned)a) : 32;
}
static inline int __ffs(int a)
{
    return __builtin_ffs(a);
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector)
{
    uint64_t bytes = (uint64_t)b << 32 | a;
    unsigned out = 0;
    for (int i = 0; i < 4; ++i)
        out |= (unsigned)((bytes >> (8 * ((selector >> (4 * i)) & 7))) & 0xff) << (8 * i);
    return out;
}
template <typename T> static inline T __ldg(const T *address)
{
    return *address;
}
template <typename T> static inline T __ldcs(const T *address)
{
    return *address;
}
template <typename T> static inline T __ldcg(const T *address)
{
    return *address;
}
template <typename T> static inline void __stcs(T *address, T value)
{
    *address = value;
}
template <typename T> static inline void __stcg(T *address, T value)
{
    *address = value;
}
template <typename A, typename B> static constexpr std::common_type_t<A, B> min(A a, B b)
{
    using T = std::common_type_t<A, B>;
    return (T)b < (T)a ? (T)b : (T)a;
}
template <typename A, typename B> static constexpr std::common_type_t<A, B> max(A a, B b)
{
    using T = std::common_type_t<A, B>;
    return (T)a < (T)b ? (T)b : (T)a;
}
[[noreturn]] static inline void __trap()
{
    lks_emulation_stop("__trap");
}

#endif
