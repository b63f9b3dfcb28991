#include "kernels/cpu/cpu.h"
#include "kernels/cpu/sums.h"
#include "kernels/cpu/vector_math.h"

typedef struct cross_entropy_state {
    int64_t rows, columns, classes;
} cross_entropy_state;

static lks_status check_target(const cross_entropy_state *state, int64_t row, int32_t target)
{
    if (target < state->classes)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_CORRUPT,
                    "target %d at row %lld of the micro-batch is outside the %lld classes",
                    (int)target, (long long)row, (long long)state->classes);
}

static lks_status cross_entropy_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                        size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_cross_entropy(spec, NULL));
    const lks_kernel_tensor *logits = &spec->inputs[0];
    const lks_cross_entropy_attributes *attributes = spec->attributes;
    cross_entropy_state *state;
    LKS_TRY(LKS_NEW(&state));
    *state =
        (cross_entropy_state){lks_spec_rows(logits), lks_spec_columns(logits), attributes->classes};
    *out = state;
    return LKS_OK;
}

/* f32 over runs of 1024, the runs in f64: a vocabulary is long. */
static double sum_exponentials(const float *x, int64_t count, float largest)
{
    enum { RUN = 1024 };
    double total = 0;
    for (int64_t first = 0; first < count; first += RUN) {
        int64_t run = count - first < RUN ? count - first : RUN;
        LKS_SUM(sum, i, run, lks_exp(x[first + i] - largest));
        total += sum;
    }
    return total;
}

/* Whether x[target] is the first of the largest. */
static bool is_first_largest(const float *x, float largest, int32_t target)
{
    if (x[target] != largest)
        return false;
    for (int32_t i = 0; i < target; ++i)
        if (x[i] == largest)
            return false;
    return true;
}

/* dx may be x. */
static void store_gradient(const cross_entropy_state *state, const float *x, float lse,
                           int32_t target, float *dx)
{
    int64_t classes = target < 0 ? 0 : state->classes;
#pragma omp simd
    for (int64_t i = 0; i < classes; ++i)
        dx[i] = lks_exp(x[i] - lse);
    for (int64_t i = classes; i < state->columns; ++i)
        dx[i] = 0;
    if (classes)
        dx[target] -= 1.0f;
}

/* A row without a target adds nothing. */
static double row_statistics(const cross_entropy_state *state, const float *x, int32_t target,
                             double *stats)
{
    if (target < 0)
        return 0;
    float largest = lks_largest(x, state->classes);
    double log_sum = log(sum_exponentials(x, state->classes, largest)) + (double)largest;
    stats[0] += log_sum - (double)x[target];
    stats[1] += 1;
    stats[2] += is_first_largest(x, largest, target);
    return log_sum;
}

static lks_status cross_entropy_run(void *state_, const lks_kernel_run *run)
{
    const cross_entropy_state *state = state_;
    const int32_t *targets = run->inputs[1];
    float *dlogits = run->outputs[0];
    double *out = run->outputs[1], stats[3] = {0};
    for (int64_t row = 0; row < state->rows; ++row) {
        const float *x = (const float *)run->inputs[0] + row * state->columns;
        LKS_TRY(check_target(state, row, targets[row]));
        double log_sum = row_statistics(state, x, targets[row], stats);
        if (dlogits)
            store_gradient(state, x, (float)log_sum, targets[row], dlogits + row * state->columns);
    }
    for (int i = 0; i < 3; ++i)
        out[i] = stats[i];
    return LKS_OK;
}

extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_cross_entropy);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_cross_entropy) = {
    "cross_entropy", cross_entropy_prepare, cross_entropy_run, lks_memory_free};
