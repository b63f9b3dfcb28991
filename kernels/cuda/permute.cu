/* "permute": axes in another order. */
#include "kernels/cuda/cuda.cuh"

enum {
    PERMUTE_THREADS = 256,
    PERMUTE_TILE = 32,
    PERMUTE_PITCH = PERMUTE_TILE + 1,
    PERMUTE_ROWS = PERMUTE_THREADS / PERMUTE_TILE,
};

typedef struct permute_state {
    lks_cuda_device *cuda;
    lks_permutation plan;
    lks_dtype type, result;
} permute_state;

static lks_status permute_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                  size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    lks_permutation plan;
    LKS_TRY(lks_shapes_expect_permute(spec, &plan, &type));
    permute_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->plan = plan;
    s->type = type;
    s->result = spec->outputs[0].dtype;
    *state = s;
    return LKS_OK;
}

/* Where outer entry `index` begins in x and in y. */
static __device__ __forceinline__ void permute_place(const lks_permutation &plan, int64_t index,
                                                     int64_t *x, int64_t *y)
{
    *x = *y = 0;
#pragma unroll
    for (int axis = 0; axis < LKS_AXES_MAX; ++axis) {
        if (axis >= plan.axes)
            break;
        const int64_t at = index % plan.size[axis];
        index /= plan.size[axis];
        *x += at * plan.x_step[axis];
        *y += at * plan.y_step[axis];
    }
}

/* Columns are contiguous in both: N at a time. */
template <int N, typename T, typename O>
static __global__ void permute_copy_kernel(lks_permutation plan, const T *x, O *y, bool add)
{
    const int64_t words = plan.columns / N, n = plan.outer * words;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        int64_t from, to;
        permute_place(plan, i / words, &from, &to);
        const int64_t column = i % words * N;
        lks_values<N> v = lks_load_values<N>(x, from + column);
        if (add) {
            const lks_values<N> before = lks_load_values<N>(y, to + column);
#pragma unroll
            for (int j = 0; j < N; ++j)
                v.x[j] += before.x[j];
        }
        lks_store_values<N>(y, to + column, v);
    }
}

/* Tiles through shared memory: read along x's contiguous axis, written along y's. */
template <typename T, typename O>
static __global__ void __launch_bounds__(PERMUTE_THREADS)
    permute_tile_kernel(lks_permutation plan, const T *x, O *y, bool add)
{
    LKS_DYNAMIC_SHARED(float, tile); /* [PERMUTE_TILE][PERMUTE_PITCH] */
    const int64_t across = (plan.rows + PERMUTE_TILE - 1) / PERMUTE_TILE;
    const int64_t down = (plan.columns + PERMUTE_TILE - 1) / PERMUTE_TILE;
    const int lane = threadIdx.x % PERMUTE_TILE, first = threadIdx.x / PERMUTE_TILE;
    for (int64_t i = blockIdx.x; i < plan.outer * across * down; i += gridDim.x) {
        int64_t from, to;
        permute_place(plan, i / (across * down), &from, &to);
        const int64_t row = i % across * PERMUTE_TILE;
        const int64_t column = i / across % down * PERMUTE_TILE;
        for (int c = first; c < PERMUTE_TILE; c += PERMUTE_ROWS)
            if (row + lane < plan.rows && column + c < plan.columns)
                tile[c * PERMUTE_PITCH + lane] =
                    lks_load(x, from + row + lane + (column + c) * plan.column_x_step);
        __syncthreads();
        for (int r = first; r < PERMUTE_TILE; r += PERMUTE_ROWS)
            if (row + r < plan.rows && column + lane < plan.columns) {
                const int64_t at = to + (row + r) * plan.row_y_step + column + lane;
                const float v = tile[lane * PERMUTE_PITCH + r];
                lks_store(y, at, add ? lks_load(y, at) + v : v);
            }
        __syncthreads();
    }
}

static bool permute_is_whole(const lks_permutation *plan, int64_t n)
{
    bool whole = plan->columns % n == 0;
    for (int i = 0; i < plan->axes; ++i)
        whole = whole && plan->x_step[i] % n == 0 && plan->y_step[i] % n == 0;
    return whole;
}

template <typename T, typename O>
static lks_status permute_start(const permute_state *s, const lks_kernel_run *run)
{
    const lks_permutation *plan = &s->plan;
    const T *x = (const T *)run->inputs[0];
    O *y = (O *)run->outputs[0];
    const int64_t n = plan->outer * plan->rows * plan->columns;
    if (plan->column_x_step != 1)
        LKS_LAUNCH((permute_tile_kernel<T, O>), lks_cuda_blocks(s->cuda, n / 4, PERMUTE_THREADS),
                   PERMUTE_THREADS, PERMUTE_TILE * PERMUTE_PITCH * sizeof(float), s->cuda->stream,
                   *plan, x, y, run->accumulate[0]);
    else if (permute_is_whole(plan, 4))
        LKS_LAUNCH((permute_copy_kernel<4, T, O>), lks_cuda_blocks(s->cuda, n / 4, PERMUTE_THREADS),
                   PERMUTE_THREADS, 0, s->cuda->stream, *plan, x, y, run->accumulate[0]);
    else
        LKS_LAUNCH((permute_copy_kernel<1, T, O>), lks_cuda_blocks(s->cuda, n, PERMUTE_THREADS),
                   PERMUTE_THREADS, 0, s->cuda->stream, *plan, x, y, run->accumulate[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status permute_run(void *state, const lks_kernel_run *run)
{
    const permute_state *s = (const permute_state *)state;
    return LKS_BY_TYPES(s->type, s->result, permute_start)(s, run);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_permute = {"permute", permute_prepare,
                                                              permute_run, lks_memory_free};
