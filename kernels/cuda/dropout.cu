/* dropout. A thread takes 16 bytes of one sample, whose elements share one or two blocks of random words. */
#include "kernels/cuda/cuda.cuh"

namespace
{

enum { THREADS = 256 };
constexpr int64_t SAMPLES_MAX = 65535; /* of a grid */

struct dropout_state {
    lks_cuda_device *cuda;
    int64_t samples, elements; /* elements of one sample */
    float rate;
    uint32_t instance;
    lks_dtype type;
};

template <typename T> struct dropout_arguments {
    const T *x, *residual;
    T *y;
    int64_t samples, elements;
    float rate;
    uint64_t key;
    const uint64_t *positions;
    bool accumulate;
};

/* The factors of elements [first, first + SIZE) of a sample; first is a multiple of 4. */
template <int SIZE>
static __device__ __forceinline__ void factors_at(uint64_t key, uint64_t position, int64_t first,
                                                  float rate, float (&factor)[SIZE])
{
    float scale = 1.0f / (1.0f - rate);
#pragma unroll
    for (int i = 0; i < SIZE; i += 4) {
        lks_rng_block words = lks_rng_words(key, position, (uint64_t)(first + i) / 4);
#pragma unroll
        for (int j = 0; j < 4; ++j)
            factor[i + j] = lks_rng_uniform(words.word[j]) >= rate ? scale : 0.0f;
    }
}

template <typename T>
static __device__ __forceinline__ void drop_vector(const dropout_arguments<T> &with, int64_t at,
                                                   const float (&factor)[lks_vector<T>::SIZE])
{
    constexpr int SIZE = lks_vector<T>::SIZE;
    lks_vector<T> x = lks_vector<T>::load(with.x + at);
    float y[SIZE];
#pragma unroll
    for (int i = 0; i < SIZE; ++i)
        y[i] = x[i] * factor[i];
    if (with.residual) {
        lks_vector<T> residual = lks_vector<T>::load(with.residual + at);
#pragma unroll
        for (int i = 0; i < SIZE; ++i)
            y[i] += residual[i];
    }
    if (with.accumulate) {
        lks_vector<T> before = lks_vector<T>::load(with.y + at);
#pragma unroll
        for (int i = 0; i < SIZE; ++i)
            y[i] += before[i];
    }
    lks_vector<T>::round(y).store(with.y + at);
}

template <typename T>
static __device__ __forceinline__ void drop_element(const dropout_arguments<T> &with, int64_t at,
                                                    float factor)
{
    float y = lks_load(with.x, at) * factor;
    if (with.residual)
        y += lks_load(with.residual, at);
    lks_store(with.y, at, with.accumulate ? lks_load(with.y, at) + y : y);
}

/* Blocks: x: of a sample; y: samples. `Whole`: a sample is a whole number of vectors. */
template <typename T, bool Whole>
static __global__ void __launch_bounds__(THREADS) drop(dropout_arguments<T> with)
{
    constexpr int SIZE = lks_vector<T>::SIZE;
    int64_t first = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) * SIZE;
    if (first >= with.elements)
        return;
    for (int64_t sample = blockIdx.y; sample < with.samples; sample += gridDim.y) {
        int64_t at = sample * with.elements + first;
        float factor[SIZE];
        factors_at(with.key, with.positions[sample], first, with.rate, factor);
        if constexpr (Whole) {
            drop_vector(with, at, factor);
        } else {
#pragma unroll
            for (int i = 0; i < SIZE; ++i)
                if (first + i < with.elements)
                    drop_element(with, at + i, factor[i]);
        }
    }
}

template <typename T> void dropout_launch(const dropout_state *state, const lks_kernel_run *run)
{
    constexpr int SIZE = lks_vector<T>::SIZE;
    dropout_arguments<T> with = {static_cast<const T *>(run->inputs[0]),
                                 static_cast<const T *>(run->inputs[1]),
                                 static_cast<T *>(run->outputs[0]),
                                 state->samples,
                                 state->elements,
                                 state->rate,
                                 lks_rng_key(run->context->seed, LKS_RNG_DROPOUT, state->instance),
                                 run->context->positions,
                                 run->accumulate[0]};
    int64_t units = (state->elements + SIZE - 1) / SIZE;
    int64_t threads = units < THREADS ? (units + 31) / 32 * 32 : (int64_t)THREADS;
    int64_t samples = state->samples < SAMPLES_MAX ? state->samples : SAMPLES_MAX;
    auto kernel = state->elements % SIZE == 0 ? drop<T, true> : drop<T, false>;
    LKS_LAUNCH(kernel, dim3((unsigned)((units + threads - 1) / threads), (unsigned)samples),
               dim3((unsigned)threads), 0, state->cuda->stream, with);
}

lks_status dropout_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                           size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_shapes_expect_dropout(spec, &type));
    const lks_kernel_tensor *x = &spec->inputs[0];
    const lks_dropout_attributes *with =
        static_cast<const lks_dropout_attributes *>(spec->attributes);
    dropout_state *state;
    LKS_TRY(LKS_NEW(&state));
    *state = {lks_cuda_of(device), x->shape.size[0], lks_spec_elements(x) / x->shape.size[0],
              with->rate,          with->instance,   type};
    *workspace = 0;
    *out = state;
    return LKS_OK;
}

lks_status dropout_run(void *state_, const lks_kernel_run *run)
{
    const dropout_state *state = static_cast<const dropout_state *>(state_);
    if (state->type == LKS_BF16)
        dropout_launch<lks_bf16>(state, run);
    else
        dropout_launch<float>(state, run);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

} // namespace

extern "C" const lks_kernel_driver lks_cuda_kernel_dropout = {"dropout", dropout_prepare,
                                                              dropout_run, lks_memory_free};
