/* Kernels: found by name, prepared for a spec, run. */
#include "kernels/device_private.h"
#include "runtime/base/memory.h"

#include <string.h>

struct lks_kernel {
    const lks_kernel_driver *driver;
    const char *name;
    void *state;
    size_t workspace;
    lks_profile_line line;
    lks_cost cost;
    bool wants_input[LKS_KERNEL_TENSORS_MAX], wants_output[LKS_KERNEL_TENSORS_MAX];
};

static lks_status check_counts(const lks_kernel_spec *spec)
{
    if (spec->input_count < 0 || spec->input_count > LKS_KERNEL_TENSORS_MAX ||
        spec->output_count < 0 || spec->output_count > LKS_KERNEL_TENSORS_MAX)
        return LKS_FAIL(LKS_ERR_INTERNAL, "kernel %s: %d inputs and %d outputs, at most %d each",
                        spec->kernel, spec->input_count, spec->output_count,
                        LKS_KERNEL_TENSORS_MAX);
    return LKS_OK;
}

static lks_status find_kernel(const lks_device *device, const char *name,
                              const lks_kernel_driver **out)
{
    for (const lks_kernel_driver *const *k = device->driver->kernels(device->instance); *k; ++k)
        if (!strcmp((*k)->name, name)) {
            *out = *k;
            return LKS_OK;
        }
    return LKS_FAIL(LKS_ERR_INTERNAL, "device %s has no kernel \"%s\"", device->driver->name, name);
}

static bool has_bf16(const lks_kernel_spec *spec)
{
    bool found = false;
    for (int i = 0; i < spec->input_count; ++i)
        found |= spec->inputs[i].dtype == LKS_BF16;
    for (int i = 0; i < spec->output_count; ++i)
        found |= spec->outputs[i].dtype == LKS_BF16;
    return found;
}

lks_status lks_kernel_prepare(lks_kernel **out, lks_device *device, const lks_kernel_spec *spec)
{
    const lks_kernel_driver *named = NULL;
    *out = NULL;
    LKS_TRY(check_counts(spec));
    LKS_TRY(find_kernel(device, spec->kernel, &named));
    bool rounds = device->driver->bf16 && has_bf16(spec);
    const lks_kernel_driver *driver = rounds ? device->driver->bf16 : named;
    lks_kernel_tensor inputs[LKS_KERNEL_TENSORS_MAX] = {0};
    lks_kernel_tensor outputs[LKS_KERNEL_TENSORS_MAX] = {0};
    lks_kernel_spec padded = {.kernel = spec->kernel,
                              .attributes = spec->attributes,
                              .inputs = inputs,
                              .input_count = LKS_KERNEL_TENSORS_MAX,
                              .outputs = outputs,
                              .output_count = LKS_KERNEL_TENSORS_MAX};
    lks_kernel *kernel;
    LKS_TRY(LKS_NEW(&kernel));
    kernel->driver = driver;
    kernel->name = named->name;
    for (int i = 0; i < spec->input_count; ++i) {
        inputs[i] = spec->inputs[i];
        kernel->wants_input[i] = inputs[i].dtype != LKS_NONE;
    }
    for (int i = 0; i < spec->output_count; ++i) {
        outputs[i] = spec->outputs[i];
        kernel->wants_output[i] = outputs[i].dtype != LKS_NONE;
    }
    lks_status status = driver->prepare(&kernel->state, device, &padded, &kernel->workspace);
    if (status != LKS_OK) {
        lks_memory_free(kernel);
        return status;
    }
    kernel->cost = lks_kernel_cost(&padded);
    lks_profile_describe(&kernel->line, &padded);
    lks_profile_add(&device->profile, &kernel->line, kernel->name);
    *out = kernel;
    return LKS_OK;
}

void lks_kernel_release(lks_kernel *kernel)
{
    if (!kernel)
        return;
    lks_profile_remove(&kernel->line);
    kernel->driver->release(kernel->state);
    lks_memory_free(kernel);
}

size_t lks_kernel_workspace(const lks_kernel *kernel)
{
    return kernel->workspace;
}

lks_status lks_kernel_execute(lks_kernel *kernel, const lks_kernel_run *run)
{
    const void *inputs[LKS_KERNEL_TENSORS_MAX] = {0};
    void *outputs[LKS_KERNEL_TENSORS_MAX] = {0};
    bool accumulate[LKS_KERNEL_TENSORS_MAX] = {0};
    for (int i = 0; i < LKS_KERNEL_TENSORS_MAX; ++i) {
        if (kernel->wants_input[i] && !(inputs[i] = run->inputs[i]))
            return LKS_FAIL(LKS_ERR_INTERNAL, "kernel %s: input %d is NULL", kernel->name, i);
        if (kernel->wants_output[i] && !(outputs[i] = run->outputs[i]))
            return LKS_FAIL(LKS_ERR_INTERNAL, "kernel %s: output %d is NULL", kernel->name, i);
        if (kernel->wants_output[i] && run->accumulate)
            accumulate[i] = run->accumulate[i];
    }
    lks_kernel_run padded = {inputs, outputs, accumulate, run->workspace, run->context};
    double bytes = kernel->cost.bytes;
    for (int i = 0; i < LKS_KERNEL_TENSORS_MAX; ++i)
        bytes += accumulate[i] ? kernel->cost.added_bytes[i] : 0;
    LKS_TRY(lks_profile_enter(&kernel->line));
    LKS_TRY(kernel->driver->run(kernel->state, &padded));
    return lks_profile_leave(&kernel->line, bytes, kernel->cost.flops);
}
