/* cross_entropy: a block to a row. Each thread keeps the largest of its logits and the sum of the others' exponentials
 * relative to it (Milakov and Gimelshein 2018), and the threads' are merged in order. Where the gradient is wanted the
 * row waits in shared memory meanwhile, so that it is read once and written once; a row that does not fit is read again.
 */
#include "kernels/cuda/sums.cuh"

#include <type_traits>

namespace
{

constexpr int THREADS = 512, WARPS = THREADS / 32, TOTAL_THREADS = 1024;
constexpr int AHEAD = 8, DIRECT = 4; /* units of a thread that are under way, staged and not */
constexpr float LOG2_E = 1.44269504088896340736f;

struct cross_entropy_state {
    lks_cuda_device *cuda;
    int64_t rows, columns, classes;
    lks_dtype type;
    bool staged; /* a row fits in shared memory */
};

/* Of a row: its loss, and 0 masked, 1 valid, 2 valid and right. */
struct alignas(16) row_terms {
    double loss, mark;
};

template <typename T> struct row_arguments {
    const T *logits;
    const int32_t *targets;
    T *dlogits; /* or NULL; may be logits */
    row_terms *terms;
    int64_t columns, classes;
    lks_cuda_fault *fault;
};

/* What a thread reads and writes at once: lks_vector, or one element where a row is no whole number of those. */
template <typename T> struct single {
    static constexpr int SIZE = 1;
    T x;

    static __device__ __forceinline__ single load(const T *from) { return {*from}; }
    __device__ __forceinline__ void store(T *to) const { *to = x; }
    __device__ __forceinline__ float operator[](int) const { return lks_load(&x, 0); }
    static __device__ __forceinline__ single round(const float *value)
    {
        single out;
        lks_store(&out.x, 0, *value);
        return out;
    }
};

/* e^(x - shift): exact to f32 where the logits are, else to about 2^-20. */
template <typename T> static __device__ __forceinline__ float exponential(float x, float shift)
{
    if constexpr (sizeof(T) == 4)
        return expf(x - shift);
    else
        return lks_exp2(fmaf(x, LOG2_E, -LOG2_E * shift));
}

/* What brings a sum from one maximum to another: 1 where they are equal, so that to merge adds nothing of its own. */
template <typename T> static __device__ __forceinline__ float rescaling(float from, float to)
{
    if constexpr (sizeof(T) == 4)
        return expf(from - to);
    else
        return lks_exp2((from - to) * LOG2_E);
}

/* The sum of the exponentials of some logits is `sum` e^`largest`. */
struct partial_sum {
    float largest, sum;
};

/* The same bits whichever is first. */
template <typename T>
static __device__ __forceinline__ partial_sum merge(partial_sum a, partial_sum b)
{
    float largest = fmaxf(a.largest, b.largest);
    if (largest == -INFINITY) /* nothing yet, or only NaN */
        return {largest, a.sum + b.sum};
    return {largest, __fadd_rn(__fmul_rn(a.sum, rescaling<T>(a.largest, largest)),
                               __fmul_rn(b.sum, rescaling<T>(b.largest, largest)))};
}

/* What a block knows of its row, and each thread of its share of it. */
struct row_share {
    int classes;
    int32_t target;
    float wanted; /* the target's logit */
    partial_sum part;
    bool tied; /* a logit left of the target's is as large */
};

/* Adds the unit at column `first`; beyond `classes` is padding. */
template <typename T, typename Unit>
static __device__ __forceinline__ void add_unit(const Unit &unit, int first, row_share &share)
{
    constexpr int SIZE = Unit::SIZE;
    float x[SIZE], largest = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < SIZE; ++i)
        x[i] = unit[i];
    if (first + SIZE > share.classes)
#pragma unroll
        for (int i = 0; i < SIZE; ++i)
            x[i] = first + i < share.classes ? x[i] : -INFINITY;
#pragma unroll
    for (int i = 0; i < SIZE; ++i)
        largest = fmaxf(largest, x[i]);
    if (largest >= share.wanted && first < share.target)
#pragma unroll
        for (int i = 0; i < SIZE; ++i)
            share.tied |= x[i] == share.wanted && first + i < share.target;
    if (largest > share.part.largest) {
        share.part.sum *= rescaling<T>(share.part.largest, largest);
        share.part.largest = largest;
    }
    float shift = share.part.largest == -INFINITY ? 0 : share.part.largest;
#pragma unroll
    for (int i = 0; i < SIZE; ++i)
        sum += exponential<T>(x[i], shift);
    share.part.sum += sum;
}

/* A thread's units of the row are those at threadIdx.x, threadIdx.x + THREADS, ... */
template <typename T, typename Unit>
static __device__ __forceinline__ void add_row(const T *row, int units, row_share &share)
{
    for (int first = (int)threadIdx.x; first < units; first += DIRECT * THREADS) {
        Unit unit[DIRECT];
#pragma unroll
        for (int i = 0; i < DIRECT; ++i)
            if (first + i * THREADS < units)
                unit[i] = Unit::load(row + (first + i * THREADS) * Unit::SIZE);
#pragma unroll
        for (int i = 0; i < DIRECT; ++i)
            if (first + i * THREADS < units)
                add_unit<T>(unit[i], (first + i * THREADS) * Unit::SIZE, share);
    }
}

template <typename T>
static __device__ __forceinline__ void stage_unit(const T *row, T *staged, int at, int units)
{
    constexpr int SIZE = lks_vector<T>::SIZE;
    if (at < units)
        lks_copy16(staged + at * SIZE, row + at * SIZE, true);
    lks_copy_commit();
}

/* As add_row, of what stage_unit has begun to copy. A thread sees its own copies without a barrier. */
template <typename T>
static __device__ __forceinline__ void add_staged_row(const T *row, T *staged, int units,
                                                      row_share &share)
{
    constexpr int SIZE = lks_vector<T>::SIZE;
    for (int at = (int)threadIdx.x; at < units; at += THREADS) {
        lks_copy_wait<AHEAD - 1>();
        add_unit<T>(lks_vector<T>::load(staged + at * SIZE), at * SIZE, share);
        stage_unit(row, staged, at + AHEAD * THREADS, units);
    }
}

/* The sum over the block, in all its threads. */
template <typename T>
static __device__ __forceinline__ partial_sum merge_block(partial_sum part, partial_sum *parts)
{
    for (int turn = 0; turn < 2; ++turn) {
        for (int offset = 16; offset > 0; offset /= 2)
            part = merge<T>(part, {__shfl_xor_sync(0xffffffffu, part.largest, offset),
                                   __shfl_xor_sync(0xffffffffu, part.sum, offset)});
        if (turn == 1)
            break;
        if (threadIdx.x % 32 == 0)
            parts[threadIdx.x / 32] = part;
        __syncthreads();
        part = {-INFINITY, 0};
        if (threadIdx.x % 32 < WARPS)
            part = parts[threadIdx.x % 32];
    }
    return part;
}

template <typename T, typename Unit>
static __device__ __forceinline__ void store_gradient(const T *from, T *to, int units,
                                                      const row_share &share, float lse)
{
    constexpr int SIZE = Unit::SIZE;
#pragma unroll 2
    for (int at = (int)threadIdx.x; at < units; at += THREADS) {
        Unit unit = Unit::load(from + at * SIZE);
        int first = at * SIZE;
        float dx[SIZE];
#pragma unroll
        for (int i = 0; i < SIZE; ++i)
            dx[i] = exponential<T>(unit[i], lse);
        if (first + SIZE > share.classes || (first <= share.target && share.target < first + SIZE))
#pragma unroll
            for (int i = 0; i < SIZE; ++i) {
                dx[i] -= first + i == share.target ? 1.0f : 0.0f;
                dx[i] = first + i < share.classes ? dx[i] : 0.0f;
            }
        Unit::round(dx).store(to + first);
    }
}

/* A row without a target. */
template <typename T, typename Unit>
static __device__ __forceinline__ void store_nothing(const row_arguments<T> &with, int64_t row,
                                                     int32_t target, int units)
{
    if (threadIdx.x == 0) {
        if (target >= 0)
            lks_cuda_report(with.fault, LKS_CUDA_FAULT_TARGET, target, row, with.classes);
        with.terms[row] = {0, 0};
    }
    if (!with.dlogits)
        return;
    float zeros[Unit::SIZE] = {};
    for (int at = (int)threadIdx.x; at < units; at += THREADS)
        Unit::round(zeros).store(with.dlogits + row * with.columns + at * Unit::SIZE);
}

template <typename T, typename Unit, bool Staged>
static __global__ void __launch_bounds__(THREADS, 2) cross_entropy_rows(row_arguments<T> with)
{
    __shared__ partial_sum parts[WARPS];
    __shared__ double log_sum;
    LKS_DYNAMIC_SHARED(T, staged); /* [columns] */
    int64_t row = blockIdx.x;
    int units = (int)with.columns / Unit::SIZE;
    const T *logits = with.logits + row * with.columns;
    int32_t target = with.targets[row];
    if constexpr (Staged) /* begun before the target is there */
        for (int i = 0; i < AHEAD; ++i)
            stage_unit(logits, staged, (int)threadIdx.x + i * THREADS, units);
    if (target < 0 || target >= with.classes) {
        lks_copy_wait<0>();
        return store_nothing<T, Unit>(with, row, target, units);
    }
    row_share share = {(int)with.classes, target, lks_load(logits, target), {-INFINITY, 0}, false};
    if constexpr (Staged)
        add_staged_row(logits, staged, units, share);
    else
        add_row<T, Unit>(logits, units, share);
    share.part = merge_block<T>(share.part, parts);
    if (threadIdx.x == 0)
        log_sum = log((double)share.part.sum) + (double)share.part.largest;
    bool right = !__syncthreads_or(share.tied) && share.part.largest == share.wanted;
    if (threadIdx.x == 0)
        with.terms[row] = {log_sum - (double)share.wanted, right ? 2.0 : 1.0};
    if (with.dlogits)
        store_gradient<T, Unit>(Staged ? staged : logits, with.dlogits + row * with.columns, units,
                                share, (float)log_sum);
}

/* One block: each thread's rows in order, then the threads'. */
static __global__ void __launch_bounds__(TOTAL_THREADS)
    cross_entropy_total(const row_terms *terms, int64_t rows, double *stats)
{
    __shared__ double parts[TOTAL_THREADS / 32];
    double loss = 0, valid = 0, right = 0;
#pragma unroll 8
    for (int64_t row = threadIdx.x; row < rows; row += TOTAL_THREADS) {
        row_terms term = terms[row];
        loss += term.loss;
        valid += term.mark > 0;
        right += term.mark > 1;
    }
    loss = lks_block_sum<TOTAL_THREADS>(loss, parts);
    valid = lks_block_sum<TOTAL_THREADS>(valid, parts);
    right = lks_block_sum<TOTAL_THREADS>(right, parts);
    if (threadIdx.x == 0) {
        stats[0] = loss;
        stats[1] = valid;
        stats[2] = right;
    }
}

template <typename T> size_t staged_bytes(int64_t columns)
{
    return (size_t)columns * sizeof(T);
}

/* Whether rows are staged: the bits are the same either way. */
template <typename T> lks_status choose_staged(cross_entropy_state *state, bool gradient)
{
    enum { STATIC_SHARED = 1024 }; /* at most, of the kernel's own */
    size_t bytes = staged_bytes<T>(state->columns);
    state->staged = gradient && state->columns % lks_vector<T>::SIZE == 0 &&
                    bytes + STATIC_SHARED <= state->cuda->shared_bytes;
    if (!state->staged)
        return LKS_OK;
    return lks_cuda_allow_shared(cross_entropy_rows<T, lks_vector<T>, true>,
                                 state->cuda->shared_bytes - STATIC_SHARED); /* for all shapes */
}

lks_status cross_entropy_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_shapes_expect_cross_entropy(spec, &type));
    const lks_kernel_tensor *logits = &spec->inputs[0];
    int64_t rows = lks_spec_rows(logits), columns = lks_spec_columns(logits);
    int64_t classes = static_cast<const lks_cross_entropy_attributes *>(spec->attributes)->classes;
    if (columns > INT32_MAX / 2)
        return lks_spec_refuse(spec, "at most %d columns", INT32_MAX / 2);
    cross_entropy_state made = {lks_cuda_of(device), rows, columns, classes, type, false}, *state;
    bool gradient = lks_spec_present(&spec->outputs[0]);
    LKS_TRY(type == LKS_BF16 ? choose_staged<lks_bf16>(&made, gradient)
                             : choose_staged<float>(&made, gradient));
    LKS_TRY(LKS_NEW(&state));
    *state = made;
    *workspace = (size_t)rows * sizeof(row_terms);
    *out = state;
    return LKS_OK;
}

template <typename T>
void cross_entropy_launch(const cross_entropy_state *state, const lks_kernel_run *run)
{
    row_arguments<T> with = {static_cast<const T *>(run->inputs[0]),
                             static_cast<const int32_t *>(run->inputs[1]),
                             static_cast<T *>(run->outputs[0]),
                             static_cast<row_terms *>(run->workspace),
                             state->columns,
                             state->classes,
                             state->cuda->fault};
    auto kernel = state->staged ? cross_entropy_rows<T, lks_vector<T>, true>
                  : state->columns % lks_vector<T>::SIZE == 0
                      ? cross_entropy_rows<T, lks_vector<T>, false>
                      : cross_entropy_rows<T, single<T>, false>;
    LKS_LAUNCH(kernel, dim3((unsigned)state->rows), dim3(THREADS),
               state->staged ? staged_bytes<T>(state->columns) : 0, state->cuda->stream, with);
    LKS_LAUNCH(cross_entropy_total, dim3(1), dim3(TOTAL_THREADS), 0, state->cuda->stream,
               with.terms, state->rows, static_cast<double *>(run->outputs[1]));
}

lks_status cross_entropy_run(void *state_, const lks_kernel_run *run)
{
    const cross_entropy_state *state = static_cast<const cross_entropy_state *>(state_);
    if (state->type == LKS_BF16)
        cross_entropy_launch<lks_bf16>(state, run);
    else
        cross_entropy_launch<float>(state, run);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

} // namespace

extern "C" const lks_kernel_driver lks_cuda_kernel_cross_entropy = {
    "cross_entropy", cross_entropy_prepare, cross_entropy_run, lks_memory_free};
