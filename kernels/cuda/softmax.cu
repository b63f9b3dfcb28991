/* "softmax" and its gradient over the last axis. Short rows have a warp each, long ones a block. */
#include "kernels/cuda/cuda.cuh"

enum { SOFTMAX_THREADS = 256, SOFTMAX_SHORT = 1024, SOFTMAX_WARPS = SOFTMAX_THREADS / 32 };

typedef struct softmax_view {
    int64_t rows, width;
    int64_t period; /* rows of one matrix when causal, else 0 */
} softmax_view;

typedef struct softmax_state {
    lks_cuda_device *cuda;
    softmax_view view;
    lks_dtype type, result;
} softmax_state;

static lks_status softmax_create(void **state, lks_device *device, const lks_kernel_spec *spec,
                                 lks_dtype type)
{
    const lks_softmax_attributes *attributes = (const lks_softmax_attributes *)spec->attributes;
    const lks_kernel_tensor *x = &spec->inputs[0];
    softmax_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->type = type;
    s->result = spec->outputs[0].dtype;
    s->view.width = lks_spec_columns(x);
    s->view.rows = lks_spec_rows(x);
    s->view.period = attributes->causal ? x->shape.size[x->shape.axes - 2] : 0;
    *state = s;
    return LKS_OK;
}

static lks_status softmax_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                  size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_softmax(spec, &type));
    return softmax_create(state, device, spec, type);
}

static lks_status softmax_grad_prepare(void **state, lks_device *device,
                                       const lks_kernel_spec *spec, size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_softmax_grad(spec, &type));
    return softmax_create(state, device, spec, type);
}

/* The Group threads that share a row: a warp, or the block. */
template <int Group> static __device__ __forceinline__ float softmax_sum(float x, float *parts)
{
    x = lks_warp_sum(x);
    if (Group == 32)
        return x;
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < Group / 32; ++i)
        x += parts[i];
    return x;
}

template <int Group> static __device__ __forceinline__ float softmax_max(float x, float *parts)
{
    x = lks_warp_max(x);
    if (Group == 32)
        return x;
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        parts[threadIdx.x / 32] = x;
    __syncthreads();
    for (int i = 0; i < Group / 32; ++i)
        x = fmaxf(x, parts[i]);
    return x;
}

/* Columns that row `row` sees. */
static __device__ __forceinline__ int64_t softmax_visible(const softmax_view &view, int64_t row)
{
    if (!view.period)
        return view.width;
    int64_t last = row % view.period;
    return last < view.width ? last + 1 : view.width;
}

template <int Group> static __device__ __forceinline__ int64_t softmax_first_row()
{
    return ((int64_t)blockIdx.x * SOFTMAX_THREADS + threadIdx.x) / Group;
}
template <int Group> static __device__ __forceinline__ int64_t softmax_rows_at_once()
{
    return (int64_t)gridDim.x * SOFTMAX_THREADS / Group;
}

/* y may be x: a thread writes only what it alone still reads. */
template <int Group, typename T>
static __global__ void __launch_bounds__(SOFTMAX_THREADS)
    softmax_kernel(softmax_view view, const T *x, T *y)
{
    LKS_DYNAMIC_SHARED(float, parts); /* [SOFTMAX_WARPS], of a block that shares a row */
    const int lane = threadIdx.x % Group;
    for (int64_t row = softmax_first_row<Group>(); row < view.rows;
         row += softmax_rows_at_once<Group>()) {
        const int64_t n = softmax_visible(view, row), base = row * view.width;
        float largest = -INFINITY, sum = 0;
        for (int64_t i = lane; i < n; i += Group)
            largest = fmaxf(largest, lks_load(x, base + i));
        largest = softmax_max<Group>(largest, parts);
        for (int64_t i = lane; i < n; i += Group)
            sum += expf(lks_load(x, base + i) - largest);
        sum = softmax_sum<Group>(sum, parts);
        for (int64_t i = lane; i < n; i += Group)
            lks_store(y, base + i, expf(lks_load(x, base + i) - largest) / sum);
        for (int64_t i = n + lane; i < view.width; i += Group)
            lks_store(y, base + i, 0.0f);
    }
}

template <int Group, typename T, typename O>
static __global__ void __launch_bounds__(SOFTMAX_THREADS)
    softmax_grad_kernel(softmax_view view, const T *dy, const T *y, O *dx, bool add)
{
    LKS_DYNAMIC_SHARED(float, parts); /* [SOFTMAX_WARPS], of a block that shares a row */
    const int lane = threadIdx.x % Group;
    for (int64_t row = softmax_first_row<Group>(); row < view.rows;
         row += softmax_rows_at_once<Group>()) {
        const int64_t n = softmax_visible(view, row), base = row * view.width;
        float dot = 0;
        for (int64_t i = lane; i < n; i += Group)
            dot = fmaf(lks_load(dy, base + i), lks_load(y, base + i), dot);
        dot = softmax_sum<Group>(dot, parts);
        for (int64_t i = lane; i < n; i += Group) {
            float g = lks_load(y, base + i) * (lks_load(dy, base + i) - dot);
            lks_store(dx, base + i, add ? lks_load(dx, base + i) + g : g);
        }
        for (int64_t i = n + lane; i < view.width && !add; i += Group)
            lks_store(dx, base + i, 0.0f);
    }
}

static unsigned softmax_blocks(const softmax_state *s, int group)
{
    return lks_cuda_blocks(s->cuda, s->view.rows * group, SOFTMAX_THREADS);
}

template <typename T>
static lks_status softmax_start(const softmax_state *s, const lks_kernel_run *run)
{
    const T *x = (const T *)run->inputs[0];
    T *y = (T *)run->outputs[0];
    if (s->view.width <= SOFTMAX_SHORT)
        LKS_LAUNCH((softmax_kernel<32, T>), softmax_blocks(s, 32), SOFTMAX_THREADS, 0,
                   s->cuda->stream, s->view, x, y);
    else
        LKS_LAUNCH((softmax_kernel<SOFTMAX_THREADS, T>), softmax_blocks(s, SOFTMAX_THREADS),
                   SOFTMAX_THREADS, SOFTMAX_WARPS * sizeof(float), s->cuda->stream, s->view, x, y);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

template <typename T, typename O>
static lks_status softmax_grad_start(const softmax_state *s, const lks_kernel_run *run)
{
    const T *dy = (const T *)run->inputs[0], *y = (const T *)run->inputs[1];
    O *dx = (O *)run->outputs[0];
    if (s->view.width <= SOFTMAX_SHORT)
        LKS_LAUNCH((softmax_grad_kernel<32, T, O>), softmax_blocks(s, 32), SOFTMAX_THREADS, 0,
                   s->cuda->stream, s->view, dy, y, dx, run->accumulate[0]);
    else
        LKS_LAUNCH((softmax_grad_kernel<SOFTMAX_THREADS, T, O>), softmax_blocks(s, SOFTMAX_THREADS),
                   SOFTMAX_THREADS, SOFTMAX_WARPS * sizeof(float), s->cuda->stream, s->view, dy, y,
                   dx, run->accumulate[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status softmax_run(void *state, const lks_kernel_run *run)
{
    const softmax_state *s = (const softmax_state *)state;
    return LKS_BY_TYPE(s->type, softmax_start)(s, run);
}

static lks_status softmax_grad_run(void *state, const lks_kernel_run *run)
{
    const softmax_state *s = (const softmax_state *)state;
    return LKS_BY_TYPES(s->type, s->result, softmax_grad_start)(s, run);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_softmax = {"softmax", softmax_prepare,
                                                              softmax_run, lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_softmax_grad = {
    "softmax_grad", softmax_grad_prepare, softmax_grad_run, lks_memory_free};
