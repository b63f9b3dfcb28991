/* "batch_norm" and its gradient. Images are rows x channels; sums over rows are taken in f64, row
 * after row, side by side for all channels. */
#include "kernels/cpu/cpu.h"

#include <math.h>
#include <string.h>

typedef struct batch_norm_state {
    lks_batch_norm_attributes attributes;
    size_t rows, channels;
} batch_norm_state;

static lks_status batch_norm_create(void **state, const lks_kernel_spec *spec)
{
    batch_norm_state *s;
    LKS_TRY(LKS_NEW(&s));
    s->attributes = *(const lks_batch_norm_attributes *)spec->attributes;
    s->rows = (size_t)lks_spec_rows(&spec->inputs[0]);
    s->channels = (size_t)lks_spec_columns(&spec->inputs[0]);
    *state = s;
    return LKS_OK;
}

static lks_status batch_norm_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                     size_t *workspace)
{
    (void)device;
    LKS_TRY(lks_shapes_expect_batch_norm(spec, NULL));
    LKS_TRY(batch_norm_create(state, spec));
    batch_norm_state *s = *state;
    *workspace = s->channels * (2 * sizeof(double) + 2 * sizeof(float));
    return LKS_OK;
}

/* mean[c], and squares[c] = sum over rows of (x - mean[c])^2. */
static void batch_norm_statistics(size_t rows, size_t channels, const float *x,
                                  double *restrict mean, double *restrict squares)
{
    memset(mean, 0, channels * sizeof *mean);
    memset(squares, 0, channels * sizeof *squares);
    for (size_t row = 0; row < rows; ++row)
#pragma omp simd
        for (size_t c = 0; c < channels; ++c)
            mean[c] += (double)x[row * channels + c];
    for (size_t c = 0; c < channels; ++c)
        mean[c] /= (double)rows;
    for (size_t row = 0; row < rows; ++row)
#pragma omp simd
        for (size_t c = 0; c < channels; ++c) {
            double distance = (double)x[row * channels + c] - mean[c];
            squares[c] += distance * distance;
        }
}

static void batch_norm_store(float value, bool accumulate, float *out)
{
    *out = accumulate ? *out + value : value;
}

/* Fills the outputs mean, rstd, mean_stat, variance_stat. The variance of one row is 0. */
static void batch_norm_train(const batch_norm_state *s, const lks_kernel_run *run, double *mean,
                             double *squares)
{
    float *means = run->outputs[1], *rstds = run->outputs[2];
    float *mean_stat = run->outputs[3], *variance_stat = run->outputs[4];
    const double rows = (double)s->rows, others = s->rows > 1 ? rows - 1.0 : 1.0;
    batch_norm_statistics(s->rows, s->channels, run->inputs[0], mean, squares);
    for (size_t c = 0; c < s->channels; ++c) {
        means[c] = (float)mean[c];
        rstds[c] = (float)(1.0 / sqrt(squares[c] / rows + (double)s->attributes.epsilon));
        batch_norm_store((float)mean[c], run->accumulate[3], &mean_stat[c]);
        batch_norm_store((float)(squares[c] / others), run->accumulate[4], &variance_stat[c]);
    }
}

/* y = f((x - mean) scale + bias + [residual]). */
static inline __attribute__((always_inline)) void
batch_norm_apply(const batch_norm_state *s, const float *x, const float *mean, const float *scale,
                 const float *bias, const float *residual, bool add, bool relu, float *y)
{
    for (size_t row = 0; row < s->rows; ++row) {
        size_t at = row * s->channels;
#pragma omp simd
        for (size_t c = 0; c < s->channels; ++c) {
            float v = (x[at + c] - mean[c]) * scale[c] + bias[c];
            if (add)
                v += residual[at + c];
            y[at + c] = relu && v < 0.0f ? 0.0f : v;
        }
    }
}

static lks_status batch_norm_run(void *state, const lks_kernel_run *run)
{
    const batch_norm_state *s = state;
    const float *x = run->inputs[0], *gain = run->inputs[1], *bias = run->inputs[2];
    const float *mean = run->inputs[3], *variance = run->inputs[4], *residual = run->inputs[5];
    float *y = run->outputs[0];
    double *sums = run->workspace;
    float *scale = (float *)(sums + 2 * s->channels);
    const bool relu = s->attributes.activation == LKS_RELU;
    if (s->attributes.training) {
        const float *rstd = run->outputs[2];
        batch_norm_train(s, run, sums, sums + s->channels);
        mean = run->outputs[1];
        for (size_t c = 0; c < s->channels; ++c)
            scale[c] = rstd[c] * gain[c];
    } else {
        for (size_t c = 0; c < s->channels; ++c)
            scale[c] = gain[c] / sqrtf(variance[c] + s->attributes.epsilon);
    }
    if (residual && relu)
        batch_norm_apply(s, x, mean, scale, bias, residual, true, true, y);
    else if (residual)
        batch_norm_apply(s, x, mean, scale, bias, residual, true, false, y);
    else if (relu)
        batch_norm_apply(s, x, mean, scale, bias, NULL, false, true, y);
    else
        batch_norm_apply(s, x, mean, scale, bias, NULL, false, false, y);
    return LKS_OK;
}

static lks_status batch_norm_grad_prepare(void **state, lks_device *device,
                                          const lks_kernel_spec *spec, size_t *workspace)
{
    (void)device;
    LKS_TRY(lks_shapes_expect_batch_norm_grad(spec, NULL));
    LKS_TRY(batch_norm_create(state, spec));
    batch_norm_state *s = *state;
    *workspace = s->channels * (2 * sizeof(double) + 3 * sizeof(float));
    return LKS_OK;
}

/* sum[c] of dz, moment[c] of dz (x - mean); dz = relu ? (y > 0) dy : dy. */
static inline __attribute__((always_inline)) void
batch_norm_moments(const batch_norm_state *s, const float *x, const float *mean, const float *y,
                   const float *dy, bool relu, double *restrict sum, double *restrict moment)
{
    memset(sum, 0, s->channels * sizeof *sum);
    memset(moment, 0, s->channels * sizeof *moment);
    for (size_t row = 0; row < s->rows; ++row) {
        size_t at = row * s->channels;
#pragma omp simd
        for (size_t c = 0; c < s->channels; ++c) {
            float dz = dy[at + c] * (relu && !(y[at + c] > 0.0f) ? 0.0f : 1.0f);
            sum[c] += (double)dz;
            moment[c] += (double)dz * (double)(x[at + c] - mean[c]);
        }
    }
}

/* What dx needs of each channel: dx = scale (dz - offset - slope (x - mean)). */
typedef struct batch_norm_line {
    float *scale, *offset, *slope;
} batch_norm_line;

static inline __attribute__((always_inline)) void batch_norm_spread(const batch_norm_state *s,
                                                                    const lks_kernel_run *run,
                                                                    const batch_norm_line *line,
                                                                    bool relu)
{
    const float *x = run->inputs[0], *mean = run->inputs[2], *y = run->inputs[4];
    const float *dy = run->inputs[5];
    float *dx = run->outputs[0], *dresidual = run->outputs[3];
    const bool add = run->accumulate[0], add_residual = run->accumulate[3];
    for (size_t row = 0; row < s->rows; ++row) {
        size_t at = row * s->channels;
#pragma omp simd
        for (size_t c = 0; c < s->channels; ++c) {
            float dz = dy[at + c] * (relu && !(y[at + c] > 0.0f) ? 0.0f : 1.0f);
            float centred = x[at + c] - mean[c];
            float g = line->scale[c] * (dz - line->offset[c] - line->slope[c] * centred);
            dx[at + c] = add ? dx[at + c] + g : g;
        }
        if (!dresidual)
            continue;
#pragma omp simd
        for (size_t c = 0; c < s->channels; ++c) {
            float dz = dy[at + c] * (relu && !(y[at + c] > 0.0f) ? 0.0f : 1.0f);
            dresidual[at + c] = add_residual ? dresidual[at + c] + dz : dz;
        }
    }
}

static lks_status batch_norm_grad_run(void *state, const lks_kernel_run *run)
{
    const batch_norm_state *s = state;
    const float *x = run->inputs[0], *gain = run->inputs[1], *mean = run->inputs[2];
    const float *rstd = run->inputs[3], *y = run->inputs[4], *dy = run->inputs[5];
    float *dgain = run->outputs[1], *dbias = run->outputs[2];
    double *sum = run->workspace, *moment = sum + s->channels;
    float *floats = (float *)(moment + s->channels);
    const batch_norm_line line = {floats, floats + s->channels, floats + 2 * s->channels};
    const bool relu = s->attributes.activation == LKS_RELU;
    if (relu)
        batch_norm_moments(s, x, mean, y, dy, true, sum, moment);
    else
        batch_norm_moments(s, x, mean, y, dy, false, sum, moment);
    for (size_t c = 0; c < s->channels; ++c) {
        const double r = (double)rstd[c], rows = (double)s->rows;
        line.scale[c] = gain[c] * rstd[c];
        line.offset[c] = (float)(sum[c] / rows);
        line.slope[c] = (float)(r * r * moment[c] / rows);
        batch_norm_store((float)(r * moment[c]), run->accumulate[1], &dgain[c]);
        batch_norm_store((float)sum[c], run->accumulate[2], &dbias[c]);
    }
    if (relu)
        batch_norm_spread(s, run, &line, true);
    else
        batch_norm_spread(s, run, &line, false);
    return LKS_OK;
}

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_batch_norm) = {
    .name = "batch_norm",
    .prepare = batch_norm_prepare,
    .run = batch_norm_run,
    .release = lks_memory_free,
};

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_batch_norm_grad) = {
    .name = "batch_norm_grad",
    .prepare = batch_norm_grad_prepare,
    .run = batch_norm_grad_run,
    .release = lks_memory_free,
};
