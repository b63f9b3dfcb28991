/* The calls of device.h, passed to the driver that the handle belongs to. */
#include "kernels/device_driver.h"

#include "runtime/base/hash.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"

#include <string.h>

struct lks_device {
    const lks_device_driver *driver;
    void *instance;
};

struct lks_kernel {
    const lks_kernel_driver *driver;
    void *state;
    size_t workspace;
    bool wants_input[LKS_KERNEL_TENSORS_MAX], wants_output[LKS_KERNEL_TENSORS_MAX];
};

static lks_status fail_unknown(const char *name)
{
    lks_text known = {0};
    for (const lks_device_driver *const *d = lks_device_drivers; *d; ++d)
        lks_text_append(&known, "%s%s", known.length ? ", " : "", (*d)->name);
    lks_status status = LKS_FAIL(LKS_ERR_USAGE, "device %s: unknown; this build has %s", name,
                                 known.data ? known.data : "none");
    lks_text_release(&known);
    return status;
}

/* "cpu:x86-64-v3" is driver "cpu", variant "x86-64-v3". */
static lks_status find_driver(const char *name, const lks_device_driver **out, const char **variant)
{
    size_t length = strcspn(name, ":");
    *variant = name[length] ? name + length + 1 : NULL;
    for (const lks_device_driver *const *d = lks_device_drivers; *d; ++d) {
        bool same = strlen((*d)->name) == length && !strncmp((*d)->name, name, length);
        if (same || !strcmp(name, "auto")) {
            *out = *d;
            return LKS_OK;
        }
    }
    return fail_unknown(name);
}

lks_status lks_device_open(lks_device **out, const char *name, int local_rank)
{
    const lks_device_driver *driver = NULL;
    const char *variant = NULL;
    *out = NULL;
    LKS_TRY(find_driver(name, &driver, &variant));
    lks_device *device;
    LKS_TRY(LKS_NEW(&device));
    device->driver = driver;
    lks_status status = driver->open(&device->instance, variant, local_rank);
    if (status != LKS_OK) {
        lks_memory_free(device);
        return status;
    }
    *out = device;
    return LKS_OK;
}

void lks_device_close(lks_device *device)
{
    if (!device)
        return;
    device->driver->close(device->instance);
    lks_memory_free(device);
}

const char *lks_device_name(const lks_device *device)
{
    return device->driver->name;
}

const char *lks_device_arithmetic(const lks_device *device)
{
    return device->driver->arithmetic(device->instance);
}

void *lks_device_instance(const lks_device *device)
{
    return device->instance;
}

lks_status lks_device_allocate(lks_device *device, size_t bytes, void **out)
{
    return device->driver->allocate(device->instance, bytes, out);
}

void lks_device_free(lks_device *device, void *memory, size_t bytes)
{
    device->driver->free(device->instance, memory, bytes);
}

lks_status lks_device_copy_in(lks_device *device, void *to_device, const void *from_host,
                              size_t bytes)
{
    return device->driver->copy_in(device->instance, to_device, from_host, bytes);
}

lks_status lks_device_copy_out(lks_device *device, void *to_host, const void *from_device,
                               size_t bytes)
{
    return device->driver->copy_out(device->instance, to_host, from_device, bytes);
}

/* --- Kernels ---------------------------------------------------------------- */

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

lks_status lks_kernel_prepare(lks_kernel **out, lks_device *device, const lks_kernel_spec *spec)
{
    const lks_kernel_driver *driver = NULL;
    *out = NULL;
    LKS_TRY(check_counts(spec));
    LKS_TRY(find_kernel(device, spec->kernel, &driver));
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
    *out = kernel;
    return LKS_OK;
}

void lks_kernel_release(lks_kernel *kernel)
{
    if (!kernel)
        return;
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
            return LKS_FAIL(LKS_ERR_INTERNAL, "kernel %s: input %d is NULL", kernel->driver->name,
                            i);
        if (kernel->wants_output[i] && !(outputs[i] = run->outputs[i]))
            return LKS_FAIL(LKS_ERR_INTERNAL, "kernel %s: output %d is NULL", kernel->driver->name,
                            i);
        if (kernel->wants_output[i] && run->accumulate)
            accumulate[i] = run->accumulate[i];
    }
    lks_kernel_run padded = {inputs, outputs, accumulate, run->workspace, run->context};
    return kernel->driver->run(kernel->state, &padded);
}

/* --- Flat memory ------------------------------------------------------------ */

lks_status lks_device_sum_partials(lks_device *device, const lks_partial *partials,
                                   int partial_count, int lanes, uint64_t elements, float *out,
                                   double *square_sum)
{
    return device->driver->sum_partials(device->instance, partials, partial_count, lanes, elements,
                                        out, square_sum);
}

lks_status lks_device_add(lks_device *device, uint64_t elements, const float *from, float *into)
{
    return device->driver->add(device->instance, elements, from, into);
}

lks_status lks_device_update(lks_device *device, const lks_update *update, uint64_t elements,
                             const float *gradient, float *parameter, float *state0, float *state1)
{
    return device->driver->update(device->instance, update, elements, gradient, parameter, state0,
                                  state1);
}
