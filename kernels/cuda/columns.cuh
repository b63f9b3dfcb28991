/* Sums over the rows of a matrix, in two passes: runs of rows into partial sums, then the partial sums, one after
 * the other in eight threads whose sums are added in order. Where runs begin follows from the shape.
 */
#ifndef LKS_KERNELS_CUDA_COLUMNS_CUH
#define LKS_KERNELS_CUDA_COLUMNS_CUH

#include "kernels/cuda/cuda.cuh"

/* Five blocks of a multiprocessor leave a thread the registers to have four reads under way (ptxas chooses two otherwise). */
enum { LKS_COLUMNS_LANES = 8, LKS_COLUMNS_BLOCKS = 1056, LKS_COLUMNS_RESIDENT = 5 };

/* Runs of rows for a matrix whose columns take `tiles` blocks. */
static inline int64_t lks_columns_runs(int64_t rows, int64_t tiles)
{
    int64_t most = LKS_COLUMNS_BLOCKS / tiles > 1 ? LKS_COLUMNS_BLOCKS / tiles : 1;
    int64_t wanted = (rows + 127) / 128;
    return wanted < most ? wanted : most;
}

/* out[c] (+)= sum over p of partials[p * stride + c]. Blocks of 32 x LKS_COLUMNS_LANES threads. */
static __global__ void __launch_bounds__(32 * LKS_COLUMNS_LANES)
    lks_columns_finish(const float *partials, int64_t count, int64_t stride, int64_t columns,
                       float *out, bool accumulate)
{
    __shared__ float sums[LKS_COLUMNS_LANES][32];
    int64_t column = (int64_t)blockIdx.x * 32 + threadIdx.x;
    float sum = 0;
    if (column < columns)
#pragma unroll 8
        for (int64_t p = threadIdx.y; p < count; p += LKS_COLUMNS_LANES)
            sum += partials[p * stride + column];
    sums[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y != 0 || column >= columns)
        return;
    for (int lane = 1; lane < LKS_COLUMNS_LANES; ++lane)
        sum += sums[lane][threadIdx.x];
    out[column] = accumulate ? out[column] + sum : sum;
}

static inline void lks_columns_finish_launch(const lks_cuda_device *cuda, const float *partials,
                                             int64_t count, int64_t stride, int64_t columns,
                                             float *out, bool accumulate)
{
    LKS_LAUNCH(lks_columns_finish, dim3((unsigned)((columns + 31) / 32)),
               dim3(32, LKS_COLUMNS_LANES), 0, cuda->stream, partials, count, stride, columns, out,
               accumulate);
}

/* Partial sums of a matrix as it lies in memory: partials[run * columns + c]. Sixteen bytes a thread where `Wide`
 * (columns a multiple of lks_vector's SIZE), else an element. */
template <typename T, bool Wide>
static __global__ void __launch_bounds__(32 * LKS_COLUMNS_LANES, LKS_COLUMNS_RESIDENT)
    lks_columns_partial(const T *x, int64_t rows, int64_t columns, float *partials)
{
    constexpr int SIZE = Wide ? (int)lks_vector<T>::SIZE : 1;
    LKS_DYNAMIC_SHARED(float, sums); /* [LKS_COLUMNS_LANES, SIZE, 32] */
    int64_t column = ((int64_t)blockIdx.x * 32 + threadIdx.x) * SIZE;
    int64_t begin = rows * blockIdx.y / gridDim.y, end = rows * (blockIdx.y + 1) / gridDim.y;
    float sum[SIZE] = {0};
    if (column < columns)
#pragma unroll 4
        for (int64_t row = begin + threadIdx.y; row < end; row += LKS_COLUMNS_LANES) {
            if constexpr (Wide) {
                lks_vector<T> value = lks_vector<T>::load(x + row * columns + column);
#pragma unroll
                for (int i = 0; i < SIZE; ++i)
                    sum[i] += value[i];
            } else {
                sum[0] += lks_load(x, row * columns + column);
            }
        }
#pragma unroll
    for (int i = 0; i < SIZE; ++i)
        sums[(threadIdx.y * SIZE + i) * 32 + threadIdx.x] = sum[i];
    __syncthreads();
    if (threadIdx.y != 0 || column >= columns)
        return;
#pragma unroll
    for (int i = 0; i < SIZE; ++i) {
        for (int lane = 1; lane < LKS_COLUMNS_LANES; ++lane)
            sum[i] += sums[(lane * SIZE + i) * 32 + threadIdx.x];
        partials[blockIdx.y * columns + column + i] = sum[i];
    }
}

template <typename T> static inline int64_t lks_columns_tiles(int64_t columns)
{
    int64_t width = 32 * (columns % lks_vector<T>::SIZE == 0 ? (int)lks_vector<T>::SIZE : 1);
    return (columns + width - 1) / width;
}
/* Floats of workspace that lks_columns_sum needs. */
template <typename T> static inline int64_t lks_columns_workspace(int64_t rows, int64_t columns)
{
    return lks_columns_runs(rows, lks_columns_tiles<T>(columns)) * columns;
}
/* out[c] (+)= sum over rows of x[row * columns + c]. */
template <typename T>
static inline void lks_columns_sum(const lks_cuda_device *cuda, const T *x, int64_t rows,
                                   int64_t columns, float *workspace, float *out, bool accumulate)
{
    int64_t tiles = lks_columns_tiles<T>(columns), runs = lks_columns_runs(rows, tiles);
    bool wide = columns % lks_vector<T>::SIZE == 0;
    auto kernel = wide ? lks_columns_partial<T, true> : lks_columns_partial<T, false>;
    size_t sums = (size_t)(LKS_COLUMNS_LANES * 32 * (wide ? (int)lks_vector<T>::SIZE : 1));
    LKS_LAUNCH(kernel, dim3((unsigned)tiles, (unsigned)runs), dim3(32, LKS_COLUMNS_LANES),
               sums * sizeof(float), cuda->stream, x, rows, columns, workspace);
    lks_columns_finish_launch(cuda, workspace, runs, columns, columns, out, accumulate);
}

#endif
