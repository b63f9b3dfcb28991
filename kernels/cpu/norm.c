#include "kernels/cpu/cpu.h"
#include "kernels/cpu/sums.h"

#include <string.h>

typedef struct norm_state {
    int64_t rows, width;
    lks_norm_kind kind;
    float epsilon;
} norm_state;

static lks_status norm_make(void **out, const lks_kernel_spec *spec)
{
    const lks_norm_attributes *attributes = spec->attributes;
    const lks_kernel_tensor *x = &spec->inputs[0];
    norm_state *state;
    LKS_TRY(LKS_NEW(&state));
    *state =
        (norm_state){lks_spec_rows(x), lks_spec_columns(x), attributes->kind, attributes->epsilon};
    *out = state;
    return LKS_OK;
}

static lks_status norm_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                               size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_norm(spec, NULL));
    return norm_make(out, spec);
}

static void norm_row(const norm_state *state, const float *s, const float *gain, const float *bias,
                     float *y, float *mean_out, float *rstd_out)
{
    int64_t width = state->width;
    float mean = 0;
    if (state->kind == LKS_NORM_LAYER) {
        LKS_SUM(sum, i, width, s[i]);
        mean = sum / (float)width;
    }
    LKS_SUM(squares, i, width, (s[i] - mean) * (s[i] - mean));
    float rstd = 1.0f / sqrtf(squares / (float)width + state->epsilon);
    if (bias)
        for (int64_t i = 0; i < width; ++i)
            y[i] = (s[i] - mean) * rstd * gain[i] + bias[i];
    else
        for (int64_t i = 0; i < width; ++i)
            y[i] = (s[i] - mean) * rstd * gain[i];
    if (mean_out)
        *mean_out = mean;
    if (rstd_out)
        *rstd_out = rstd;
}

static lks_status norm_run(void *state_, const lks_kernel_run *run)
{
    const norm_state *state = state_;
    const float *x = run->inputs[0], *residual = run->inputs[1];
    float *y = run->outputs[0], *sum = run->outputs[1];
    float *mean = run->outputs[2], *rstd = run->outputs[3];
    for (int64_t row = 0; row < state->rows; ++row) {
        int64_t at = row * state->width;
        const float *s = x + at;
        if (residual) {
#pragma omp simd
            for (int64_t i = 0; i < state->width; ++i)
                sum[at + i] = x[at + i] + residual[at + i];
            s = sum + at;
        }
        norm_row(state, s, run->inputs[2], run->inputs[3], y + at, mean ? mean + row : NULL,
                 rstd ? rstd + row : NULL);
    }
    return LKS_OK;
}

/* Column sums are kept for runs of 32 rows, then for all: four arrays of a row. */
enum { RUN = 32, COLUMN_SUMS = 4 };

static lks_status norm_grad_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                    size_t *workspace)
{
    (void)device;
    LKS_TRY(lks_shapes_expect_norm_grad(spec, NULL));
    size_t width = (size_t)lks_spec_columns(&spec->inputs[0]);
    *workspace = COLUMN_SUMS * lks_round_up(width * sizeof(float), LKS_ALIGNMENT);
    return norm_make(out, spec);
}

typedef struct norm_columns {
    float *gain_run, *bias_run, *gain, *bias; /* [width] */
} norm_columns;

static norm_columns columns_of(const norm_state *state, void *workspace)
{
    size_t step = lks_round_up((size_t)state->width * sizeof(float), LKS_ALIGNMENT);
    char *memory = workspace;
    memset(workspace, 0, COLUMN_SUMS * step);
    return (norm_columns){(float *)memory, (float *)(memory + step), (float *)(memory + 2 * step),
                          (float *)(memory + 3 * step)};
}

static void end_run(int64_t width, const norm_columns *columns)
{
    float *restrict gain_run = columns->gain_run, *restrict bias_run = columns->bias_run;
    float *restrict gain = columns->gain, *restrict bias = columns->bias;
    for (int64_t i = 0; i < width; ++i) {
        gain[i] += gain_run[i];
        bias[i] += bias_run[i];
        gain_run[i] = bias_run[i] = 0;
    }
}

static void norm_grad_row(const norm_state *state, const float *s, const float *gain, float mean,
                          float rstd, const float *dy, const float *dsum, float *ds,
                          bool accumulate, const norm_columns *columns)
{
    int64_t width = state->width;
    float *restrict gain_run = columns->gain_run, *restrict bias_run = columns->bias_run;
    float center = 0;
    if (state->kind == LKS_NORM_LAYER) {
        LKS_SUM(sum, i, width, dy[i] * gain[i]);
        center = sum / (float)width;
    }
    LKS_SUM(product, i, width, dy[i] * gain[i] * ((s[i] - mean) * rstd));
    float slope = product / (float)width;
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
        float normal = (s[i] - mean) * rstd;
        gain_run[i] += dy[i] * normal;
        bias_run[i] += dy[i];
        float gradient = rstd * (dy[i] * gain[i] - center - normal * slope);
        if (dsum)
            gradient += dsum[i];
        ds[i] = accumulate ? ds[i] + gradient : gradient;
    }
}

static void store(int64_t width, const float *sums, float *out, bool accumulate)
{
    for (int64_t i = 0; i < width; ++i)
        out[i] = accumulate ? out[i] + sums[i] : sums[i];
}

static lks_status norm_grad_run(void *state_, const lks_kernel_run *run)
{
    const norm_state *state = state_;
    const float *s = run->inputs[0], *mean = run->inputs[2], *rstd = run->inputs[3];
    const float *dy = run->inputs[4], *dsum = run->inputs[5];
    float *ds = run->outputs[0], *dbias = run->outputs[2];
    norm_columns columns = columns_of(state, run->workspace);
    for (int64_t row = 0; row < state->rows; ++row) {
        int64_t at = row * state->width;
        norm_grad_row(state, s + at, run->inputs[1], mean ? mean[row] : 0, rstd[row], dy + at,
                      dsum ? dsum + at : NULL, ds + at, run->accumulate[0], &columns);
        if (row % RUN == RUN - 1 || row + 1 == state->rows)
            end_run(state->width, &columns);
    }
    store(state->width, columns.gain, run->outputs[1], run->accumulate[1]);
    if (dbias)
        store(state->width, columns.bias, dbias, run->accumulate[2]);
    return LKS_OK;
}

extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_norm);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_norm) = {"norm", norm_prepare, norm_run,
                                                             lks_memory_free};
extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_norm_grad);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_norm_grad) = {"norm_grad", norm_grad_prepare,
                                                                  norm_grad_run, lks_memory_free};
