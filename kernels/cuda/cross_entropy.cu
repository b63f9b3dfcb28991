/* cross_entropy and its gradient: a block to a row. The row is read once for the loss: each thread keeps the largest
 * of its logits and the sum of the others' exponentials relative to it (Milakov and Gimelshein 2018), and the threads'
 * are merged in order. The gradient is written over the logits.
 */
#include "kernels/cuda/sums.cuh"

namespace
{

enum { THREADS = 512, WARPS = THREADS / 32 };
constexpr float LOG2_E = 1.44269504088896340736f;

struct cross_entropy_state {
    lks_cuda_device *cuda;
    int64_t rows, columns, classes;
    lks_dtype type;
};

template <typename T> struct row_arguments {
    const T *logits;
    const int32_t *targets;
    float *lse;    /* or NULL */
    double *terms; /* [rows, 2]: the row's loss, and 0 masked, 1 valid, 2 valid and right */
    int64_t rows, columns, classes;
    lks_cuda_fault *fault;
};

/* e^x: exact to f32 where the logits are, else to about 2^-21. */
template <typename T> static __device__ __forceinline__ float exponential(float x)
{
    if constexpr (sizeof(T) == 4)
        return expf(x);
    else
        return lks_exp2(x * LOG2_E);
}

/* The sum of the exponentials of some logits is `sum` e^`largest`. */
struct partial_sum {
    float largest, sum;
};

template <typename T>
static __device__ __forceinline__ partial_sum merge(partial_sum a, partial_sum b)
{
    float largest = fmaxf(a.largest, b.largest);
    if (largest == -INFINITY) /* nothing yet, or only NaN */
        return {largest, a.sum + b.sum};
    return {largest, a.sum * exponential<T>(a.largest - largest) +
                         b.sum * exponential<T>(b.largest - largest)};
}

template <typename T, int Size>
static __device__ __forceinline__ void add_logits(const float (&x)[Size], partial_sum &part)
{
    float largest = part.largest, sum = 0;
#pragma unroll
    for (int i = 0; i < Size; ++i)
        largest = fmaxf(largest, x[i]);
    float shift = largest == -INFINITY ? 0 : largest;
    if (largest > part.largest) {
        part.sum *= exponential<T>(part.largest - shift);
        part.largest = largest;
    }
#pragma unroll
    for (int i = 0; i < Size; ++i)
        sum += exponential<T>(x[i] - shift);
    part.sum += sum;
}

/* Whether logit i stands before the target's: larger, or equal and further left. */
static __device__ __forceinline__ bool beats(float x, int64_t i, float wanted, int32_t target)
{
    return x > wanted || (x == wanted && i < target);
}

/* Adds a thread's share of the row: vectors where `Wide` (a row is a whole number of them), and what is left, one by
 * one; beyond `classes` is padding. Returns whether one of them beats the target. */
template <typename T, bool Wide>
static __device__ __forceinline__ bool add_row(const T *row, int64_t classes, float wanted,
                                               int32_t target, partial_sum &part)
{
    constexpr int SIZE = lks_vector<T>::SIZE;
    int64_t whole = Wide ? classes / SIZE * SIZE : 0;
    bool beaten = false;
#pragma unroll 2
    for (int64_t first = (int64_t)threadIdx.x * SIZE; first < whole; first += THREADS * SIZE) {
        lks_vector<T> vector = lks_vector<T>::load(row + first);
        float x[SIZE];
#pragma unroll
        for (int i = 0; i < SIZE; ++i) {
            x[i] = vector[i];
            beaten |= beats(x[i], first + i, wanted, target);
        }
        add_logits<T>(x, part);
    }
    for (int64_t i = whole + threadIdx.x; i < classes; i += THREADS) {
        float x[1] = {lks_load(row, i)};
        beaten |= beats(x[0], i, wanted, target);
        add_logits<T>(x, part);
    }
    return beaten;
}

template <typename T>
static __device__ __forceinline__ partial_sum merge_block(partial_sum part, partial_sum *parts)
{
    for (int offset = 16; offset > 0; offset /= 2) {
        partial_sum other = {__shfl_down_sync(0xffffffffu, part.largest, offset),
                             __shfl_down_sync(0xffffffffu, part.sum, offset)};
        part = merge<T>(part, other);
    }
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = part;
    __syncthreads();
    part = parts[0];
    for (int warp = 1; warp < WARPS; ++warp)
        part = merge<T>(part, parts[warp]);
    return part;
}

template <typename T, bool Wide>
static __global__ void __launch_bounds__(THREADS) cross_entropy_rows(row_arguments<T> with)
{
    LKS_DYNAMIC_SHARED(partial_sum, parts); /* [WARPS] */
    int64_t row = blockIdx.x;
    const T *logits = with.logits + row * with.columns;
    int32_t target = with.targets[row];
    bool valid = target >= 0 && target < with.classes;
    if (!valid) {
        if (threadIdx.x == 0) {
            if (target >= 0)
                lks_cuda_report(with.fault, LKS_CUDA_FAULT_TARGET, target, row, with.classes);
            with.terms[2 * row] = with.terms[2 * row + 1] = 0;
            if (with.lse)
                with.lse[row] = 0;
        }
        return;
    }
    float wanted = lks_load(logits, target);
    partial_sum part = {-INFINITY, 0};
    bool beaten = add_row<T, Wide>(logits, with.classes, wanted, target, part);
    part = merge_block<T>(part, parts);
    bool right = !__syncthreads_or(beaten || wanted != wanted);
    if (threadIdx.x == 0) {
        double log_sum = log((double)part.sum) + (double)part.largest;
        with.terms[2 * row] = log_sum - (double)wanted;
        with.terms[2 * row + 1] = right ? 2 : 1;
        if (with.lse)
            with.lse[row] = (float)log_sum;
    }
}

/* One block: each thread's rows in order, then the threads'. */
static __global__ void __launch_bounds__(THREADS)
    cross_entropy_total(const double *terms, int64_t rows, double *stats)
{
    __shared__ double parts[WARPS];
    double loss = 0, valid = 0, right = 0;
#pragma unroll 8
    for (int64_t row = threadIdx.x; row < rows; row += THREADS) {
        loss += terms[2 * row];
        valid += terms[2 * row + 1] > 0;
        right += terms[2 * row + 1] > 1;
    }
    loss = lks_block_sum<THREADS>(loss, parts);
    valid = lks_block_sum<THREADS>(valid, parts);
    right = lks_block_sum<THREADS>(right, parts);
    if (threadIdx.x == 0) {
        stats[0] = loss;
        stats[1] = valid;
        stats[2] = right;
    }
}

lks_status cross_entropy_make(void **out, lks_device *device, const lks_kernel_spec *spec,
                              lks_dtype type)
{
    LKS_TRY(lks_cuda_expect_attributes(spec));
    const lks_kernel_tensor *logits = &spec->inputs[0];
    int64_t rows = lks_cuda_rows(logits), columns = lks_cuda_columns(logits);
    int64_t classes = static_cast<const lks_cross_entropy_attributes *>(spec->attributes)->classes;
    if (classes < 1 || classes > columns)
        return lks_cuda_refuse(spec, "%lld classes for %lld columns", (long long)classes,
                               (long long)columns);
    LKS_TRY(lks_cuda_expect_elements(spec, "targets", &spec->inputs[1], rows));
    cross_entropy_state *state;
    LKS_TRY(LKS_NEW(&state));
    *state = {lks_cuda_of(device), rows, columns, classes, type};
    *out = state;
    return LKS_OK;
}

lks_status cross_entropy_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    lks_dtype type;
    int64_t rows = lks_cuda_rows(&spec->inputs[0]);
    LKS_TRY(lks_cuda_expect_types(spec, "ti", "dF", &type));
    LKS_TRY(lks_cuda_expect_elements(spec, "stats", &spec->outputs[0], 3));
    LKS_TRY(lks_cuda_expect_elements(spec, "lse", &spec->outputs[1], rows));
    *workspace = (size_t)rows * 2 * sizeof(double);
    return cross_entropy_make(out, device, spec, type);
}

template <typename T>
void cross_entropy_launch(const cross_entropy_state *state, const lks_kernel_run *run)
{
    row_arguments<T> with = {static_cast<const T *>(run->inputs[0]),
                             static_cast<const int32_t *>(run->inputs[1]),
                             static_cast<float *>(run->outputs[1]),
                             static_cast<double *>(run->workspace),
                             state->rows,
                             state->columns,
                             state->classes,
                             state->cuda->fault};
    auto kernel = state->columns % lks_vector<T>::SIZE == 0 ? cross_entropy_rows<T, true>
                                                            : cross_entropy_rows<T, false>;
    LKS_LAUNCH(kernel, dim3((unsigned)state->rows), dim3(THREADS), WARPS * sizeof(partial_sum),
               state->cuda->stream, with);
    LKS_LAUNCH(cross_entropy_total, dim3(1), dim3(THREADS), 0, state->cuda->stream, with.terms,
               state->rows, static_cast<double *>(run->outputs[0]));
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

/* --- cross_entropy_grad ------------------------------------------------------------------ */

template <typename T> struct row_grad_arguments {
    const T *logits; /* may be dlogits */
    const int32_t *targets;
    const float *lse;
    T *dlogits;
    int64_t columns, classes;
    lks_cuda_fault *fault;
};

template <typename T>
static __device__ __forceinline__ float gradient(float x, float shift, int64_t i, int64_t classes,
                                                 int32_t target)
{
    if (i >= classes)
        return 0;
    float softmax = exponential<T>(x - shift);
    return i == target ? softmax - 1.0f : softmax;
}

template <typename T, bool Wide>
static __global__ void __launch_bounds__(THREADS)
    cross_entropy_grad_rows(row_grad_arguments<T> with)
{
    constexpr int SIZE = lks_vector<T>::SIZE;
    int64_t row = blockIdx.x;
    const T *logits = with.logits + row * with.columns;
    T *dlogits = with.dlogits + row * with.columns;
    int32_t target = with.targets[row];
    float shift = with.lse[row];
    int64_t classes = target >= 0 && target < with.classes ? with.classes : 0;
    if (threadIdx.x == 0 && target >= with.classes)
        lks_cuda_report(with.fault, LKS_CUDA_FAULT_TARGET, target, row, with.classes);
    if constexpr (Wide) {
#pragma unroll 2
        for (int64_t first = (int64_t)threadIdx.x * SIZE; first < with.columns;
             first += THREADS * SIZE) {
            lks_vector<T> vector = lks_vector<T>::load(logits + first);
            float dx[SIZE];
#pragma unroll
            for (int i = 0; i < SIZE; ++i)
                dx[i] = gradient<T>(vector[i], shift, first + i, classes, target);
            lks_vector<T>::round(dx).store(dlogits + first);
        }
    } else {
        for (int64_t i = threadIdx.x; i < with.columns; i += THREADS)
            lks_store(dlogits, i, gradient<T>(lks_load(logits, i), shift, i, classes, target));
    }
}

lks_status cross_entropy_grad_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                      size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    const lks_kernel_tensor *logits = &spec->inputs[0];
    LKS_TRY(lks_cuda_expect_types(spec, "tif", "t", &type));
    LKS_TRY(lks_cuda_expect_elements(spec, "lse", &spec->inputs[2], lks_cuda_rows(logits)));
    LKS_TRY(
        lks_cuda_expect_elements(spec, "dlogits", &spec->outputs[0], lks_cuda_elements(logits)));
    return cross_entropy_make(out, device, spec, type);
}

template <typename T>
void cross_entropy_grad_launch(const cross_entropy_state *state, const lks_kernel_run *run)
{
    row_grad_arguments<T> with = {static_cast<const T *>(run->inputs[0]),
                                  static_cast<const int32_t *>(run->inputs[1]),
                                  static_cast<const float *>(run->inputs[2]),
                                  static_cast<T *>(run->outputs[0]),
                                  state->columns,
                                  state->classes,
                                  state->cuda->fault};
    auto kernel = state->columns % lks_vector<T>::SIZE == 0 ? cross_entropy_grad_rows<T, true>
                                                            : cross_entropy_grad_rows<T, false>;
    LKS_LAUNCH(kernel, dim3((unsigned)state->rows), dim3(THREADS), 0, state->cuda->stream, with);
}

lks_status cross_entropy_grad_run(void *state_, const lks_kernel_run *run)
{
    const cross_entropy_state *state = static_cast<const cross_entropy_state *>(state_);
    if (state->type == LKS_BF16)
        cross_entropy_grad_launch<lks_bf16>(state, run);
    else
        cross_entropy_grad_launch<float>(state, run);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

} // namespace

extern "C" const lks_kernel_driver lks_cuda_kernel_cross_entropy = {
    "cross_entropy", cross_entropy_prepare, cross_entropy_run, lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_cross_entropy_grad = {
    "cross_entropy_grad", cross_entropy_grad_prepare, cross_entropy_grad_run, lks_memory_free};
