/* "squared_error" and its gradient: rows with a target that is not finite are masked. */
#include "kernels/cpu/cpu.h"

#include <math.h>

enum { SQUARED_ERROR_LANES = 8 };

typedef struct squared_error_state {
    size_t rows, width;
} squared_error_state;

static lks_status squared_error_create(void **state, const lks_kernel_spec *spec)
{
    const lks_kernel_tensor *prediction = &spec->inputs[0];
    squared_error_state *s;
    LKS_TRY(LKS_NEW(&s));
    s->rows = (size_t)lks_spec_rows(prediction);
    s->width = (size_t)lks_spec_columns(prediction);
    *state = s;
    return LKS_OK;
}

static lks_status squared_error_prepare(void **state, lks_device *device,
                                        const lks_kernel_spec *spec, size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_squared_error(spec, NULL));
    return squared_error_create(state, spec);
}

static lks_status squared_error_grad_prepare(void **state, lks_device *device,
                                             const lks_kernel_spec *spec, size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_squared_error_grad(spec, NULL));
    return squared_error_create(state, spec);
}

static bool squared_error_valid(size_t n, const float *target)
{
    for (size_t i = 0; i < n; ++i)
        if (!isfinite(target[i]))
            return false;
    return true;
}

static double squared_error_row(size_t n, const float *prediction, const float *target)
{
    double lane[SQUARED_ERROR_LANES] = {0};
    for (size_t i = 0; i < n; ++i) {
        double difference = (double)prediction[i] - (double)target[i];
        lane[i % SQUARED_ERROR_LANES] += difference * difference;
    }
    for (int step = SQUARED_ERROR_LANES / 2; step; step /= 2)
        for (int l = 0; l < step; ++l)
            lane[l] += lane[l + step];
    return lane[0];
}

static lks_status squared_error_run(void *state, const lks_kernel_run *run)
{
    const squared_error_state *s = state;
    const float *prediction = run->inputs[0], *target = run->inputs[1];
    double *stats = run->outputs[0];
    double sum = 0.0, count = 0.0;
    for (size_t row = 0; row < s->rows; ++row, prediction += s->width, target += s->width) {
        if (!squared_error_valid(s->width, target))
            continue;
        sum += squared_error_row(s->width, prediction, target);
        count += 1.0;
    }
    stats[0] = sum / (double)s->width;
    stats[1] = count;
    stats[2] = 0.0;
    return LKS_OK;
}

static lks_status squared_error_grad_run(void *state, const lks_kernel_run *run)
{
    const squared_error_state *s = state;
    const float *prediction = run->inputs[0], *target = run->inputs[1];
    float *dprediction = run->outputs[0];
    const float width = (float)s->width;
    for (size_t row = 0; row < s->rows; ++row) {
        bool valid = squared_error_valid(s->width, target);
        for (size_t i = 0; i < s->width; ++i)
            dprediction[i] = valid ? 2.0f * (prediction[i] - target[i]) / width : 0.0f;
        prediction += s->width, target += s->width, dprediction += s->width;
    }
    return LKS_OK;
}

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_squared_error) = {
    .name = "squared_error",
    .prepare = squared_error_prepare,
    .run = squared_error_run,
    .release = lks_memory_free,
};

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_squared_error_grad) = {
    .name = "squared_error_grad",
    .prepare = squared_error_grad_prepare,
    .run = squared_error_grad_run,
    .release = lks_memory_free,
};
