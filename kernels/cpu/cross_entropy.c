#include "kernels/cpu/cpu.h"
#include "kernels/cpu/sums.h"
#include "kernels/cpu/vector_math.h"

typedef struct cross_entropy_state {
    int64_t rows, columns, classes;
} cross_entropy_state;

static lks_status cross_entropy_make(void **out, const lks_kernel_spec *spec)
{
    LKS_TRY(lks_cpu_expect_attributes(spec));
    const lks_kernel_tensor *logits = &spec->inputs[0];
    int64_t rows = lks_cpu_rows(logits), columns = lks_cpu_columns(logits);
    int64_t classes = ((const lks_cross_entropy_attributes *)spec->attributes)->classes;
    if (classes < 1 || classes > columns)
        return lks_cpu_refuse(spec, "%lld classes for %lld columns", (long long)classes,
                              (long long)columns);
    LKS_TRY(lks_cpu_expect_elements(spec, "targets", &spec->inputs[1], rows));
    cross_entropy_state *state;
    LKS_TRY(LKS_NEW(&state));
    *state = (cross_entropy_state){rows, columns, classes};
    *out = state;
    return LKS_OK;
}

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
    LKS_TRY(lks_cpu_expect_types(spec, "fi", "dF"));
    LKS_TRY(lks_cpu_expect_elements(spec, "stats", &spec->outputs[0], 3));
    LKS_TRY(
        lks_cpu_expect_elements(spec, "lse", &spec->outputs[1], lks_cpu_rows(&spec->inputs[0])));
    return cross_entropy_make(out, spec);
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

static lks_status cross_entropy_run(void *state_, const lks_kernel_run *run)
{
    const cross_entropy_state *state = state_;
    const float *logits = run->inputs[0];
    const int32_t *targets = run->inputs[1];
    double *stats = run->outputs[0], loss = 0, valid = 0, right = 0;
    float *lse = run->outputs[1];
    for (int64_t row = 0; row < state->rows; ++row) {
        const float *x = logits + row * state->columns;
        LKS_TRY(check_target(state, row, targets[row]));
        if (targets[row] < 0) {
            if (lse)
                lse[row] = 0;
            continue;
        }
        float largest = lks_largest(x, state->classes);
        double log_sum = log(sum_exponentials(x, state->classes, largest)) + (double)largest;
        loss += log_sum - (double)x[targets[row]];
        valid += 1;
        right += is_first_largest(x, largest, targets[row]);
        if (lse)
            lse[row] = (float)log_sum;
    }
    stats[0] = loss;
    stats[1] = valid;
    stats[2] = right;
    return LKS_OK;
}

static lks_status cross_entropy_grad_prepare(void **out, lks_device *device,
                                             const lks_kernel_spec *spec, size_t *workspace)
{
    (void)device;
    *workspace = 0;
    const lks_kernel_tensor *logits = &spec->inputs[0];
    LKS_TRY(lks_cpu_expect_types(spec, "fif", "f"));
    LKS_TRY(lks_cpu_expect_elements(spec, "lse", &spec->inputs[2], lks_cpu_rows(logits)));
    LKS_TRY(lks_cpu_expect_elements(spec, "dlogits", &spec->outputs[0], lks_cpu_elements(logits)));
    return cross_entropy_make(out, spec);
}

static lks_status cross_entropy_grad_run(void *state_, const lks_kernel_run *run)
{
    const cross_entropy_state *state = state_;
    const float *logits = run->inputs[0], *lse = run->inputs[2];
    const int32_t *targets = run->inputs[1];
    float *dlogits = run->outputs[0];
    for (int64_t row = 0; row < state->rows; ++row) {
        const float *x = logits + row * state->columns;
        float *dx = dlogits + row * state->columns, shift = lse[row];
        LKS_TRY(check_target(state, row, targets[row]));
        int64_t classes = targets[row] < 0 ? 0 : state->classes;
#pragma omp simd
        for (int64_t i = 0; i < classes; ++i)
            dx[i] = lks_exp(x[i] - shift);
        for (int64_t i = classes; i < state->columns; ++i)
            dx[i] = 0;
        if (classes)
            dx[targets[row]] -= 1.0f;
    }
    return LKS_OK;
}

extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_cross_entropy);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_cross_entropy) = {
    "cross_entropy", cross_entropy_prepare, cross_entropy_run, lks_memory_free};
extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_cross_entropy_grad);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_cross_entropy_grad) = {
    "cross_entropy_grad", cross_entropy_grad_prepare, cross_entropy_grad_run, lks_memory_free};
