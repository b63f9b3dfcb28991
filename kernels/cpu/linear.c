#include "kernels/cpu/cpu.h"
#include "kernels/cpu/onednn.h"
#include "kernels/cpu/sums.h"
#include "kernels/cpu/vector_math.h"
#include "runtime/base/bf16.h"

#include <string.h>

typedef struct linear_state {
    lks_onednn_matmul *product;
    lks_activation activation;
    int64_t rows, columns; /* of y, or of dz */
    bool bf16;             /* what the product reads */
} linear_state;

static void linear_release(void *state_)
{
    linear_state *state = state_;
    lks_onednn_matmul_close(state->product);
    lks_memory_free(state);
}

static lks_status linear_make(void **out, lks_device *device, const lks_onednn_matmul_spec *product,
                              const linear_state *settings, size_t *workspace)
{
    linear_state *state;
    LKS_TRY(LKS_NEW(&state));
    *state = *settings;
    state->bf16 = product->type == LKS_BF16;
    lks_status status =
        lks_onednn_matmul_open(&state->product, lks_cpu_of(device), product, workspace);
    if (status != LKS_OK) {
        lks_memory_free(state);
        return status;
    }
    *out = state;
    return LKS_OK;
}

/* --- linear ------------------------------------------------------------------- */

static lks_status linear_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    LKS_TRY(lks_spec_expect_types(spec, "ttF", "fF", NULL));
    lks_linear_sizes with;
    LKS_TRY(lks_shapes_expect_linear(spec, &with));
    lks_activation activation = ((const lks_linear_attributes *)spec->attributes)->activation;
    int64_t m = with.rows, k = with.inputs, n = with.outputs;
    lks_onednn_matmul_spec product = {.batch = 1,
                                      .m = m,
                                      .n = n,
                                      .k = k,
                                      .a = {0, k, 1},
                                      .b = {0, 1, k},
                                      .c = {0, n, 1},
                                      .alpha = 1,
                                      .type = spec->inputs[0].dtype,
                                      .bias = lks_spec_present(&spec->inputs[2]),
                                      .overwrite = true};
    return linear_make(out, device, &product, &(linear_state){NULL, activation, m, n, false},
                       workspace);
}

static void activate(lks_activation activation, int64_t count, const float *pre, float *y)
{
    if (activation == LKS_RELU) {
#pragma omp simd
        for (int64_t i = 0; i < count; ++i)
            y[i] = pre[i] < 0 ? 0 : pre[i]; /* NaN stays */
    } else if (activation == LKS_GELU) {
#pragma omp simd
        for (int64_t i = 0; i < count; ++i)
            y[i] = lks_gelu(pre[i]);
    }
}

static lks_status linear_run(void *state_, const lks_kernel_run *run)
{
    const linear_state *state = state_;
    float *y = run->outputs[0], *pre = run->outputs[1] ? run->outputs[1] : y;
    LKS_TRY(lks_onednn_matmul_execute(state->product, run->inputs[0], run->inputs[1],
                                      run->inputs[2], pre, false, run->workspace));
    activate(state->activation, state->rows * state->columns, pre, y);
    return LKS_OK;
}

/* --- activation_grad ----------------------------------------------------------- */

static lks_status activation_grad_prepare(void **out, lks_device *device,
                                          const lks_kernel_spec *spec, size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_activation_grad(spec, NULL));
    linear_state *state;
    LKS_TRY(LKS_NEW(&state));
    state->activation = ((const lks_linear_attributes *)spec->attributes)->activation;
    state->rows = 1;
    state->columns = lks_spec_elements(&spec->inputs[0]);
    *out = state;
    return LKS_OK;
}

/* dz = dy f'(saved); dz may be dy. */
static void apply_slope(lks_activation activation, int64_t count, const float *dy,
                        const float *saved, float *dz)
{
    switch (activation) {
    case LKS_IDENTITY:
        if (dz != dy)
            memmove(dz, dy, (size_t)count * sizeof *dz);
        break;
    case LKS_RELU:
#pragma omp simd
        for (int64_t i = 0; i < count; ++i)
            dz[i] = saved[i] > 0 ? dy[i] : 0;
        break;
    case LKS_GELU:
#pragma omp simd
        for (int64_t i = 0; i < count; ++i)
            dz[i] = dy[i] * lks_gelu_derivative(saved[i]);
        break;
    }
}

static lks_status activation_grad_run(void *state_, const lks_kernel_run *run)
{
    const linear_state *state = state_;
    apply_slope(state->activation, state->columns, run->inputs[0], run->inputs[1], run->outputs[0]);
    return LKS_OK;
}

/* --- linear_grad_input ---------------------------------------------------------- */

static lks_status linear_grad_input_prepare(void **out, lks_device *device,
                                            const lks_kernel_spec *spec, size_t *workspace)
{
    LKS_TRY(lks_spec_expect_types(spec, "ttF", "f", NULL));
    lks_linear_sizes with;
    LKS_TRY(lks_shapes_expect_linear_grad_input(spec, &with));
    int64_t m = with.rows, n = with.outputs, k = with.inputs;
    bool through = lks_spec_present(&spec->inputs[2]);
    lks_activation activation =
        through ? ((const lks_linear_attributes *)spec->attributes)->activation : LKS_IDENTITY;
    lks_onednn_matmul_spec product = {.batch = 1,
                                      .m = m,
                                      .n = k,
                                      .k = n,
                                      .a = {0, n, 1},
                                      .b = {0, k, 1},
                                      .c = {0, k, 1},
                                      .alpha = 1,
                                      .type = spec->inputs[0].dtype,
                                      .overwrite = true,
                                      .accumulate = !through};
    return linear_make(out, device, &product, &(linear_state){NULL, activation, m, k, false},
                       workspace);
}

static lks_status linear_grad_input_run(void *state_, const lks_kernel_run *run)
{
    const linear_state *state = state_;
    float *dx = run->outputs[0];
    LKS_TRY(lks_onednn_matmul_execute(state->product, run->inputs[0], run->inputs[1], NULL, dx,
                                      run->accumulate[0] && !run->inputs[2], run->workspace));
    if (run->inputs[2])
        apply_slope(state->activation, state->rows * state->columns, dx, run->inputs[2], dx);
    return LKS_OK;
}

/* --- linear_grad_weight --------------------------------------------------------- */

static lks_status linear_grad_weight_prepare(void **out, lks_device *device,
                                             const lks_kernel_spec *spec, size_t *workspace)
{
    LKS_TRY(lks_spec_expect_types(spec, "tt", "fF", NULL));
    lks_linear_sizes with;
    LKS_TRY(lks_shapes_expect_linear_grad_weight(spec, &with));
    int64_t m = with.rows, n = with.outputs, k = with.inputs;
    lks_onednn_matmul_spec product = {.batch = 1,
                                      .m = n,
                                      .n = k,
                                      .k = m,
                                      .a = {0, 1, n},
                                      .b = {0, k, 1},
                                      .c = {0, k, 1},
                                      .alpha = 1,
                                      .type = spec->inputs[0].dtype,
                                      .overwrite = true,
                                      .accumulate = true};
    return linear_make(out, device, &product, &(linear_state){NULL, LKS_IDENTITY, m, n, false},
                       workspace);
}

/* As lks_column_sums. */
static void bf16_column_sums(const uint16_t *x, int64_t rows, int64_t columns, float *out,
                             bool accumulate)
{
    enum { RUN = 32, WIDTH = 128 };
    float wide[RUN * WIDTH], sums[WIDTH];
    for (int64_t first = 0; first < columns; first += WIDTH) {
        int64_t width = columns - first < WIDTH ? columns - first : WIDTH;
        for (int64_t begin = 0; begin < rows; begin += RUN) {
            int64_t count = rows - begin < RUN ? rows - begin : RUN;
            for (int64_t row = 0; row < count; ++row)
                for (int64_t c = 0; c < width; ++c)
                    wide[row * width + c] = lks_bf16_value(x[(begin + row) * columns + first + c]);
            lks_column_sums(wide, count, width, sums, false);
            for (int64_t c = 0; c < width; ++c)
                out[first + c] = accumulate || begin > 0 ? out[first + c] + sums[c] : sums[c];
        }
    }
}

static lks_status linear_grad_weight_run(void *state_, const lks_kernel_run *run)
{
    const linear_state *state = state_;
    if (run->outputs[1] && state->bf16)
        bf16_column_sums(run->inputs[0], state->rows, state->columns, run->outputs[1],
                         run->accumulate[1]);
    else if (run->outputs[1])
        lks_column_sums(run->inputs[0], state->rows, state->columns, run->outputs[1],
                        run->accumulate[1]);
    return lks_onednn_matmul_execute(state->product, run->inputs[0], run->inputs[1], NULL,
                                     run->outputs[0], run->accumulate[0], run->workspace);
}

extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_linear);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_linear) = {"linear", linear_prepare, linear_run,
                                                               linear_release};
extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_activation_grad);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_activation_grad) = {
    "activation_grad", activation_grad_prepare, activation_grad_run, linear_release};
extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_linear_grad_input);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_linear_grad_input) = {
    "linear_grad_input", linear_grad_input_prepare, linear_grad_input_run, linear_release};
extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_linear_grad_weight);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_linear_grad_weight) = {
    "linear_grad_weight", linear_grad_weight_prepare, linear_grad_weight_run, linear_release};
