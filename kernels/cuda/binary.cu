/* "binary": elementwise functions of two tensors, the second broadcast over leading axes. */
#include "kernels/cuda/cuda.cuh"

enum { BINARY_THREADS = 256 };

typedef struct binary_state {
    lks_cuda_device *cuda;
    lks_binary_function function;
    lks_dtype type, result;
    int64_t count, inner; /* inner: elements of b */
} binary_state;

static lks_status binary_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_binary(spec, &type));
    const lks_binary_attributes *attributes = (const lks_binary_attributes *)spec->attributes;
    binary_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->function = attributes->function;
    s->type = type;
    s->result = spec->outputs[0].dtype;
    s->count = lks_spec_elements(&spec->inputs[0]);
    s->inner = lks_spec_elements(&spec->inputs[1]);
    *state = s;
    return LKS_OK;
}

static __device__ __forceinline__ float binary_value(lks_binary_function f, float l, float r)
{
    switch (f) {
    case LKS_BINARY_ADD:
        return l + r;
    case LKS_BINARY_SUBTRACT:
        return l - r;
    case LKS_BINARY_MULTIPLY:
        return __fmul_rn(l, r); /* not contracted with the sum that it may be added to */
    case LKS_BINARY_DIVIDE:
        return l / r;
    }
    return l;
}

/* b's elements for elements [at, at + N) of a. */
template <int N, typename T>
static __device__ __forceinline__ lks_values<N> binary_right(const T *b, int64_t inner, int64_t at)
{
    if (inner % N == 0)
        return lks_load_values<N>(b, at % inner);
    lks_values<N> values;
#pragma unroll
    for (int i = 0; i < N; ++i)
        values.x[i] = lks_load(b, (at + i) % inner);
    return values;
}

template <typename T, typename O>
static __global__ void binary_kernel(lks_binary_function f, int64_t n, int64_t inner, const T *a,
                                     const T *b, O *y, bool add)
{
    lks_each(n, [=](int64_t at, auto count) {
        constexpr int N = decltype(count)::value;
        const lks_values<N> l = lks_load_values<N>(a, at);
        const lks_values<N> r =
            inner == n ? lks_load_values<N>(b, at) : binary_right<N>(b, inner, at);
        lks_values<N> sum = {};
        if (add)
            sum = lks_load_values<N>(y, at);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            float v = binary_value(f, l.x[i], r.x[i]);
            sum.x[i] = add ? sum.x[i] + v : v;
        }
        lks_store_values<N>(y, at, sum);
    });
}

template <typename T, typename O>
static lks_status binary_start(const binary_state *s, const lks_kernel_run *run)
{
    LKS_LAUNCH((binary_kernel<T, O>), lks_cuda_blocks(s->cuda, s->count / 4, BINARY_THREADS),
               BINARY_THREADS, 0, s->cuda->stream, s->function, s->count, s->inner,
               (const T *)run->inputs[0], (const T *)run->inputs[1], (O *)run->outputs[0],
               run->accumulate[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status binary_run(void *state, const lks_kernel_run *run)
{
    const binary_state *s = (const binary_state *)state;
    return LKS_BY_TYPES(s->type, s->result, binary_start)(s, run);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_binary = {"binary", binary_prepare, binary_run,
                                                             lks_memory_free};
