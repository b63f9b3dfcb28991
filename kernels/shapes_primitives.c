#include "kernels/shapes.h"

/* --- Elementwise ---------------------------------------------------------------------- */

static lks_status expect_function(const lks_kernel_spec *spec)
{
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_unary_attributes *attributes = spec->attributes;
    if (attributes->function > LKS_UNARY_AFFINE)
        return lks_spec_refuse(spec, "unknown function %d", (int)attributes->function);
    return LKS_OK;
}

lks_status lks_shapes_expect_unary(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "t", "t", compute));
    LKS_TRY(lks_spec_expect_shape(spec, "y", &spec->outputs[0], &spec->inputs[0].shape));
    return expect_function(spec);
}

lks_status lks_shapes_expect_unary_grad(const lks_kernel_spec *spec, lks_dtype *compute)
{
    const lks_shape *shape = &spec->inputs[0].shape;
    LKS_TRY(lks_spec_expect_types(spec, "ttt", "g", compute));
    LKS_TRY(lks_spec_expect_shape(spec, "x", &spec->inputs[1], shape));
    LKS_TRY(lks_spec_expect_shape(spec, "y", &spec->inputs[2], shape));
    LKS_TRY(lks_spec_expect_shape(spec, "dx", &spec->outputs[0], shape));
    return expect_function(spec);
}

static bool is_suffix(const lks_shape *suffix, const lks_shape *shape)
{
    int skip = shape->axes - suffix->axes;
    if (skip < 0)
        return false;
    for (int i = 0; i < suffix->axes; ++i)
        if (suffix->size[i] != shape->size[skip + i])
            return false;
    return true;
}

lks_status lks_shapes_expect_binary(const lks_kernel_spec *spec, lks_dtype *compute)
{
    const lks_shape *a = &spec->inputs[0].shape, *b = &spec->inputs[1].shape;
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_binary_attributes *attributes = spec->attributes;
    LKS_TRY(lks_spec_expect_types(spec, "tt", "g", compute));
    LKS_TRY(lks_spec_expect_shape(spec, "y", &spec->outputs[0], a));
    if (!is_suffix(b, a))
        return lks_spec_refuse(spec, "the shape of b is no suffix of that of a");
    if (attributes->function > LKS_BINARY_DIVIDE)
        return lks_spec_refuse(spec, "unknown function %d", (int)attributes->function);
    return LKS_OK;
}

/* --- Matrices and rows ---------------------------------------------------------------- */

static lks_status expect_leading_axes(const lks_kernel_spec *spec)
{
    const lks_shape *a = &spec->inputs[0].shape, *b = &spec->inputs[1].shape;
    if (a->axes < 2 || b->axes < 2)
        return lks_spec_refuse(spec, "a matrix has at least two axes");
    bool same = a->axes == b->axes;
    for (int i = 0; same && i < a->axes - 2; ++i)
        same = a->size[i] == b->size[i];
    return same ? LKS_OK : lks_spec_refuse(spec, "the leading axes of a and b differ");
}

lks_status lks_shapes_expect_matmul(const lks_kernel_spec *spec, lks_matmul_sizes *out,
                                    lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "tt", "g", compute));
    LKS_TRY(lks_spec_expect_attributes(spec));
    LKS_TRY(expect_leading_axes(spec));
    const lks_matmul_attributes *attributes = spec->attributes;
    lks_shape wanted = spec->inputs[0].shape;
    int row = wanted.axes - 2, column = wanted.axes - 1;
    const int64_t *a = spec->inputs[0].shape.size, *b = spec->inputs[1].shape.size;
    int64_t m = a[attributes->transpose_a ? column : row];
    int64_t k = a[attributes->transpose_a ? row : column];
    int64_t b_rows = b[attributes->transpose_b ? column : row];
    int64_t n = b[attributes->transpose_b ? row : column];
    if (k != b_rows)
        return lks_spec_refuse(spec, "op(a) has %lld columns, op(b) %lld rows", (long long)k,
                               (long long)b_rows);
    wanted.size[row] = m;
    wanted.size[column] = n;
    *out = (lks_matmul_sizes){lks_spec_elements(&spec->inputs[0]) / (m * k), m, n, k};
    return lks_spec_expect_shape(spec, "c", &spec->outputs[0], &wanted);
}

static lks_status expect_axes(const lks_kernel_spec *spec)
{
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_softmax_attributes *attributes = spec->attributes;
    int wanted = attributes->causal ? 2 : 1;
    if (spec->inputs[0].shape.axes < wanted)
        return lks_spec_refuse(spec, "%d axes, %d wanted%s", spec->inputs[0].shape.axes, wanted,
                               attributes->causal ? " where it is causal" : "");
    return LKS_OK;
}

lks_status lks_shapes_expect_softmax(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "t", "t", compute));
    LKS_TRY(lks_spec_expect_shape(spec, "y", &spec->outputs[0], &spec->inputs[0].shape));
    return expect_axes(spec);
}

lks_status lks_shapes_expect_softmax_grad(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "tt", "g", compute));
    LKS_TRY(lks_spec_expect_shape(spec, "y", &spec->inputs[1], &spec->inputs[0].shape));
    LKS_TRY(lks_spec_expect_shape(spec, "dx", &spec->outputs[0], &spec->inputs[0].shape));
    return expect_axes(spec);
}

/* --- Views of three axes ---------------------------------------------------------------- */

static lks_status expect_view(const lks_kernel_spec *spec, bool expand, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "t", "g", compute));
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_reduce_attributes *a = spec->attributes;
    if (a->outer < 1 || a->middle < 1 || a->inner < 1)
        return lks_spec_refuse(spec, "view %lld x %lld x %lld has no elements", (long long)a->outer,
                               (long long)a->middle, (long long)a->inner);
    int64_t narrow = a->outer * a->inner, wide = narrow * a->middle;
    LKS_TRY(lks_spec_expect_elements(spec, "x", &spec->inputs[0], expand ? narrow : wide));
    return lks_spec_expect_elements(spec, "y", &spec->outputs[0], expand ? wide : narrow);
}

lks_status lks_shapes_expect_reduce(const lks_kernel_spec *spec, lks_dtype *compute)
{
    return expect_view(spec, false, compute);
}

lks_status lks_shapes_expect_expand(const lks_kernel_spec *spec, lks_dtype *compute)
{
    return expect_view(spec, true, compute);
}

static bool range_fits(const lks_slice_attributes *a)
{
    return a->outer > 0 && a->middle > 0 && a->inner > 0 && a->length > 0 && a->begin >= 0 &&
           a->length <= a->middle && a->begin <= a->middle - a->length;
}

static lks_status expect_range(const lks_kernel_spec *spec, bool scatter, lks_slice_sizes *out)
{
    LKS_TRY(lks_spec_expect_types(spec, "x", "x", NULL));
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_slice_attributes *a = spec->attributes;
    if (!range_fits(a))
        return lks_spec_refuse(spec, "range [%lld, +%lld) of a middle axis of %lld",
                               (long long)a->begin, (long long)a->length, (long long)a->middle);
    lks_dtype from = spec->inputs[0].dtype, to = spec->outputs[0].dtype;
    if (from != to && !(from == LKS_BF16 && to == LKS_F32))
        return lks_spec_refuse(spec, "x and y differ in type");
    *out = (lks_slice_sizes){.outer = a->outer,
                             .whole = a->middle * a->inner,
                             .part = a->length * a->inner,
                             .offset = a->begin * a->inner};
    int64_t part = out->outer * out->part, whole = out->outer * out->whole;
    LKS_TRY(lks_spec_expect_elements(spec, "x", &spec->inputs[0], scatter ? part : whole));
    return lks_spec_expect_elements(spec, "y", &spec->outputs[0], scatter ? whole : part);
}

lks_status lks_shapes_expect_slice(const lks_kernel_spec *spec, lks_slice_sizes *out)
{
    return expect_range(spec, false, out);
}

lks_status lks_shapes_expect_unslice(const lks_kernel_spec *spec, lks_slice_sizes *out)
{
    return expect_range(spec, true, out);
}

/* --- Permutations ----------------------------------------------------------------------- */

static lks_status expect_order(const lks_kernel_spec *spec)
{
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_permute_attributes *attributes = spec->attributes;
    const lks_shape *x = &spec->inputs[0].shape;
    lks_shape wanted = {.axes = x->axes};
    unsigned seen = 0;
    for (int i = 0; i < x->axes; ++i) {
        int from = attributes->order[i];
        if (from < 0 || from >= x->axes || (seen >> from & 1))
            return lks_spec_refuse(spec, "order[%d] = %d makes no permutation", i, from);
        seen |= 1u << from;
        wanted.size[i] = x->size[from];
    }
    return lks_spec_expect_shape(spec, "y", &spec->outputs[0], &wanted);
}

typedef struct joined_axes {
    int count;
    int64_t size[LKS_AXES_MAX], x_step[LKS_AXES_MAX]; /* in y's order */
} joined_axes;

static joined_axes join_axes(const lks_shape *x, const int *order)
{
    joined_axes joined = {0};
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

static lks_permutation plan_permutation(const joined_axes *joined)
{
    lks_permutation plan = {.outer = 1, .rows = 1, .columns = 1, .column_x_step = 1};
    int last = joined->count - 1;
    int64_t y_step = 1;
    for (int i = last; i >= 0; y_step *= joined->size[i--]) {
        if (i == last) {
            plan.columns = joined->size[i];
            plan.column_x_step = joined->x_step[i];
        } else if (joined->x_step[i] == 1) {
            plan.rows = joined->size[i];
            plan.row_y_step = y_step;
        } else {
            plan.size[plan.axes] = joined->size[i];
            plan.x_step[plan.axes] = joined->x_step[i];
            plan.y_step[plan.axes++] = y_step;
            plan.outer *= joined->size[i];
        }
    }
    return plan;
}

lks_status lks_shapes_expect_permute(const lks_kernel_spec *spec, lks_permutation *out,
                                     lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "t", "g", compute));
    LKS_TRY(expect_order(spec));
    const lks_permute_attributes *attributes = spec->attributes;
    joined_axes joined = join_axes(&spec->inputs[0].shape, attributes->order);
    *out = plan_permutation(&joined);
    return LKS_OK;
}
