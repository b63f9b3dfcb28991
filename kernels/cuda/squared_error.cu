/* "squared_error" and its gradient: rows with a target that is not finite are masked. */
#include "kernels/cuda/cuda.cuh"
#include "kernels/cuda/sums.cuh"

enum { ERROR_THREADS = 256, ERROR_WARPS = ERROR_THREADS / 32 };

typedef struct squared_error_state {
    lks_cuda_device *cuda;
    lks_dtype type;
    int64_t rows, width;
} squared_error_state;

static lks_status squared_error_create(void **state, lks_device *device,
                                       const lks_kernel_spec *spec, lks_dtype type)
{
    const lks_kernel_tensor *prediction = &spec->inputs[0];
    squared_error_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->type = type;
    s->rows = lks_spec_rows(prediction);
    s->width = lks_spec_columns(prediction);
    *state = s;
    return LKS_OK;
}

static lks_status squared_error_prepare(void **state, lks_device *device,
                                        const lks_kernel_spec *spec, size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_shapes_expect_squared_error(spec, &type));
    *workspace = (size_t)lks_spec_rows(&spec->inputs[0]) * 2 * sizeof(double);
    return squared_error_create(state, device, spec, type);
}

static lks_status squared_error_grad_prepare(void **state, lks_device *device,
                                             const lks_kernel_spec *spec, size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_squared_error_grad(spec, &type));
    return squared_error_create(state, device, spec, type);
}

/* Whether all targets of the warp's row are finite; the same in all lanes. */
static __device__ __forceinline__ bool squared_error_valid(int64_t width, const float *target)
{
    int valid = 1;
    for (int64_t i = threadIdx.x % 32; i < width; i += 32)
        valid = valid && fabsf(target[i]) < INFINITY;
    return __all_sync(0xffffffffu, valid) != 0;
}

/* A warp per row: rows[2 r] is its sum of squares, rows[2 r + 1] 1, or both 0 where masked. */
template <typename T>
static __global__ void __launch_bounds__(ERROR_THREADS)
    squared_error_rows(int64_t count, int64_t width, const T *prediction, const float *target,
                       double *rows)
{
    const int64_t warp = (int64_t)blockIdx.x * ERROR_WARPS + threadIdx.x / 32;
    for (int64_t row = warp; row < count; row += (int64_t)gridDim.x * ERROR_WARPS) {
        const bool valid = squared_error_valid(width, target + row * width);
        double sum = 0;
        for (int64_t i = threadIdx.x % 32; valid && i < width; i += 32) {
            double difference =
                (double)lks_load(prediction, row * width + i) - (double)target[row * width + i];
            sum += difference * difference;
        }
        sum = lks_warp_sum(sum);
        if (threadIdx.x % 32 == 0) {
            rows[2 * row] = sum;
            rows[2 * row + 1] = valid ? 1.0 : 0.0;
        }
    }
}

static __global__ void __launch_bounds__(ERROR_THREADS)
    squared_error_stats(int64_t count, int64_t width, const double *rows, double *stats)
{
    __shared__ double parts[ERROR_WARPS];
    double sum = 0, valid = 0;
    for (int64_t row = threadIdx.x; row < count; row += ERROR_THREADS) {
        sum += rows[2 * row];
        valid += rows[2 * row + 1];
    }
    sum = lks_block_sum<ERROR_THREADS>(sum, parts);
    valid = lks_block_sum<ERROR_THREADS>(valid, parts);
    if (threadIdx.x == 0) {
        stats[0] = sum / (double)width;
        stats[1] = valid;
        stats[2] = 0.0;
    }
}

template <typename T>
static __global__ void __launch_bounds__(ERROR_THREADS)
    squared_error_grad_kernel(int64_t count, int64_t width, const T *prediction,
                              const float *target, T *dprediction)
{
    const int64_t warp = (int64_t)blockIdx.x * ERROR_WARPS + threadIdx.x / 32;
    for (int64_t row = warp; row < count; row += (int64_t)gridDim.x * ERROR_WARPS) {
        const bool valid = squared_error_valid(width, target + row * width);
        for (int64_t i = threadIdx.x % 32; i < width; i += 32) {
            const int64_t at = row * width + i;
            float g = 2.0f * (lks_load(prediction, at) - target[at]) / (float)width;
            lks_store(dprediction, at, valid ? g : 0.0f);
        }
    }
}

template <typename T>
static lks_status squared_error_start(const squared_error_state *s, const lks_kernel_run *run)
{
    double *rows = (double *)run->workspace;
    LKS_LAUNCH(squared_error_rows<T>, lks_cuda_blocks(s->cuda, s->rows * 32, ERROR_THREADS),
               ERROR_THREADS, 0, s->cuda->stream, s->rows, s->width, (const T *)run->inputs[0],
               (const float *)run->inputs[1], rows);
    LKS_CUDA_LAUNCHED();
    LKS_LAUNCH(squared_error_stats, 1, ERROR_THREADS, 0, s->cuda->stream, s->rows, s->width, rows,
               (double *)run->outputs[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

template <typename T>
static lks_status squared_error_grad_start(const squared_error_state *s, const lks_kernel_run *run)
{
    LKS_LAUNCH(squared_error_grad_kernel<T>, lks_cuda_blocks(s->cuda, s->rows * 32, ERROR_THREADS),
               ERROR_THREADS, 0, s->cuda->stream, s->rows, s->width, (const T *)run->inputs[0],
               (const float *)run->inputs[1], (T *)run->outputs[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status squared_error_run(void *state, const lks_kernel_run *run)
{
    const squared_error_state *s = (const squared_error_state *)state;
    return LKS_BY_TYPE(s->type, squared_error_start)(s, run);
}

static lks_status squared_error_grad_run(void *state, const lks_kernel_run *run)
{
    const squared_error_state *s = (const squared_error_state *)state;
    return LKS_BY_TYPE(s->type, squared_error_grad_start)(s, run);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_squared_error = {
    "squared_error", squared_error_prepare, squared_error_run, lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_squared_error_grad = {
    "squared_error_grad", squared_error_grad_prepare, squared_error_grad_run, lks_memory_free};
