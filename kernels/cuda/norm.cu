/* norm and norm_grad. A row that fits is held by a warp (up to four vectors a lane) or, beyond, by a block, in registers or
 * in shared memory, where norm_grad's next row arrives meanwhile; any other is read from memory again for each sum. */
#include "kernels/cuda/columns.cuh"

namespace
{

enum { THREADS = 128, GRAD_THREADS = 256, ROW_WARPS = 8, VECTORS_MAX = 4 };
enum {
    BLOCKS_NARROW = 264,
    BLOCKS_WIDE = 528
}; /* of norm_grad: those that run at once on large devices */
enum { FINISH_ROWS = 32 };

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
              lks_spec_rows(x),
              lks_spec_columns(x),
              *static_cast<const lks_norm_attributes *>(spec->attributes),
              type,
              plan_of(type, lks_spec_columns(x))};
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

/* Of what no thread of the launch writes. */
template <typename T> static __device__ __forceinline__ lks_vector<T> load_parameter(const T *from)
{
    uint4 raw = __ldg(reinterpret_cast<const uint4 *>(from));
    return {{raw.x, raw.y, raw.z, raw.w}};
}

/* Whether a row has vector `v` of a thread's Vectors: all but the last are there. */
template <int Vectors>
static __device__ __forceinline__ bool has_vector(int v, int64_t column, int64_t width)
{
    return v < Vectors - 1 || column < width;
}

/* A thread's share of s, as it is kept: rounded where it is a sum. All loads come before the first store. */
template <typename T, int Row, int Vectors>
static __device__ __forceinline__ void load_sums(const norm_arguments<T> &with, int64_t row,
                                                 int thread, lks_vector<T> (&s)[Vectors])
{
    constexpr int SIZE = lks_vector<T>::SIZE;
    lks_vector<T> residual[Vectors];
    const int64_t first = row * with.width;
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
        int64_t column = (v * Row + thread) * SIZE;
        if (has_vector<Vectors>(v, column, with.width)) {
            s[v] = lks_vector<T>::load(with.x + first + column);
            if (with.residual)
                residual[v] = lks_vector<T>::load(with.residual + first + column);
        }
    }
    if (!with.residual)
        return;
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
        int64_t column = (v * Row + thread) * SIZE;
        float sum[SIZE];
#pragma unroll
        for (int i = 0; i < SIZE; ++i)
            sum[i] = s[v][i] + residual[v][i];
        s[v] = lks_vector<T>::round(sum);
        if (has_vector<Vectors>(v, column, with.width))
            s[v].store(with.sum + first + column);
    }
}

template <typename T>
static __device__ __forceinline__ void store_normal(const norm_arguments<T> &with, int64_t row,
                                                    int64_t column, const lks_vector<T> &s,
                                                    float mean, float rstd)
{
    lks_vector<T> gain = load_parameter(with.gain + column);
    float y[lks_vector<T>::SIZE];
#pragma unroll
    for (int i = 0; i < lks_vector<T>::SIZE; ++i)
        y[i] = (s[i] - mean) * rstd * gain[i];
    if (with.bias) {
        lks_vector<T> bias = load_parameter(with.bias + column);
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
    lks_vector<T> s[Vectors] = {};
    float sum = 0, squares = 0, mean = 0;
    load_sums<T, ROW>(with, row, thread, s);
#pragma unroll
    for (int v = 0; v < Vectors; ++v)
        if (has_vector<Vectors>(v, (v * ROW + thread) * SIZE, with.width))
#pragma unroll
            for (int i = 0; i < SIZE; ++i)
                sum += s[v][i];
    if (with.layer)
        mean = row_sum<Warps>(sum, shared) / (float)with.width;
#pragma unroll
    for (int v = 0; v < Vectors; ++v)
        if (has_vector<Vectors>(v, (v * ROW + thread) * SIZE, with.width))
#pragma unroll
            for (int i = 0; i < SIZE; ++i)
                squares += (s[v][i] - mean) * (s[v][i] - mean);
    squares = row_sum<Warps>(squares, shared);
    float rstd = 1.0f / sqrtf(squares / (float)with.width + with.epsilon);
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
        int64_t column = (v * ROW + thread) * SIZE;
        if (has_vector<Vectors>(v, column, with.width))
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
    LKS_TRY(lks_shapes_expect_norm(spec, &type));
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

/* A group of threads has rows first, first + step, ...; while it works on one the next is copied to the other half of its
 * part of shared memory. A thread copies what it reads itself, so that no barrier is needed. */
template <typename T, int Warps, int Vectors> struct grad_group {
    static constexpr int SIZE = lks_vector<T>::SIZE, ROW = 32 * Warps, WIDTH = ROW * SIZE * Vectors;
    static constexpr int GROUPS = Warps > 1 ? 1 : GRAD_THREADS / 32;
    static constexpr int HALF = 3 * WIDTH; /* s, dy, dsum */
    static constexpr size_t SHARED_BYTES =
        ROW_WARPS * 2 * sizeof(float) + GROUPS * 2 * HALF * sizeof(T);

    int thread;
    T *halves;                                      /* [2, 3, WIDTH] */
    float *parts;                                   /* where there are several warps: [2, Warps] */
    lks_vector<T> parameter[Vectors];               /* gain */
    float gain[Vectors][SIZE], bias[Vectors][SIZE]; /* the column sums */
};

template <typename T, int Warps, int Vectors>
static __device__ __forceinline__ void copy_row(const norm_grad_arguments<T> &with,
                                                const grad_group<T, Warps, Vectors> &group,
                                                int half, int64_t row)
{
    typedef grad_group<T, Warps, Vectors> G;
    if (row < with.rows)
#pragma unroll
        for (int v = 0; v < Vectors; ++v) {
            int column = (v * G::ROW + group.thread) * G::SIZE;
            int64_t from = row * with.width + column;
            T *to = group.halves + half * G::HALF + column;
            if (!has_vector<Vectors>(v, column, with.width))
                continue;
            lks_copy16(to, with.s + from, true);
            lks_copy16(to + G::WIDTH, with.dy + from, true);
            if (with.dsum)
                lks_copy16(to + 2 * G::WIDTH, with.dsum + from, true);
        }
    lks_copy_commit();
}

template <typename T>
static __device__ __forceinline__ norm_row row_statistics(const norm_grad_arguments<T> &with,
                                                          int64_t row)
{
    if (row >= with.rows)
        return {0, 0, 0, 0};
    return {with.layer ? with.mean[row] : 0, with.rstd[row], 0, 0};
}

/* Two sums over the threads of a row, in all of them. */
template <int Warps>
static __device__ __forceinline__ void row_sums(float &a, float &b, float *shared)
{
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        a += __shfl_xor_sync(0xffffffffu, a, offset);
        b += __shfl_xor_sync(0xffffffffu, b, offset);
    }
    if constexpr (Warps > 1) {
        __syncthreads();
        if (threadIdx.x % 32 == 0) {
            shared[threadIdx.x / 32] = a;
            shared[Warps + threadIdx.x / 32] = b;
        }
        __syncthreads();
        a = shared[0];
        b = shared[Warps];
        for (int warp = 1; warp < Warps; ++warp) {
            a += shared[warp];
            b += shared[Warps + warp];
        }
    }
}

/* Adds to the column sums, and to the row's center and slope. */
template <typename T, int Warps, int Vectors>
static __device__ __forceinline__ void add_vector(grad_group<T, Warps, Vectors> &group, int v,
                                                  const lks_vector<T> &s, const lks_vector<T> &dy,
                                                  norm_row &row)
{
#pragma unroll
    for (int i = 0; i < lks_vector<T>::SIZE; ++i) {
        float normal = (s[i] - row.mean) * row.rstd, product = dy[i] * group.parameter[v][i];
        row.center += product;
        row.slope += product * normal;
        group.gain[v][i] += dy[i] * normal;
        group.bias[v][i] += dy[i];
    }
}

template <typename T>
static __device__ __forceinline__ void
store_input_gradient(const norm_grad_arguments<T> &with, const norm_row &row, int64_t at,
                     const T *staged, int width, const lks_vector<T> &gain)
{
    lks_vector<T> s = lks_vector<T>::load(staged), dy = lks_vector<T>::load(staged + width);
    float ds[lks_vector<T>::SIZE];
#pragma unroll
    for (int i = 0; i < lks_vector<T>::SIZE; ++i)
        ds[i] = input_gradient(row, s[i], dy[i], gain[i]);
    if (with.dsum) {
        lks_vector<T> dsum = lks_vector<T>::load(staged + 2 * width);
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

template <typename T, int Warps, int Vectors>
static __device__ __forceinline__ void grad_row(const norm_grad_arguments<T> &with, int64_t at_row,
                                                norm_row row, int half, float inverse_width,
                                                grad_group<T, Warps, Vectors> &group)
{
    typedef grad_group<T, Warps, Vectors> G;
    const T *staged = group.halves + half * G::HALF + group.thread * G::SIZE;
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
        const T *from = staged + v * G::ROW * G::SIZE;
        if (has_vector<Vectors>(v, (v * G::ROW + group.thread) * G::SIZE, with.width))
            add_vector(group, v, lks_vector<T>::load(from), lks_vector<T>::load(from + G::WIDTH),
                       row);
    }
    row_sums<Warps>(row.slope, row.center, group.parts);
    row.slope *= inverse_width;
    row.center = with.layer ? row.center * inverse_width : 0;
    __syncwarp(); /* so that the row is read again: the registers are for the sums */
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
        int64_t column = (v * G::ROW + group.thread) * G::SIZE;
        if (has_vector<Vectors>(v, column, with.width))
            store_input_gradient(with, row, at_row * with.width + column,
                                 staged + v * G::ROW * G::SIZE, G::WIDTH, group.parameter[v]);
    }
}

/* A block of one group writes its column sums itself. */
template <typename T, int Warps, int Vectors>
static __device__ __forceinline__ void store_columns(const grad_group<T, Warps, Vectors> &group,
                                                     int64_t width, float *gain, float *bias)
{
    typedef grad_group<T, Warps, Vectors> G;
#pragma unroll
    for (int v = 0; v < Vectors; ++v) {
        int column = (v * G::ROW + group.thread) * G::SIZE;
        if (!has_vector<Vectors>(v, column, width))
            continue;
#pragma unroll
        for (int i = 0; i < G::SIZE; i += 4) {
            lks_vector<float>::round(&group.gain[v][i]).store(gain + column + i);
            lks_vector<float>::round(&group.bias[v][i]).store(bias + column + i);
        }
    }
}

/* The sums of a block's groups are added in order: each group's in its own part of shared memory. */
template <typename T, int Warps, int Vectors>
static __global__ void __launch_bounds__(GRAD_THREADS, Warps > 1 || Vectors > 3 ? 1 : 2)
    norm_grad_rows(norm_grad_arguments<T> with)
{
    typedef grad_group<T, Warps, Vectors> G;
    LKS_DYNAMIC_SHARED(float, shared); /* parts, then the groups' halves */
    T *halves = reinterpret_cast<T *>(shared + 2 * ROW_WARPS);
    const int number = (int)threadIdx.x / G::ROW;
    const int64_t step = (int64_t)gridDim.x * G::GROUPS;
    const float inverse_width = 1.0f / (float)with.width;
    int64_t row = (int64_t)blockIdx.x * G::GROUPS + number;
    G group = {(int)threadIdx.x % G::ROW, halves + number * 2 * G::HALF, shared, {}, {}, {}};
    copy_row(with, group, 0, row);
    norm_row next = row_statistics(with, row);
#pragma unroll
    for (int v = 0; v < Vectors; ++v)
        if (has_vector<Vectors>(v, (v * G::ROW + group.thread) * G::SIZE, with.width))
            group.parameter[v] = load_parameter(with.gain + (v * G::ROW + group.thread) * G::SIZE);
    for (int half = 0; row < with.rows; row += step, half ^= 1) {
        norm_row now = next;
        copy_row(with, group, half ^ 1, row + step);
        next = row_statistics(with, row + step);
        lks_copy_wait<1>();
        grad_row(with, row, now, half, inverse_width, group);
    }
    float *partial = with.partials + (int64_t)blockIdx.x * 2 * with.width;
    if constexpr (G::GROUPS == 1) {
        store_columns(group, with.width, partial, partial + with.width);
    } else {
        const int apart = 2 * G::HALF * (int)(sizeof(T)) / (int)sizeof(float);
        float *sums = reinterpret_cast<float *>(halves); /* of each group: [2, width] */
        float *own = sums + number * apart;
        __syncwarp(); /* the halves are read */
        store_columns(group, with.width, own, own + with.width);
        __syncthreads();
        for (int column = (int)threadIdx.x; column < 2 * (int)with.width; column += GRAD_THREADS) {
            float sum = sums[column];
#pragma unroll
            for (int g = 1; g < G::GROUPS; ++g)
                sum += sums[g * apart + column];
            partial[column] = sum;
        }
    }
}

/* dgain, then dbias: sums over the partial sums of a column, those of FINISH_ROWS threads by butterfly. */
static __global__ void __launch_bounds__(32 * FINISH_ROWS)
    norm_grad_finish(const float *partials, int64_t count, int64_t width, float *dgain,
                     float *dbias, bool add_gain, bool add_bias)
{
    __shared__ float sums[32][FINISH_ROWS + 1];
    int64_t column = (int64_t)blockIdx.x * 32 + threadIdx.x;
    float sum = 0;
    if (column < 2 * width)
#pragma unroll 4
        for (int64_t p = threadIdx.y; p < count; p += FINISH_ROWS)
            sum += partials[p * 2 * width + column];
    sums[threadIdx.x][threadIdx.y] = sum;
    __syncthreads();
    sum = lks_warp_sum(sums[threadIdx.y][threadIdx.x]);
    column = (int64_t)blockIdx.x * 32 + threadIdx.y;
    if (threadIdx.x != 0 || column >= 2 * width)
        return;
    float *out = column < width ? dgain + column : dbias ? dbias + column - width : nullptr;
    if (out)
        *out = (column < width ? add_gain : add_bias) ? *out + sum : sum;
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
    int64_t groups = state->plan.warps > 1 ? 1 : GRAD_THREADS / 32;
    int64_t most = state->plan.warps == 1 && state->plan.vectors > 2 ? BLOCKS_NARROW : BLOCKS_WIDE;
    int64_t blocks = (state->rows + groups - 1) / groups;
    return blocks < most ? blocks : most;
}

/* What a plan runs, and the shared memory of a block. */
template <typename T> struct grad_kernel {
    void (*run)(norm_grad_arguments<T>);
    size_t shared_bytes;
};
template <typename T, int Warps> grad_kernel<T> grad_kernel_of(int vectors)
{
    switch (vectors) {
    case 1:
        return {norm_grad_rows<T, Warps, 1>, grad_group<T, Warps, 1>::SHARED_BYTES};
    case 2:
        return {norm_grad_rows<T, Warps, 2>, grad_group<T, Warps, 2>::SHARED_BYTES};
    case 3:
        return {norm_grad_rows<T, Warps, 3>, grad_group<T, Warps, 3>::SHARED_BYTES};
    default:
        return {norm_grad_rows<T, Warps, 4>, grad_group<T, Warps, 4>::SHARED_BYTES};
    }
}
template <typename T> grad_kernel<T> grad_kernel_of(const norm_plan &plan)
{
    return plan.warps > 1 ? grad_kernel_of<T, ROW_WARPS>(plan.vectors)
                          : grad_kernel_of<T, 1>(plan.vectors);
}
template <typename T> lks_status grad_allow_shared(const norm_plan &plan)
{
    if (plan.warps == 0)
        return LKS_OK;
    grad_kernel<T> kernel = grad_kernel_of<T>(plan);
    return lks_cuda_allow_shared(kernel.run, kernel.shared_bytes);
}

template <typename T>
void norm_grad_launch(const norm_state *state, const norm_grad_arguments<T> &with)
{
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
    grad_kernel<T> kernel = grad_kernel_of<T>(state->plan);
    LKS_LAUNCH(kernel.run, dim3(partials), dim3(GRAD_THREADS), kernel.shared_bytes, stream, with);
}

lks_status norm_grad_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                             size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_shapes_expect_norm_grad(spec, &type));
    norm_plan plan = plan_of(type, lks_spec_columns(&spec->inputs[0]));
    LKS_TRY(type == LKS_BF16 ? grad_allow_shared<lks_bf16>(plan) : grad_allow_shared<float>(plan));
    LKS_TRY(norm_make(out, device, spec, type));
    const norm_state *state = static_cast<const norm_state *>(*out);
    *workspace = (size_t)(partials_of(state) * 2 * state->width) * sizeof(float);
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
    LKS_LAUNCH(norm_grad_finish, dim3((unsigned)((2 * state->width + 31) / 32)),
               dim3(32, FINISH_ROWS), 0, state->cuda->stream, with.partials, partials_of(state),
               state->width, static_cast<float *>(run->outputs[1]),
               static_cast<float *>(run->outputs[2]), run->accumulate[1], run->accumulate[2]);
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
