#include "kernels/cpu/cpu.h"

#include <string.h>

/* Other types than f32 are the matter of bf16.c. */
static lks_status cast_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                               size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_spec_expect_types(spec, "f", "f", NULL));
    int64_t elements = lks_spec_elements(&spec->inputs[0]), *state;
    LKS_TRY(lks_spec_expect_elements(spec, "y", &spec->outputs[0], elements));
    LKS_TRY(LKS_NEW(&state));
    *state = elements;
    *out = state;
    return LKS_OK;
}

static lks_status cast_run(void *state, const lks_kernel_run *run)
{
    int64_t elements = *(const int64_t *)state;
    const float *x = run->inputs[0];
    float *y = run->outputs[0];
    if (run->accumulate[0])
        for (int64_t i = 0; i < elements; ++i)
            y[i] += x[i];
    else
        memmove(y, x, (size_t)elements * sizeof *y);
    return LKS_OK;
}

extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_cast);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_cast) = {"cast", cast_prepare, cast_run,
                                                             lks_memory_free};
