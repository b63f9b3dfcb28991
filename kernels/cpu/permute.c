/* "permute": axes in another order. */
#include "kernels/cpu/cpu.h"

enum { PERMUTE_TILE = 16 };

/* y[outer..., row, column] = x[outer..., column, row] after neighbouring axes that stay
 * neighbours are joined: along a row's index x is contiguous, along a column's y is. Where the
 * last axis stays last, there is one row and both are contiguous along the columns. */
typedef struct permute_state {
    int axes; /* outer ones */
    int64_t size[LKS_AXES_MAX], x_step[LKS_AXES_MAX], y_step[LKS_AXES_MAX];
    int64_t rows, row_y_step;
    int64_t columns, column_x_step;
} permute_state;

typedef struct permute_axes {
    int count;
    int64_t size[LKS_AXES_MAX], x_step[LKS_AXES_MAX]; /* in y's order */
} permute_axes;

static lks_status permute_check(const lks_kernel_spec *spec)
{
    const lks_permute_attributes *attributes = spec->attributes;
    const lks_shape *x = &spec->inputs[0].shape;
    lks_shape wanted = {.axes = x->axes};
    unsigned seen = 0;
    for (int i = 0; i < x->axes; ++i) {
        int from = attributes->order[i];
        if (from < 0 || from >= x->axes || (seen >> from & 1))
            return lks_cpu_refuse(spec, "order[%d] = %d makes no permutation", i, from);
        seen |= 1u << from;
        wanted.size[i] = x->size[from];
    }
    return lks_cpu_expect_shape(spec, "y", &spec->outputs[0], &wanted);
}

static permute_axes permute_join(const lks_shape *x, const int *order)
{
    permute_axes joined = {0};
    int64_t step[LKS_AXES_MAX];
    int64_t elements = 1;
    for (int i = x->axes - 1; i >= 0; --i) {
        step[i] = elements;
        elements *= x->size[i];
    }
    for (int i = 0; i < x->axes; ++i) {
        int64_t size = x->size[order[i]], x_step = step[order[i]];
        int last = joined.count - 1;
        if (size == 1)
            continue;
        if (last >= 0 && joined.x_step[last] == size * x_step) {
            joined.size[last] *= size;
            joined.x_step[last] = x_step;
            continue;
        }
        joined.size[joined.count] = size;
        joined.x_step[joined.count++] = x_step;
    }
    return joined;
}

static void permute_plan(permute_state *s, const permute_axes *joined)
{
    int last = joined->count - 1;
    int64_t y_step = 1;
    *s = (permute_state){.rows = 1, .columns = 1, .column_x_step = 1};
    for (int i = last; i >= 0; y_step *= joined->size[i--]) {
        if (i == last) {
            s->columns = joined->size[i];
            s->column_x_step = joined->x_step[i];
        } else if (joined->x_step[i] == 1) {
            s->rows = joined->size[i];
            s->row_y_step = y_step;
        } else {
            s->size[s->axes] = joined->size[i];
            s->x_step[s->axes] = joined->x_step[i];
            s->y_step[s->axes++] = y_step;
        }
    }
}

static lks_status permute_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                  size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_cpu_expect_types(spec, "f", "f"));
    LKS_TRY(lks_cpu_expect_attributes(spec));
    LKS_TRY(permute_check(spec));
    const lks_permute_attributes *attributes = spec->attributes;
    permute_axes joined = permute_join(&spec->inputs[0].shape, attributes->order);
    permute_state *s;
    LKS_TRY(LKS_NEW(&s));
    permute_plan(s, &joined);
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

static void permute_matrix(const permute_state *s, const float *x, bool accumulate, float *y)
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
    const permute_state *s = state;
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
