/* norm and norm_grad. A row that fits is held in the registers of a warp (up to four vectors a lane) or, beyond, of a
 * block; any other is read from memory again for each sum. */
#include "kernels/cuda/columns.cuh"

namespace
{

enum { THREADS = 128, ROW_WARPS = 8, VECTORS_MAX = 4 };
constexpr int64_t BLOCKS_MAX = 528;

/* How a row is shared out; `warps` 0: the path for any width. */
struct norm_plan {
    int warps, vectors;
};

struct norm_state {
    lks_cuda_device *cuda;
    int64_t rows, width;
    lks_norm_attributes with;
    lks_dtype type;
    norm_plan plan;
};

norm_plan plan_of(lks_dtype type, int64_t width)
{
    int64_t size = type == LKS_BF16 ? 8 : 4, vectors = width / size;
    if (width % size != 0 || vectors > 32 * ROW_WARPS * VECTORS_MAX)
        return {0, 0};
    if (vectors <= 32 * VECTORS_MAX)
        return {1, (int)((vectors + 31) / 32)};
    return {ROW_WARPS, (int)((vectors + 32 * ROW_WARPS - 1) / (32 * ROW_WARPS))};
}

lks_status norm_make(void **out, lks_device *device, const lks_kernel_spec *spec, lks_dtype type)
{
    const lks_kernel_tensor *x = &spec->inputs[0];
    norm_state *state;
    LKS_TRY(LKS_NEW(&state));
    *state = {lks_cuda_of(device),
              lks_cuda_rows(x),
              lks_cuda_columns(x),
              *static_cast<const lks_norm_attributes *>(spec->attributes),
              type,
              plan_of(type, lks_cuda_columns(x))};
    *out = state;
    return LKS_OK;
}

/* --- Sums over a row ------------------------------------------------------------- */

/* The sum over the threads of a row, in all of them; `shared` has a place for each warp. */
template <int Warps> static __device__ __forceinline__ float row_sum(float x, float *shared)
{
    x = lks_warp_sum(x);
    if constexpr (Warps > 1) {
        __syncthreads();
        if (threadIdx.x % 32 == 0)
            shared[threadIdx.x / 32] = x;
        __syncthreads();
        x = shared[0];
        for (int warp = 1; warp < Warps; ++warp)
            x += shared[warp];
    }
    return x;
}

/* --- norm ------------------------------------------------------------------------ */

template <typename T> struct norm_arguments {
    const T *x, *residual, *gain, *bias;
    T *y, *sum;
    float *mean, *rstd;
    int64_t rows, width;
    float epsilon;
    bool layer;
};

/* s, as it is kept: rounded where it is a sum. */
template <typename T>
static __device__ __forceinline__ lks_vector<T> load_sum(const norm_arguments<T> &with, int64_t at)
{
    lks_vector<T> s = lks_vector<T>::load(with.x + at);
    if (!with.residual)
        return s;
    lks_vector<T> residual = lks_vector<T>::load(with.residual + at);
    float sum[lks_vector<T>::SIZE];
#pragma unroll
    for (int i = 0; i < lks_vector<T>::SIZE; ++i)
        sum[i] = s[i] + residual[i];
    s = lks_vector<T>::round(sum);
    s.store(with.sum + at);
    return s;
}

template <typename T>
static __device__ __forceinline__ void store_normal(const norm_arguments<T> &with, int64_t row,
                                                    int64_t column, const lks_vector<T> &s,
                                                    float mean, float rstd)
{
    lks_vector<T> gain = lks_vector<T>::load(with.gain + column);
    float y[lks_vector<T>::SIZE];
#pragma unroll
    for (int i = 0; i < lks_vector<T>::SIZE; ++i)
        y[i] = (s[i] - mean) * rstd * gain[i];
    if (with.bias) {
        lks_vector<T> bias = lks_vector<T>::load(with.bias + column);
#pragma unroll
        for (int i = 0; i < lks_vector<T>::SIZE; ++i)
            y[i] += bias[i];
    }
    lks_vector<T>::round(y).store(with.y + row * with.width + column);
}

template <typename T>
static __device__ __forceinline__ void store_statistics(const norm_arguments<T> &with, int64_t row,
                                                        float mean, float rstd)
{
    if (with.mean)
        with.mean[row] = mean;
    if (with.rstd)
        with.rstd[row] = rstd;
}

template <typename T, int Warps, int Vectors>
static __global__ void __launch_bounds__(Warps > 1 ? 32 * Warps : THREADS)
    norm_rows(norm_arguments<T> with)
{
    constexpr int SIZE = lks_vector<T>::SIZE, ROW = 32 * Warps;
    LKS_DYNAMIC_SHARED(float, shared);
    int thread = (int)threadIdx.x % ROW;
    int64_t row = ((int64_t)blockIdx.x * blockDim.x + threadIdx.x) / ROW;
    if (row >= with.rows)
        return;
    lks_vector<T> s[Vectors];
    float sum = 0, squares = 0, mean = 0;
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
        int64_t column = (int64_t)(v * ROW + thread) * SIZE;
        if (column < with.width) {
            s[v] = load_sum(with, row * with.width + column);
#pragma unroll
            for (int i = 0; i < SIZE; ++i)
                sum += s[v][i];
        }
    }
    if (with.layer)
        mean = row_sum<Warps>(sum, shared) / (float)with.width;
#pragma unroll
    for (int v = 0; v < Vectors; ++v)
        if ((int64_t)(v * ROW + thread) * SIZE < with.width)
#pragma unroll
            for (int i = 0; i < SIZE; ++i)
                squares += (s[v][i] - mean) * (s[v][i] - mean);
    squares = row_sum<Warps>(squares, shared);
    float rstd = 1.0f / sqrtf(squares / (float)with.width + with.epsilon);
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
        int64_t column = (int64_t)(v * ROW + thread) * SIZE;
        if (column < with.width)
            store_normal(with, row, column, s[v], mean, rstd);
    }
    if (thread == 0)
        store_statistics(with, row, mean, rstd);
}

/* Any width: a block to a row. */
template <typename T>
static __global__ void __launch_bounds__(32 * ROW_WARPS) norm_rows_any(norm_arguments<T> with)
{
    LKS_DYNAMIC_SHARED(float, shared);
    int64_t row = blockIdx.x, at = row * with.width;
    float sum = 0, squares = 0, mean = 0;
    for (int64_t i = threadIdx.x; i < with.width; i += blockDim.x) {
        float s = lks_load(with.x, at + i);
        if (with.residual) {
            lks_store(with.sum, at + i, s + lks_load(with.residual, at + i));
            s = lks_load(with.sum, at + i);
        }
        sum += s;
    }
    const T *rows = with.residual ? with.sum : with.x;
    if (with.layer)
        mean = row_sum<ROW_WARPS>(sum, shared) / (float)with.width;
    for (int64_t i = threadIdx.x; i < with.width; i += blockDim.x) {
        float centered = lks_load(rows, at + i) - mean;
        squares += centered * centered;
    }
    squares = row_sum<ROW_WARPS>(squares, shared);
    float rstd = 1.0f / sqrtf(squares / (float)with.width + with.epsilon);
    for (int64_t i = threadIdx.x; i < with.width; i += blockDim.x) {
        float y = (lks_load(rows, at + i) - mean) * rstd * lks_load(with.gain, i);
        lks_store(with.y, at + i, with.bias ? y + lks_load(with.bias, i) : y);
    }
    if (threadIdx.x == 0)
        store_statistics(with, row, mean, rstd);
}

template <typename T> void norm_launch(const norm_state *state, const lks_kernel_run *run)
{
    typedef void (*kernel_type)(norm_arguments<T>);
    static const kernel_type warps[] = {norm_rows<T, 1, 1>, norm_rows<T, 1, 2>, norm_rows<T, 1, 3>,
                                        norm_rows<T, 1, 4>};
    static const kernel_type blocks[] = {norm_rows<T, ROW_WARPS, 1>, norm_rows<T, ROW_WARPS, 2>,
                                         norm_rows<T, ROW_WARPS, 3>, norm_rows<T, ROW_WARPS, 4>};
    norm_arguments<T> with = {static_cast<const T *>(run->inputs[0]),
                              static_cast<const T *>(run->inputs[1]),
                              static_cast<const T *>(run->inputs[2]),
                              static_cast<const T *>(run->inputs[3]),
                              static_cast<T *>(run->outputs[0]),
                              static_cast<T *>(run->outputs[1]),
                              static_cast<float *>(run->outputs[2]),
                              static_cast<float *>(run->outputs[3]),
                              state->rows,
                              state->width,
                              state->with.epsilon,
                              state->with.kind == LKS_NORM_LAYER};
    kernel_type kernel = norm_rows_any<T>;
    unsigned grid = (unsigned)state->rows, threads = 32 * ROW_WARPS;
    if (state->plan.warps > 1) {
        kernel = blocks[state->plan.vectors - 1];
    } else if (state->plan.warps == 1) {
        kernel = warps[state->plan.vectors - 1];
        threads = THREADS;
        grid = (unsigned)((state->rows + THREADS / 32 - 1) / (THREADS / 32));
    }
    LKS_LAUNCH(kernel, dim3(grid), dim3(threads), ROW_WARPS * sizeof(float), state->cuda->stream,
               with);
}

lks_status norm_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                        size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    LKS_TRY(lks_cuda_expect_types(spec, "tTtT", "tTFF", &type));
    LKS_TRY(lks_cuda_expect_attributes(spec));
    const lks_kernel_tensor *in = spec->inputs, *to = spec->outputs;
    int64_t elements = lks_cuda_elements(in), rows = lks_cuda_rows(in),
            width = lks_cuda_columns(in);
    LKS_TRY(lks_cuda_expect_elements(spec, "residual", &in[1], elements));
    LKS_TRY(lks_cuda_expect_elements(spec, "gain", &in[2], width));
    LKS_TRY(lks_cuda_expect_elements(spec, "bias", &in[3], width));
    LKS_TRY(lks_cuda_expect_elements(spec, "y", &to[0], elements));
    LKS_TRY(lks_cuda_expect_elements(spec, "s", &to[1], elements));
    LKS_TRY(lks_cuda_expect_elements(spec, "mean", &to[2], rows));
    LKS_TRY(lks_cuda_expect_elements(spec, "rstd", &to[3], rows));
    if (lks_cuda_present(&in[1]) != lks_cuda_present(&to[1]))
        return lks_cuda_refuse(spec, "residual and s go together");
    return norm_make(out, device, spec, type);
}

lks_status norm_run(void *state_, const lks_kernel_run *run)
{
    const norm_state *state = static_cast<const norm_state *>(state_);
    if (state->type == LKS_BF16)
        norm_launch<lks_bf16>(state, run);
    else
        norm_launch<float>(state, run);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

/* --- norm_grad ------------------------------------------------------------------- */

template <typename T> struct norm_grad_arguments {
    const T *s, *gain;
    const float *mean, *rstd;
    const T *dy, *dsum;
    T *ds;
    float *partials; /* [blocks, 2, width]: of dgain, of dbias */
    int64_t rows, width;
    bool layer, accumulate;
};

/* What a row's gradients have in common. */
struct norm_row {
    float mean, rstd, center, slope;
};

static __device__ __forceinline__ float input_gradient(const norm_row &row, float s, float dy,
                                                       float gain)
{
    return row.rstd * (dy * gain - row.center - (s - row.mean) * row.rstd * row.slope);
}

template <typename T>
static __device__ __forceinline__ void
store_input_gradient(const norm_grad_arguments<T> &with, const norm_row &row, int64_t at,
                     const lks_vector<T> &s, const lks_vector<T> &dy, const lks_vector<T> &gain)
{
    float ds[lks_vector<T>::SIZE];
#pragma unroll
    for (int i = 0; i < lks_vector<T>::SIZE; ++i)
        ds[i] = input_gradient(row, s[i], dy[i], gain[i]);
    if (with.dsum) {
        lks_vector<T> dsum = lks_vector<T>::load(with.dsum + at);
#pragma unroll
        for (int i = 0; i < lks_vector<T>::SIZE; ++i)
            ds[i] += dsum[i];
    }
    if (with.accumulate) {
        lks_vector<T> before = lks_vector<T>::load(with.ds + at);
#pragma unroll
        for (int i = 0; i < lks_vector<T>::SIZE; ++i)
            ds[i] += before[i];
    }
    lks_vector<T>::round(ds).store(with.ds + at);
}

/* The rows of a group of threads: first, first + step, ...; its column sums stay in registers. */
template <typename T, int Warps, int Vectors> struct norm_columns {
    float gain[Vectors][lks_vector<T>::SIZE], bias[Vectors][lks_vector<T>::SIZE];
};

template <typename T, int Warps, int Vectors>
static __device__ __forceinline__ void grad_row(const norm_grad_arguments<T> &with, int64_t at_row,
                                                int thread, float *shared,
                                                norm_columns<T, Warps, Vectors> &columns)
{
    constexpr int SIZE = lks_vector<T>::SIZE, ROW = 32 * Warps;
    int64_t first = at_row * with.width;
    norm_row row = {with.layer ? with.mean[at_row] : 0, with.rstd[at_row], 0, 0};
    lks_vector<T> s[Vectors], dy[Vectors];
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
        int64_t column = (int64_t)(v * ROW + thread) * SIZE;
        if (column < with.width) {
            s[v] = lks_vector<T>::load(with.s + first + column);
            dy[v] = lks_vector<T>::load(with.dy + first + column);
        }
    }
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
        int64_t column = (int64_t)(v * ROW + thread) * SIZE;
        if (column < with.width) {
            lks_vector<T> gain = lks_vector<T>::load(with.gain + column);
#pragma unroll
            for (int i = 0; i < SIZE; ++i) {
                float normal = (s[v][i] - row.mean) * row.rstd, product = dy[v][i] * gain[i];
                row.center += product;
                row.slope += product * normal;
                columns.gain[v][i] += dy[v][i] * normal;
                columns.bias[v][i] += dy[v][i];
            }
        }
    }
    row.slope = row_sum<Warps>(row.slope, shared) / (float)with.width;
    row.center = with.layer ? row_sum<Warps>(row.center, shared) / (float)with.width : 0;
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
        int64_t column = (int64_t)(v * ROW + thread) * SIZE;
        if (column < with.width)
            store_input_gradient(with, row, first + column, s[v], dy[v],
                                 lks_vector<T>::load(with.gain + column));
    }
}

/* The sums of a block's warps are added in order. */
template <typename T, int Warps, int Vectors>
static __global__ void __launch_bounds__(Warps > 1 ? 32 * Warps : THREADS)
    norm_grad_rows(norm_grad_arguments<T> with)
{
    constexpr int SIZE = lks_vector<T>::SIZE, ROW = 32 * Warps;
    constexpr int GROUPS = Warps > 1 ? 1 : THREADS / 32, WIDTH = ROW * SIZE * Vectors;
    LKS_DYNAMIC_SHARED(float, shared);
    float *sums = shared + ROW_WARPS; /* [2, WIDTH] where there are GROUPS */
    int thread = (int)threadIdx.x % ROW, group = (int)threadIdx.x / ROW;
    norm_columns<T, Warps, Vectors> columns = {};
    for (int64_t row = (int64_t)blockIdx.x * GROUPS + group; row < with.rows;
         row += (int64_t)gridDim.x * GROUPS)
        grad_row<T, Warps, Vectors>(with, row, thread, shared, columns);
    float *partial = with.partials + (int64_t)blockIdx.x * 2 * with.width;
    for (int turn = 0; turn < GROUPS; ++turn) {
        if (group == turn)
#pragma unroll
            for (int v = 0; v < Vectors; ++v)
#pragma unroll
                for (int i = 0; i < SIZE; ++i) {
                    int column = (v * ROW + thread) * SIZE + i;
                    int place = (v * SIZE + i) * ROW + thread; /* no two lanes in one bank */
                    float gain = columns.gain[v][i], bias = columns.bias[v][i];
                    if (turn > 0) {
                        gain += sums[place];
                        bias += sums[WIDTH + place];
                    }
                    if (turn < GROUPS - 1) {
                        sums[place] = gain;
                        sums[WIDTH + place] = bias;
                    } else if (column < with.width) {
                        partial[column] = gain;
                        partial[with.width + column] = bias;
                    }
                }
        __syncthreads();
    }
}

template <typename T>
static __global__ void __launch_bounds__(32 * ROW_WARPS)
    norm_grad_rows_any(norm_grad_arguments<T> with)
{
    LKS_DYNAMIC_SHARED(float, shared);
    int64_t at = (int64_t)blockIdx.x * with.width;
    norm_row row = {with.layer ? with.mean[blockIdx.x] : 0, with.rstd[blockIdx.x], 0, 0};
    for (int64_t i = threadIdx.x; i < with.width; i += blockDim.x) {
        float product = lks_load(with.dy, at + i) * lks_load(with.gain, i);
        row.center += product;
        row.slope += product * ((lks_load(with.s, at + i) - row.mean) * row.rstd);
    }
    row.slope = row_sum<ROW_WARPS>(row.slope, shared) / (float)with.width;
    row.center = with.layer ? row_sum<ROW_WARPS>(row.center, shared) / (float)with.width : 0;
    for (int64_t i = threadIdx.x; i < with.width; i += blockDim.x) {
        float ds = input_gradient(row, lks_load(with.s, at + i), lks_load(with.dy, at + i),
                                  lks_load(with.gain, i));
        if (with.dsum)
            ds += lks_load(with.dsum, at + i);
        if (with.accumulate)
            ds += lks_load(with.ds, at + i);
        lks_store(with.ds, at + i, ds);
    }
}

/* Column sums of a run of rows, a thread to a column. */
template <typename T>
static __global__ void __launch_bounds__(THREADS) norm_grad_columns_any(norm_grad_arguments<T> with)
{
    int64_t column = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    int64_t end = with.rows * (blockIdx.y + 1) / gridDim.y;
    if (column >= with.width)
        return;
    float gain = 0, bias = 0;
    for (int64_t row = with.rows * blockIdx.y / gridDim.y; row < end; ++row) {
        float dy = lks_load(with.dy, row * with.width + column);
        float mean = with.layer ? with.mean[row] : 0;
        gain += dy * ((lks_load(with.s, row * with.width + column) - mean) * with.rstd[row]);
        bias += dy;
    }
    float *partial = with.partials + (int64_t)blockIdx.y * 2 * with.width;
    partial[column] = gain;
    partial[with.width + column] = bias;
}

/* Partial sums of dgain and dbias. */
int64_t partials_of(const norm_state *state)
{
    if (state->plan.warps == 0)
        return lks_columns_runs(state->rows, (state->width + THREADS - 1) / THREADS);
    int64_t groups = state->plan.warps > 1 ? 1 : THREADS / 32;
    int64_t blocks = (state->rows + groups - 1) / groups;
    return blocks < BLOCKS_MAX ? blocks : BLOCKS_MAX;
}

template <typename T>
void norm_grad_launch(const norm_state *state, const norm_grad_arguments<T> &with)
{
    typedef void (*kernel_type)(norm_grad_arguments<T>);
    static const kernel_type warps[] = {norm_grad_rows<T, 1, 1>, norm_grad_rows<T, 1, 2>,
                                        norm_grad_rows<T, 1, 3>, norm_grad_rows<T, 1, 4>};
    static const kernel_type blocks[] = {
        norm_grad_rows<T, ROW_WARPS, 1>, norm_grad_rows<T, ROW_WARPS, 2>,
        norm_grad_rows<T, ROW_WARPS, 3>, norm_grad_rows<T, ROW_WARPS, 4>};
    unsigned partials = (unsigned)partials_of(state);
    cudaStream_t stream = state->cuda->stream;
    if (state->plan.warps == 0) {
        unsigned tiles = (unsigned)((state->width + THREADS - 1) / THREADS);
        auto columns = norm_grad_columns_any<T>;
        auto rows = norm_grad_rows_any<T>;
        LKS_LAUNCH(columns, dim3(tiles, partials), dim3(THREADS), 0, stream, with);
        LKS_LAUNCH(rows, dim3((unsigned)state->rows), dim3(32 * ROW_WARPS),
                   ROW_WARPS * sizeof(float), stream, with);
        return;
    }
    bool wide = state->plan.warps > 1;
    kernel_type kernel = (wide ? blocks : warps)[state->plan.vectors - 1];
    size_t sums = wide ? 0 : (size_t)(2 * 32 * lks_vector<T>::SIZE * state->plan.vectors);
    LKS_LAUNCH(kernel, dim3(partials), dim3(wide ? 32 * ROW_WARPS : THREADS),
               (ROW_WARPS + sums) * sizeof(float), stream, with);
}

lks_status norm_grad_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                             size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_cuda_expect_types(spec, "ttFftT", "tfF", &type));
    LKS_TRY(lks_cuda_expect_attributes(spec));
    const lks_kernel_tensor *in = spec->inputs, *to = spec->outputs;
    int64_t elements = lks_cuda_elements(in), rows = lks_cuda_rows(in),
            width = lks_cuda_columns(in);
    LKS_TRY(lks_cuda_expect_elements(spec, "gain", &in[1], width));
    LKS_TRY(lks_cuda_expect_elements(spec, "mean", &in[2], rows));
    LKS_TRY(lks_cuda_expect_elements(spec, "rstd", &in[3], rows));
    LKS_TRY(lks_cuda_expect_elements(spec, "dy", &in[4], elements));
    LKS_TRY(lks_cuda_expect_elements(spec, "dsum", &in[5], elements));
    LKS_TRY(lks_cuda_expect_elements(spec, "ds", &to[0], elements));
    LKS_TRY(lks_cuda_expect_elements(spec, "dgain", &to[1], width));
    LKS_TRY(lks_cuda_expect_elements(spec, "dbias", &to[2], width));
    bool layer = static_cast<const lks_norm_attributes *>(spec->attributes)->kind == LKS_NORM_LAYER;
    if (layer != lks_cuda_present(&in[2]))
        return lks_cuda_refuse(spec, "a layer norm has a mean, an rms norm has none");
    LKS_TRY(norm_make(out, device, spec, type));
    *workspace = (size_t)(partials_of(static_cast<norm_state *>(*out)) * 2 * width) * sizeof(float);
    return LKS_OK;
}

template <typename T> void norm_grad_all(const norm_state *state, const lks_kernel_run *run)
{
    float *partials = static_cast<float *>(run->workspace);
    norm_grad_arguments<T> with = {static_cast<const T *>(run->inputs[0]),
                                   static_cast<const T *>(run->inputs[1]),
                                   static_cast<const float *>(run->inputs[2]),
                                   static_cast<const float *>(run->inputs[3]),
                                   static_cast<const T *>(run->inputs[4]),
                                   static_cast<const T *>(run->inputs[5]),
                                   static_cast<T *>(run->outputs[0]),
                                   partials,
                                   state->rows,
                                   state->width,
                                   state->with.kind == LKS_NORM_LAYER,
                                   run->accumulate[0]};
    norm_grad_launch(state, with);
    for (int i = 1; i <= 2; ++i)
        if (run->outputs[i])
            lks_columns_finish_launch(state->cuda, partials + (i - 1) * state->width,
                                      partials_of(state), 2 * state->width, state->width,
                                      static_cast<float *>(run->outputs[i]), run->accumulate[i]);
}

lks_status norm_grad_run(void *state_, const lks_kernel_run *run)
{
    const norm_state *state = static_cast<const norm_state *>(state_);
    if (state->type == LKS_BF16)
        norm_grad_all<lks_bf16>(state, run);
    else
        norm_grad_all<float>(state, run);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

} // namespace

extern "C" const lks_kernel_driver lks_cuda_kernel_norm = {"norm", norm_prepare, norm_run,
                                                           lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_norm_grad = {"norm_grad", norm_grad_prepare,
                                                                norm_grad_run, lks_memory_free};
