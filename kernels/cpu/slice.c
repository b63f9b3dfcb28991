/* "slice" and "unslice": a range of the middle axis of outer x middle x inner. */
#include "kernels/cpu/cpu.h"

#include <string.h>

typedef struct slice_state {
    size_t outer;
    size_t whole, part, offset; /* elements of one outer entry: all, the range, before the range */
    size_t element_bytes;
    bool is_f32;
} slice_state;

static lks_status slice_create(void **state, const lks_kernel_spec *spec, bool scatter)
{
    lks_slice_sizes size;
    LKS_TRY(scatter ? lks_shapes_expect_unslice(spec, &size)
                    : lks_shapes_expect_slice(spec, &size));
    slice_state *s;
    LKS_TRY(LKS_NEW(&s));
    s->outer = (size_t)size.outer;
    s->whole = (size_t)size.whole;
    s->part = (size_t)size.part;
    s->offset = (size_t)size.offset;
    s->element_bytes = lks_dtype_bytes(spec->inputs[0].dtype);
    s->is_f32 = spec->inputs[0].dtype == LKS_F32;
    *state = s;
    return LKS_OK;
}

static lks_status slice_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                size_t *workspace)
{
    (void)device;
    *workspace = 0;
    return slice_create(state, spec, false);
}

static lks_status unslice_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                  size_t *workspace)
{
    (void)device;
    *workspace = 0;
    return slice_create(state, spec, true);
}

static void slice_add(size_t n, const float *x, float *y)
{
#pragma omp simd
    for (size_t i = 0; i < n; ++i)
        y[i] += x[i];
}

/* y[o, y_offset + i] (+)= x[o, x_offset + i] for i < part; strides are x_step and y_step. */
static lks_status slice_move(const slice_state *s, const lks_kernel_run *run, size_t x_step,
                             size_t x_offset, size_t y_step, size_t y_offset)
{
    const char *x = run->inputs[0];
    char *y = run->outputs[0];
    size_t size = s->element_bytes;
    if (run->accumulate[0] && !s->is_f32)
        return LKS_FAIL(LKS_ERR_INTERNAL, "kernel slice: only f32 can be accumulated");
    for (size_t o = 0; o < s->outer; ++o) {
        const char *from = x + (o * x_step + x_offset) * size;
        char *to = y + (o * y_step + y_offset) * size;
        if (run->accumulate[0])
            slice_add(s->part, (const float *)(const void *)from, (float *)(void *)to);
        else
            memcpy(to, from, s->part * size);
    }
    return LKS_OK;
}

static lks_status slice_run(void *state, const lks_kernel_run *run)
{
    const slice_state *s = state;
    return slice_move(s, run, s->whole, s->offset, s->part, 0);
}

static lks_status unslice_run(void *state, const lks_kernel_run *run)
{
    const slice_state *s = state;
    char *y = run->outputs[0];
    size_t size = s->element_bytes, after = s->offset + s->part;
    for (size_t o = 0; o < s->outer && !run->accumulate[0]; ++o, y += s->whole * size) {
        memset(y, 0, s->offset * size);
        memset(y + after * size, 0, (s->whole - after) * size);
    }
    return slice_move(s, run, s->part, 0, s->whole, s->offset);
}

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_slice) = {
    .name = "slice",
    .prepare = slice_prepare,
    .run = slice_run,
    .release = lks_memory_free,
};

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_unslice) = {
    .name = "unslice",
    .prepare = unslice_prepare,
    .run = unslice_run,
    .release = lks_memory_free,
};
