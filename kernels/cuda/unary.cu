/* "unary" and "unary_grad": elementwise functions of one tensor. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/math.cuh"

enum { UNARY_THREADS = 256 };

typedef struct unary_state {
    lks_cuda_device *cuda;
    lks_unary_attributes attributes;
    lks_dtype type, result;
    int64_t count;
} unary_state;

static lks_status unary_create(void **state, lks_device *device, const lks_kernel_spec *spec,
                               lks_dtype type)
{
    unary_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->attributes = *(const lks_unary_attributes *)spec->attributes;
    s->type = type;
    s->result = spec->outputs[0].dtype;
    s->count = lks_spec_elements(&spec->inputs[0]);
    *state = s;
    return LKS_OK;
}

static lks_status unary_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_unary(spec, &type));
    return unary_create(state, device, spec, type);
}

static lks_status unary_grad_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                     size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_unary_grad(spec, &type));
    return unary_create(state, device, spec, type);
}

static __device__ __forceinline__ float unary_value(const lks_unary_attributes &f, float v)
{
    switch (f.function) {
    case LKS_UNARY_RELU:
        return v < 0.0f ? 0.0f : v;
    case LKS_UNARY_GELU:
        return lks_gelu(v);
    case LKS_UNARY_SILU:
        return v * lks_sigmoid(v);
    case LKS_UNARY_TANH:
        return tanhf(v);
    case LKS_UNARY_SIGMOID:
        return lks_sigmoid(v);
    case LKS_UNARY_EXP:
        return expf(v);
    case LKS_UNARY_LOG:
        return logf(v);
    case LKS_UNARY_SQRT:
        return sqrtf(v);
    case LKS_UNARY_SQUARE:
        return v * v;
    case LKS_UNARY_RECIPROCAL:
        return 1.0f / v;
    case LKS_UNARY_AFFINE:
        return fmaf(f.alpha, v, f.beta);
    }
    return v;
}

static __device__ __forceinline__ float unary_silu_derivative(float x)
{
    float s = lks_sigmoid(x);
    return s + (x < -100.0f ? -100.0f : x) * s * (1.0f - s);
}

/* v = x, r = y. */
static __device__ __forceinline__ float unary_slope(const lks_unary_attributes &f, float v, float r)
{
    switch (f.function) {
    case LKS_UNARY_RELU:
        return r > 0.0f ? 1.0f : 0.0f;
    case LKS_UNARY_GELU:
        return lks_gelu_derivative(v);
    case LKS_UNARY_SILU:
        return unary_silu_derivative(v);
    case LKS_UNARY_TANH:
        return 1.0f - r * r;
    case LKS_UNARY_SIGMOID:
        return r * (1.0f - r);
    case LKS_UNARY_EXP:
        return r;
    case LKS_UNARY_LOG:
        return 1.0f / v;
    case LKS_UNARY_SQRT:
        return 0.5f / r;
    case LKS_UNARY_SQUARE:
        return 2.0f * v;
    case LKS_UNARY_RECIPROCAL:
        return -(r * r);
    case LKS_UNARY_AFFINE:
        return f.alpha;
    }
    return 0.0f;
}

template <typename T>
static __global__ void unary_kernel(lks_unary_attributes f, int64_t n, const T *x, T *y)
{
    lks_each(n, [=](int64_t at, auto count) {
        constexpr int N = decltype(count)::value;
        lks_values<N> v = lks_load_values<N>(x, at);
#pragma unroll
        for (int i = 0; i < N; ++i)
            v.x[i] = unary_value(f, v.x[i]);
        lks_store_values<N>(y, at, v);
    });
}

template <typename T, typename O>
static __global__ void unary_grad_kernel(lks_unary_attributes f, int64_t n, const T *dy, const T *x,
                                         const T *y, O *dx, bool add)
{
    lks_each(n, [=](int64_t at, auto count) {
        constexpr int N = decltype(count)::value;
        const lks_values<N> g = lks_load_values<N>(dy, at);
        const lks_values<N> v = lks_load_values<N>(x, at), r = lks_load_values<N>(y, at);
        lks_values<N> sum = {};
        if (add)
            sum = lks_load_values<N>(dx, at);
#pragma unroll
        for (int i = 0; i < N; ++i)
            sum.x[i] = fmaf(g.x[i], unary_slope(f, v.x[i], r.x[i]), sum.x[i]);
        lks_store_values<N>(dx, at, sum);
    });
}

template <typename T> static lks_status unary_start(const unary_state *s, const lks_kernel_run *run)
{
    LKS_LAUNCH(unary_kernel<T>, lks_cuda_blocks(s->cuda, s->count / 4, UNARY_THREADS),
               UNARY_THREADS, 0, s->cuda->stream, s->attributes, s->count,
               (const T *)run->inputs[0], (T *)run->outputs[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status unary_run(void *state, const lks_kernel_run *run)
{
    const unary_state *s = (const unary_state *)state;
    return LKS_BY_TYPE(s->type, unary_start)(s, run);
}

template <typename T, typename O>
static lks_status unary_grad_start(const unary_state *s, const lks_kernel_run *run)
{
    LKS_LAUNCH((unary_grad_kernel<T, O>), lks_cuda_blocks(s->cuda, s->count / 4, UNARY_THREADS),
               UNARY_THREADS, 0, s->cuda->stream, s->attributes, s->count,
               (const T *)run->inputs[0], (const T *)run->inputs[1], (const T *)run->inputs[2],
               (O *)run->outputs[0], run->accumulate[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status unary_grad_run(void *state, const lks_kernel_run *run)
{
    const unary_state *s = (const unary_state *)state;
    return LKS_BY_TYPES(s->type, s->result, unary_grad_start)(s, run);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_unary = {"unary", unary_prepare, unary_run,
                                                            lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_unary_grad = {"unary_grad", unary_grad_prepare,
                                                                 unary_grad_run, lks_memory_free};
