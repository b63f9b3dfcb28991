/* "permute": axes in another order. */
#include "kernels/cpu/cpu.h"

enum { PERMUTE_TILE = 16 };

static lks_status permute_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                  size_t *workspace)
{
    (void)device;
    *workspace = 0;
    lks_permutation plan, *s;
    LKS_TRY(lks_shapes_expect_permute(spec, &plan, NULL));
    LKS_TRY(LKS_NEW(&s));
    *s = plan;
    *state = s;
    return LKS_OK;
}

static void permute_copy(int64_t n, const float *x, int64_t x_step, bool accumulate, float *y)
{
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
        float v = x[i * x_step];
        y[i] = accumulate ? y[i] + v : v;
    }
}

static void permute_matrix(const lks_permutation *s, const float *x, bool accumulate, float *y)
{
    if (s->column_x_step == 1) {
        permute_copy(s->columns, x, 1, accumulate, y);
        return;
    }
    for (int64_t row = 0; row < s->rows; row += PERMUTE_TILE)
        for (int64_t column = 0; column < s->columns; column += PERMUTE_TILE) {
            int64_t end = s->rows - row < PERMUTE_TILE ? s->rows : row + PERMUTE_TILE;
            int64_t left = s->columns - column;
            int64_t n = left < PERMUTE_TILE ? left : PERMUTE_TILE;
            for (int64_t r = row; r < end; ++r)
                permute_copy(n, x + r + column * s->column_x_step, s->column_x_step, accumulate,
                             y + r * s->row_y_step + column);
        }
}

static lks_status permute_run(void *state, const lks_kernel_run *run)
{
    const lks_permutation *s = state;
    const float *x = run->inputs[0];
    float *y = run->outputs[0];
    int64_t index[LKS_AXES_MAX] = {0};
    int axis;
    do {
        permute_matrix(s, x, run->accumulate[0], y);
        for (axis = 0; axis < s->axes; ++axis) {
            x += s->x_step[axis];
            y += s->y_step[axis];
            if (++index[axis] < s->size[axis])
                break;
            x -= s->size[axis] * s->x_step[axis];
            y -= s->size[axis] * s->y_step[axis];
            index[axis] = 0;
        }
    } while (axis < s->axes);
    return LKS_OK;
}

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_permute) = {
    .name = "permute",
    .prepare = permute_prepare,
    .run = permute_run,
    .release = lks_memory_free,
};
