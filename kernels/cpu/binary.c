/* "binary": elementwise functions of two tensors, the second broadcast over leading axes. */
#include "kernels/cpu/cpu.h"

typedef struct binary_state {
    lks_binary_function function;
    size_t outer, inner; /* inner: elements of b */
} binary_state;

static lks_status binary_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    (void)device;
    *workspace = 0;
    const lks_shape *a = &spec->inputs[0].shape, *b = &spec->inputs[1].shape;
    LKS_TRY(lks_shapes_expect_binary(spec, NULL));
    binary_state *s;
    LKS_TRY(LKS_NEW(&s));
    s->function = ((const lks_binary_attributes *)spec->attributes)->function;
    s->inner = lks_shape_elements(b);
    s->outer = lks_shape_elements(a) / s->inner;
    *state = s;
    return LKS_OK;
}

/* y[i] (+)= `value`, an expression of l = a[i] and r = b[i], or b[0] where b is one number. */
#define BINARY_EACH(value)                                                                         \
    for (size_t o = 0; o < outer; ++o, a += inner, y += inner) {                                   \
        _Pragma("omp simd") for (size_t i = 0; i < inner; ++i)                                     \
        {                                                                                          \
            const float l = a[i], r = b[i * step];                                                 \
            const float v = (value);                                                               \
            y[i] = accumulate ? y[i] + v : v;                                                      \
        }                                                                                          \
    }                                                                                              \
    break

static inline __attribute__((always_inline)) void
binary_apply(lks_binary_function function, size_t outer, size_t inner, size_t step, bool accumulate,
             const float *a, const float *b, float *y)
{
    switch (function) {
    case LKS_BINARY_ADD:
        BINARY_EACH(l + r);
    case LKS_BINARY_SUBTRACT:
        BINARY_EACH(l - r);
    case LKS_BINARY_MULTIPLY:
        BINARY_EACH(l * r);
    case LKS_BINARY_DIVIDE:
        BINARY_EACH(l / r);
    }
}

static lks_status binary_run(void *state, const lks_kernel_run *run)
{
    const binary_state *s = state;
    const float *a = run->inputs[0], *b = run->inputs[1];
    float *y = run->outputs[0];
    bool accumulate = run->accumulate[0];
    if (s->inner == 1)
        binary_apply(s->function, 1, s->outer, 0, accumulate, a, b, y);
    else
        binary_apply(s->function, s->outer, s->inner, 1, accumulate, a, b, y);
    return LKS_OK;
}

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_binary) = {
    .name = "binary",
    .prepare = binary_prepare,
    .run = binary_run,
    .release = lks_memory_free,
};
