/* "reduce" and "expand": sums over, and copies along, the middle axis of outer x middle x inner.
 *
 * A sum is cut into runs whose length follows from the shape; a run's sum goes to the workspace in f64, and the
 * runs of an element are added in order.
 */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/sums.cuh"

enum {
    REDUCE_THREADS = 256,
    REDUCE_WARPS = REDUCE_THREADS / 32,
    REDUCE_ROW_RUN = 4096, /* elements of a run along a row */
    REDUCE_COLUMN_RUN = 256,
    REDUCE_SHORT = 32, /* summed in f32 before it goes to f64 */
};

typedef struct reduce_state {
    lks_cuda_device *cuda;
    lks_reduce_attributes view;
    lks_dtype type, result;
    int64_t run_length, runs;
} reduce_state;

static lks_status reduce_create(void **state, lks_device *device, const lks_kernel_spec *spec,
                                bool expand)
{
    const lks_reduce_attributes *a = (const lks_reduce_attributes *)spec->attributes;
    lks_dtype type;
    LKS_TRY(expand ? lks_shapes_expect_expand(spec, &type) : lks_shapes_expect_reduce(spec, &type));
    reduce_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->view = *a;
    s->type = type;
    s->result = spec->outputs[0].dtype;
    s->run_length = a->inner == 1 ? REDUCE_ROW_RUN : REDUCE_COLUMN_RUN;
    s->runs = (a->middle + s->run_length - 1) / s->run_length;
    *state = s;
    return LKS_OK;
}

static lks_status reduce_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    LKS_TRY(reduce_create(state, device, spec, false));
    const reduce_state *s = (const reduce_state *)*state;
    *workspace = (size_t)(s->runs * s->view.outer * s->view.inner) * sizeof(double);
    return LKS_OK;
}

static lks_status expand_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    *workspace = 0;
    return reduce_create(state, device, spec, true);
}

/* sums[o * runs + r] of row o: a warp each. */
template <typename T>
static __global__ void __launch_bounds__(REDUCE_THREADS)
    reduce_rows_kernel(lks_reduce_attributes view, int64_t runs, const T *x, double *sums)
{
    const int64_t warp = (int64_t)blockIdx.x * REDUCE_WARPS + threadIdx.x / 32;
    for (int64_t i = warp; i < view.outer * runs; i += (int64_t)gridDim.x * REDUCE_WARPS) {
        const int64_t begin = i % runs * REDUCE_ROW_RUN;
        const int64_t end = min(begin + REDUCE_ROW_RUN, view.middle);
        const T *row = x + i / runs * view.middle;
        double sum = 0;
        for (int64_t j = begin + threadIdx.x % 32; j < end; j += 32)
            sum += (double)lks_load(row, j);
        sum = lks_warp_sum(sum);
        if (threadIdx.x % 32 == 0)
            sums[i] = sum;
    }
}

/* sums[(o * runs + r) * inner + c]: a thread each. */
template <typename T>
static __global__ void __launch_bounds__(REDUCE_THREADS)
    reduce_columns_kernel(lks_reduce_attributes view, int64_t runs, const T *x, double *sums)
{
    const int64_t n = view.outer * runs * view.inner;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t begin = i / view.inner % runs * REDUCE_COLUMN_RUN;
        const int64_t end = min(begin + REDUCE_COLUMN_RUN, view.middle);
        const T *column = x + i / view.inner / runs * view.middle * view.inner + i % view.inner;
        double sum = 0;
        for (int64_t first = begin; first < end; first += REDUCE_SHORT) {
            const int64_t stop = min(first + REDUCE_SHORT, end);
            float part = 0;
            for (int64_t j = first; j < stop; ++j)
                part += lks_load(column, j * view.inner);
            sum += (double)part;
        }
        sums[i] = sum;
    }
}

/* y[i] (+)= scale times the sum of its runs: a warp each. */
template <typename O>
static __global__ void __launch_bounds__(REDUCE_THREADS)
    reduce_finish_kernel(lks_reduce_attributes view, int64_t runs, const double *sums, O *y,
                         bool add)
{
    const int64_t warp = (int64_t)blockIdx.x * REDUCE_WARPS + threadIdx.x / 32;
    for (int64_t i = warp; i < view.outer * view.inner; i += (int64_t)gridDim.x * REDUCE_WARPS) {
        const double *first = sums + i / view.inner * runs * view.inner + i % view.inner;
        double sum = 0;
        for (int64_t run = threadIdx.x % 32; run < runs; run += 32)
            sum += first[run * view.inner];
        sum = lks_warp_sum(sum);
        if (threadIdx.x % 32)
            continue;
        const float v = (float)((double)view.scale * sum);
        lks_store(y, i, add ? lks_load(y, i) + v : v);
    }
}

template <typename T, typename O>
static lks_status reduce_start(const reduce_state *s, const lks_kernel_run *run)
{
    const lks_reduce_attributes *view = &s->view;
    const int64_t narrow = view->outer * view->inner;
    const T *x = (const T *)run->inputs[0];
    double *sums = (double *)run->workspace;
    if (view->inner == 1)
        LKS_LAUNCH(reduce_rows_kernel<T>,
                   lks_cuda_blocks(s->cuda, narrow * s->runs * 32, REDUCE_THREADS), REDUCE_THREADS,
                   0, s->cuda->stream, *view, s->runs, x, sums);
    else
        LKS_LAUNCH(reduce_columns_kernel<T>,
                   lks_cuda_blocks(s->cuda, narrow * s->runs, REDUCE_THREADS), REDUCE_THREADS, 0,
                   s->cuda->stream, *view, s->runs, x, sums);
    LKS_CUDA_LAUNCHED();
    LKS_LAUNCH(reduce_finish_kernel<O>, lks_cuda_blocks(s->cuda, narrow * 32, REDUCE_THREADS),
               REDUCE_THREADS, 0, s->cuda->stream, *view, s->runs, sums, (O *)run->outputs[0],
               run->accumulate[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status reduce_run(void *state, const lks_kernel_run *run)
{
    const reduce_state *s = (const reduce_state *)state;
    return LKS_BY_TYPES(s->type, s->result, reduce_start)(s, run);
}

template <typename T, typename O>
static __global__ void expand_kernel(lks_reduce_attributes view, const T *x, O *y, bool add)
{
    const int64_t n = view.outer * view.middle * view.inner;
    lks_each(n, [=](int64_t at, auto count) {
        constexpr int N = decltype(count)::value;
        lks_values<N> v = {};
        if (add)
            v = lks_load_values<N>(y, at);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const int64_t row = (at + i) / view.inner / view.middle;
            const float more =
                __fmul_rn(view.scale, lks_load(x, row * view.inner + (at + i) % view.inner));
            v.x[i] = add ? v.x[i] + more : more;
        }
        lks_store_values<N>(y, at, v);
    });
}

template <typename T, typename O>
static lks_status expand_start(const reduce_state *s, const lks_kernel_run *run)
{
    const int64_t n = s->view.outer * s->view.middle * s->view.inner;
    LKS_LAUNCH((expand_kernel<T, O>), lks_cuda_blocks(s->cuda, n / 4, REDUCE_THREADS),
               REDUCE_THREADS, 0, s->cuda->stream, s->view, (const T *)run->inputs[0],
               (O *)run->outputs[0], run->accumulate[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status expand_run(void *state, const lks_kernel_run *run)
{
    const reduce_state *s = (const reduce_state *)state;
    return LKS_BY_TYPES(s->type, s->result, expand_start)(s, run);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_reduce = {"reduce", reduce_prepare, reduce_run,
                                                             lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_expand = {"expand", expand_prepare, expand_run,
                                                             lks_memory_free};
