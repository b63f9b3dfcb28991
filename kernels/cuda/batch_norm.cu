/* "batch_norm" and its gradient. Images are rows x channels. Sums over rows are in f64: runs of rows, whose number follows from
 * the shape, into the workspace, then the runs of a channel in order. */
#include "kernels/cuda/cuda.cuh"

enum {
    NORM_CHANNELS = 32,
    NORM_LANES = 8,
    NORM_THREADS = NORM_CHANNELS * NORM_LANES,
    NORM_BLOCKS = 1024
};

typedef struct batch_norm_state {
    lks_cuda_device *cuda;
    lks_batch_norm_attributes attributes;
    lks_dtype type;
    int64_t rows, runs;
    int channels;
} batch_norm_state;

static lks_status batch_norm_create(void **state, lks_device *device, const lks_kernel_spec *spec,
                                    lks_dtype type)
{
    const lks_batch_norm_attributes *attributes =
        (const lks_batch_norm_attributes *)spec->attributes;
    batch_norm_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->attributes = *attributes;
    s->type = type;
    s->rows = lks_spec_rows(&spec->inputs[0]);
    s->channels = (int)lks_spec_columns(&spec->inputs[0]);
    const int64_t tiles = (s->channels + NORM_CHANNELS - 1) / NORM_CHANNELS;
    const int64_t most = tiles < NORM_BLOCKS ? NORM_BLOCKS / tiles : 1,
                  wanted = (s->rows + 127) / 128;
    s->runs = wanted < most ? wanted : most;
    *state = s;
    return LKS_OK;
}

/* Per channel: two f64 totals, three floats; per run and channel: two f64 sums. */
static size_t batch_norm_workspace(const batch_norm_state *s)
{
    const size_t channels = (size_t)s->channels, runs = (size_t)s->runs;
    return channels * ((2 + 2 * runs) * sizeof(double) + 3 * sizeof(float));
}

typedef struct batch_norm_places {
    double *sums;   /* [2][runs][channels] */
    double *totals; /* [2][channels] */
    float *scale, *offset, *slope;
} batch_norm_places;

static batch_norm_places batch_norm_divide(const batch_norm_state *s, void *workspace)
{
    batch_norm_places p = {};
    p.sums = (double *)workspace;
    p.totals = p.sums + 2 * s->runs * s->channels;
    p.scale = (float *)(p.totals + 2 * (int64_t)s->channels);
    p.offset = p.scale + s->channels;
    p.slope = p.offset + s->channels;
    return p;
}

static lks_status batch_norm_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                     size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_shapes_expect_batch_norm(spec, &type));
    LKS_TRY(batch_norm_create(state, device, spec, type));
    *workspace = batch_norm_workspace((const batch_norm_state *)*state);
    return LKS_OK;
}

static lks_status batch_norm_grad_prepare(void **state, lks_device *device,
                                          const lks_kernel_spec *spec, size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_shapes_expect_batch_norm_grad(spec, &type));
    LKS_TRY(batch_norm_create(state, device, spec, type));
    *workspace = batch_norm_workspace((const batch_norm_state *)*state);
    return LKS_OK;
}

/* --- Sums over rows ------------------------------------------------------------------- */

typedef struct batch_norm_pair {
    double first, second;
} batch_norm_pair;

/* What is summed: value(at, channel) for element `at`. */
template <typename T> struct batch_norm_plain {
    const T *x;
    __device__ __forceinline__ batch_norm_pair value(int64_t at, int) const
    {
        return {(double)lks_load(x, at), 0.0};
    }
};

template <typename T> struct batch_norm_squares {
    const T *x;
    const double *mean;
    __device__ __forceinline__ batch_norm_pair value(int64_t at, int channel) const
    {
        const double distance = (double)lks_load(x, at) - mean[channel];
        return {distance * distance, 0.0};
    }
};

/* dz = relu ? (y > 0) dy : dy. */
template <typename T>
static __device__ __forceinline__ float batch_norm_dz(const T *y, const T *dy, bool relu,
                                                      int64_t at)
{
    return relu && !(lks_load(y, at) > 0.0f) ? 0.0f : lks_load(dy, at);
}

template <typename T> struct batch_norm_moments {
    const T *x, *y, *dy;
    const float *mean;
    bool relu;
    __device__ __forceinline__ batch_norm_pair value(int64_t at, int channel) const
    {
        const double dz = (double)batch_norm_dz(y, dy, relu, at);
        return {dz, dz * (double)(lks_load(x, at) - mean[channel])};
    }
};

/* sums[run][channel], and the second ones runs x channels after: blocks of NORM_CHANNELS x NORM_LANES
 * threads, gridDim.y runs. */
template <typename Terms>
static __global__ void __launch_bounds__(NORM_THREADS)
    batch_norm_sum_kernel(Terms terms, int64_t rows, int channels, double *sums)
{
    LKS_DYNAMIC_SHARED(double, parts); /* [2][NORM_LANES][NORM_CHANNELS] */
    const int own = (int)(threadIdx.y * NORM_CHANNELS + threadIdx.x);
    const int channel = (int)(blockIdx.x * NORM_CHANNELS + threadIdx.x);
    const int64_t begin = rows * blockIdx.y / gridDim.y, end = rows * (blockIdx.y + 1) / gridDim.y;
    batch_norm_pair sum = {};
    if (channel < channels)
        for (int64_t row = begin + threadIdx.y; row < end; row += NORM_LANES) {
            const batch_norm_pair more = terms.value(row * channels + channel, channel);
            sum.first += more.first;
            sum.second += more.second;
        }
    parts[own] = sum.first;
    parts[NORM_THREADS + own] = sum.second;
    __syncthreads();
    if (threadIdx.y || channel >= channels)
        return;
    for (int lane = 1; lane < NORM_LANES; ++lane) {
        sum.first += parts[lane * NORM_CHANNELS + own];
        sum.second += parts[NORM_THREADS + lane * NORM_CHANNELS + own];
    }
    sums[(int64_t)blockIdx.y * channels + channel] = sum.first;
    sums[((int64_t)gridDim.y + blockIdx.y) * channels + channel] = sum.second;
}

template <typename Terms>
static lks_status batch_norm_sum(const batch_norm_state *s, const Terms &terms, double *sums)
{
    LKS_LAUNCH(
        batch_norm_sum_kernel<Terms>,
        dim3((unsigned)((s->channels + NORM_CHANNELS - 1) / NORM_CHANNELS), (unsigned)s->runs),
        dim3(NORM_CHANNELS, NORM_LANES), 2 * NORM_THREADS * sizeof(double), s->cuda->stream, terms,
        s->rows, s->channels, sums);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

/* Channel c's runs, of the first or second sums. */
static __device__ __forceinline__ double batch_norm_total(const double *sums, int64_t runs,
                                                          int channels, int c)
{
    double total = 0;
    for (int64_t run = 0; run < runs; ++run)
        total += sums[run * channels + c];
    return total;
}

#define BATCH_NORM_CHANNEL()                                                                       \
    const int c = (int)(blockIdx.x * blockDim.x + threadIdx.x);                                    \
    if (c >= channels)                                                                             \
        return;

static unsigned batch_norm_channel_blocks(const batch_norm_state *s)
{
    return (unsigned)((s->channels + NORM_THREADS - 1) / NORM_THREADS);
}

/* --- Forward --------------------------------------------------------------------------- */

static __global__ void batch_norm_mean_kernel(int64_t rows, int64_t runs, int channels,
                                              const double *sums, double *mean)
{
    BATCH_NORM_CHANNEL();
    mean[c] = batch_norm_total(sums, runs, channels, c) / (double)rows;
}

typedef struct batch_norm_outputs {
    float *mean, *rstd, *mean_stat, *variance_stat;
    bool add_mean, add_variance;
} batch_norm_outputs;

static __device__ __forceinline__ void batch_norm_store(float value, bool add, float *out)
{
    *out = add ? *out + value : value;
}

/* The variance of one row is 0. */
template <typename T>
static __global__ void
batch_norm_train_kernel(int64_t rows, int64_t runs, int channels, float epsilon, const double *sums,
                        const double *mean, const T *gain, batch_norm_outputs out, float *scale)
{
    BATCH_NORM_CHANNEL();
    const double squares = batch_norm_total(sums, runs, channels, c);
    const double others = rows > 1 ? (double)rows - 1.0 : 1.0;
    const float rstd = (float)(1.0 / sqrt(squares / (double)rows + (double)epsilon));
    out.mean[c] = (float)mean[c];
    out.rstd[c] = rstd;
    batch_norm_store((float)mean[c], out.add_mean, &out.mean_stat[c]);
    batch_norm_store((float)(squares / others), out.add_variance, &out.variance_stat[c]);
    scale[c] = rstd * lks_load(gain, c);
}

template <typename T>
static __global__ void batch_norm_running_kernel(int channels, float epsilon, const float *variance,
                                                 const T *gain, float *scale)
{
    BATCH_NORM_CHANNEL();
    scale[c] = lks_load(gain, c) / sqrtf(variance[c] + epsilon);
}

/* y = f((x - mean) scale + bias + [residual]). */
template <typename T>
static __global__ void batch_norm_apply_kernel(int64_t n, int channels, const T *x,
                                               const float *mean, const float *scale, const T *bias,
                                               const T *residual, bool relu, T *y)
{
    lks_each(n, [=](int64_t at, auto count) {
        constexpr int N = decltype(count)::value;
        lks_values<N> v = lks_load_values<N>(x, at), more = {};
        if (residual)
            more = lks_load_values<N>(residual, at);
        int c = (int)(at % channels);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            float z = fmaf(v.x[i] - mean[c], scale[c], lks_load(bias, c)) + more.x[i];
            v.x[i] = relu && z < 0.0f ? 0.0f : z;
            c = c + 1 == channels ? 0 : c + 1;
        }
        lks_store_values<N>(y, at, v);
    });
}

template <typename T>
static lks_status batch_norm_train(const batch_norm_state *s, const lks_kernel_run *run,
                                   const batch_norm_places &p)
{
    const batch_norm_plain<T> plain = {(const T *)run->inputs[0]};
    const batch_norm_squares<T> squares = {plain.x, p.totals};
    const batch_norm_outputs out = {(float *)run->outputs[1], (float *)run->outputs[2],
                                    (float *)run->outputs[3], (float *)run->outputs[4],
                                    run->accumulate[3],       run->accumulate[4]};
    LKS_TRY(batch_norm_sum(s, plain, p.sums));
    LKS_LAUNCH(batch_norm_mean_kernel, batch_norm_channel_blocks(s), NORM_THREADS, 0,
               s->cuda->stream, s->rows, s->runs, s->channels, p.sums, p.totals);
    LKS_CUDA_LAUNCHED();
    LKS_TRY(batch_norm_sum(s, squares, p.sums));
    LKS_LAUNCH(batch_norm_train_kernel<T>, batch_norm_channel_blocks(s), NORM_THREADS, 0,
               s->cuda->stream, s->rows, s->runs, s->channels, s->attributes.epsilon, p.sums,
               p.totals, (const T *)run->inputs[1], out, p.scale);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

template <typename T>
static lks_status batch_norm_start(const batch_norm_state *s, const lks_kernel_run *run)
{
    const batch_norm_places p = batch_norm_divide(s, run->workspace);
    const float *mean = (const float *)run->inputs[3];
    const int64_t n = s->rows * s->channels;
    if (s->attributes.training) {
        LKS_TRY(batch_norm_train<T>(s, run, p));
        mean = (const float *)run->outputs[1];
    } else {
        LKS_LAUNCH(batch_norm_running_kernel<T>, batch_norm_channel_blocks(s), NORM_THREADS, 0,
                   s->cuda->stream, s->channels, s->attributes.epsilon,
                   (const float *)run->inputs[4], (const T *)run->inputs[1], p.scale);
        LKS_CUDA_LAUNCHED();
    }
    LKS_LAUNCH(batch_norm_apply_kernel<T>, lks_cuda_blocks(s->cuda, n / 4, NORM_THREADS),
               NORM_THREADS, 0, s->cuda->stream, n, s->channels, (const T *)run->inputs[0], mean,
               p.scale, (const T *)run->inputs[2], (const T *)run->inputs[5],
               s->attributes.activation == LKS_RELU, (T *)run->outputs[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

/* --- Gradient -------------------------------------------------------------------------- */

/* What dx needs of each channel: dx = scale (dz - offset - slope (x - mean)). */
template <typename T>
static __global__ void
batch_norm_line_kernel(int64_t rows, int64_t runs, int channels, batch_norm_places p, const T *gain,
                       const float *rstd, float *dgain, bool add_gain, float *dbias, bool add_bias)
{
    BATCH_NORM_CHANNEL();
    const double sum = batch_norm_total(p.sums, runs, channels, c), r = (double)rstd[c];
    const double moment = batch_norm_total(p.sums + runs * channels, runs, channels, c);
    p.scale[c] = lks_load(gain, c) * rstd[c];
    p.offset[c] = (float)(sum / (double)rows);
    p.slope[c] = (float)(r * r * moment / (double)rows);
    batch_norm_store((float)(r * moment), add_gain, &dgain[c]);
    batch_norm_store((float)sum, add_bias, &dbias[c]);
}

template <typename T> struct batch_norm_targets {
    T *dx, *dresidual;
    bool add, add_residual;
};

template <typename T>
static __global__ void batch_norm_spread_kernel(int64_t n, int channels,
                                                batch_norm_moments<T> terms, batch_norm_places p,
                                                batch_norm_targets<T> out)
{
    lks_each(n, [=](int64_t at, auto count) {
        constexpr int N = decltype(count)::value;
        const lks_values<N> x = lks_load_values<N>(terms.x, at);
        lks_values<N> g = {}, r = {};
        if (out.add)
            g = lks_load_values<N>(out.dx, at);
        if (out.add_residual)
            r = lks_load_values<N>(out.dresidual, at);
        int c = (int)(at % channels);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float dz = batch_norm_dz(terms.y, terms.dy, terms.relu, at + i);
            const float centred = x.x[i] - terms.mean[c];
            g.x[i] += p.scale[c] * (dz - p.offset[c] - p.slope[c] * centred);
            r.x[i] += dz;
            c = c + 1 == channels ? 0 : c + 1;
        }
        lks_store_values<N>(out.dx, at, g);
        if (out.dresidual)
            lks_store_values<N>(out.dresidual, at, r);
    });
}

template <typename T>
static lks_status batch_norm_grad_start(const batch_norm_state *s, const lks_kernel_run *run)
{
    const batch_norm_places p = batch_norm_divide(s, run->workspace);
    const batch_norm_moments<T> terms = {(const T *)run->inputs[0], (const T *)run->inputs[4],
                                         (const T *)run->inputs[5], (const float *)run->inputs[2],
                                         s->attributes.activation == LKS_RELU};
    const batch_norm_targets<T> out = {(T *)run->outputs[0], (T *)run->outputs[3],
                                       run->accumulate[0], run->outputs[3] && run->accumulate[3]};
    const int64_t n = s->rows * s->channels;
    LKS_TRY(batch_norm_sum(s, terms, p.sums));
    LKS_LAUNCH(batch_norm_line_kernel<T>, batch_norm_channel_blocks(s), NORM_THREADS, 0,
               s->cuda->stream, s->rows, s->runs, s->channels, p, (const T *)run->inputs[1],
               (const float *)run->inputs[3], (float *)run->outputs[1], run->accumulate[1],
               (float *)run->outputs[2], run->accumulate[2]);
    LKS_CUDA_LAUNCHED();
    LKS_LAUNCH(batch_norm_spread_kernel<T>, lks_cuda_blocks(s->cuda, n / 4, NORM_THREADS),
               NORM_THREADS, 0, s->cuda->stream, n, s->channels, terms, p, out);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status batch_norm_run(void *state, const lks_kernel_run *run)
{
    const batch_norm_state *s = (const batch_norm_state *)state;
    return LKS_BY_TYPE(s->type, batch_norm_start)(s, run);
}

static lks_status batch_norm_grad_run(void *state, const lks_kernel_run *run)
{
    const batch_norm_state *s = (const batch_norm_state *)state;
    return LKS_BY_TYPE(s->type, batch_norm_grad_start)(s, run);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_batch_norm = {"batch_norm", batch_norm_prepare,
                                                                 batch_norm_run, lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_batch_norm_grad = {
    "batch_norm_grad", batch_norm_grad_prepare, batch_norm_grad_run, lks_memory_free};
