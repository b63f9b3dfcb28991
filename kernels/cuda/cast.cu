/* "cast": between f32 and bf16. */
#include "kernels/cuda/cuda.cuh"

enum { CAST_THREADS = 256 };

typedef struct cast_state {
    lks_cuda_device *cuda;
    lks_dtype from, to;
    int64_t count;
} cast_state;

static lks_status cast_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                               size_t *workspace)
{
    const lks_kernel_tensor *x = &spec->inputs[0], *y = &spec->outputs[0];
    *workspace = 0;
    LKS_TRY(lks_spec_expect_types(spec, "x", "x", NULL));
    LKS_TRY(lks_spec_expect_elements(spec, "y", y, lks_spec_elements(x)));
    if ((x->dtype != LKS_F32 && x->dtype != LKS_BF16) ||
        (y->dtype != LKS_F32 && y->dtype != LKS_BF16))
        return lks_spec_refuse(spec, "f32 and bf16 are cast");
    cast_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->from = x->dtype;
    s->to = y->dtype;
    s->count = lks_spec_elements(x);
    *state = s;
    return LKS_OK;
}

template <typename T, typename O>
static __global__ void cast_kernel(int64_t n, const T *x, O *y, bool add)
{
    lks_each(n, [=](int64_t at, auto count) {
        constexpr int N = decltype(count)::value;
        lks_values<N> v = lks_load_values<N>(x, at);
        if (add) {
            const lks_values<N> before = lks_load_values<N>(y, at);
#pragma unroll
            for (int i = 0; i < N; ++i)
                v.x[i] += before.x[i];
        }
        lks_store_values<N>(y, at, v);
    });
}

template <typename T, typename O>
static lks_status cast_start(const cast_state *s, const lks_kernel_run *run)
{
    LKS_LAUNCH((cast_kernel<T, O>), lks_cuda_blocks(s->cuda, s->count / 4, CAST_THREADS),
               CAST_THREADS, 0, s->cuda->stream, s->count, (const T *)run->inputs[0],
               (O *)run->outputs[0], run->accumulate[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status cast_run(void *state, const lks_kernel_run *run)
{
    const cast_state *s = (const cast_state *)state;
    if (s->from == LKS_F32 && s->to == LKS_BF16)
        return cast_start<float, lks_bf16>(s, run);
    return LKS_BY_TYPES(s->from, s->to, cast_start)(s, run);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_cast = {"cast", cast_prepare, cast_run,
                                                           lks_memory_free};
