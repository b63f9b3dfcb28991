/* The calls of device.h, passed to the driver that the handle belongs to. */
#include "kernels/device_driver.h"
#include "kernels/profile.h"
#include "kernels/totals.h"

#include "runtime/base/log.h"
#include "runtime/base/memory.h"
#include "runtime/base/module.h"
#include "runtime/base/text.h"

#include <string.h>
#include <unistd.h>

typedef enum flat_call { SUM, ADD, ROUND, SUM_STATS, TOTAL, UPDATE, COPY, FLAT_CALLS } flat_call;
static const char *const flat_names[FLAT_CALLS] = {"sum_blocks", "add",    "round", "sum_stats",
                                                   "total",      "update", "copy"};

struct lks_device {
    const lks_device_driver *driver;
    void *instance;
    lks_profile profile;
    lks_profile_line flat[FLAT_CALLS];
};

struct lks_kernel {
    const lks_kernel_driver *driver;
    const char *name;
    void *state;
    size_t workspace;
    lks_profile_line line;
    lks_cost cost;
    bool wants_input[LKS_KERNEL_TENSORS_MAX], wants_output[LKS_KERNEL_TENSORS_MAX];
};

static lks_status fail_unknown(const char *name)
{
    lks_text known = {0};
    for (const lks_device_driver *const *d = lks_device_drivers; *d; ++d)
        lks_text_append(&known, ", %s", (*d)->name);
    lks_status status =
        LKS_FAIL(LKS_ERR_USAGE, "device.name \"%s\" is unknown: there are auto%s, cuda", name,
                 known.data ? known.data : "");
    lks_text_release(&known);
    return status;
}

static lks_status find_cuda(const lks_device_driver **out)
{
    const void *symbol = NULL;
    LKS_TRY(lks_module_symbol("cuda", "lks_cuda_device_driver", &symbol));
    *out = symbol;
    return LKS_OK;
}

/* "cpu:x86-64-v3" is driver "cpu", variant "x86-64-v3". */
static lks_status find_named(const char *name, const lks_device_driver **out, const char **variant)
{
    size_t length = strcspn(name, ":");
    *variant = name[length] ? name + length + 1 : NULL;
    for (const lks_device_driver *const *d = lks_device_drivers; *d; ++d)
        if (strlen((*d)->name) == length && !strncmp((*d)->name, name, length)) {
            *out = *d;
            return LKS_OK;
        }
    if (length != strlen("cuda") || strncmp(name, "cuda", length) != 0)
        return fail_unknown(name);
    LKS_TRY(find_cuda(out));
    return (*out)->available();
}

static lks_status find_driver(const char *name, const lks_device_driver **out, const char **variant)
{
    if (strcmp(name, "auto") != 0)
        return find_named(name, out, variant);
    *variant = NULL;
    bool gpu = access("/dev/nvidiactl", F_OK) == 0;
    if (gpu && find_cuda(out) == LKS_OK && (*out)->available() == LKS_OK)
        return LKS_OK;
    if (gpu)
        lks_log_warn("device auto takes the cpu: %s", lks_status_message());
    *out = lks_device_drivers[0];
    return LKS_OK;
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
    lks_profile_init(&device->profile, driver, device->instance);
    for (int i = 0; i < FLAT_CALLS; ++i)
        lks_profile_add(&device->profile, &device->flat[i], flat_names[i]);
    *out = device;
    return LKS_OK;
}

void lks_device_close(lks_device *device)
{
    if (!device)
        return;
    lks_profile_release(&device->profile);
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

bool lks_device_is_host(const lks_device *device)
{
    return device->driver->is_host;
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

lks_status lks_device_copy(lks_device *device, void *to, const void *from, size_t bytes)
{
    LKS_TRY(lks_profile_enter(&device->flat[COPY]));
    LKS_TRY(device->driver->copy(device->instance, to, from, bytes));
    return lks_profile_leave(&device->flat[COPY], 2.0 * (double)bytes, 0);
}

lks_status lks_device_synchronize(lks_device *device)
{
    return device->driver->is_host ? LKS_OK : device->driver->synchronize(device->instance);
}

uint64_t lks_device_waits(const lks_device *device)
{
    return device->driver->is_host ? 0 : device->driver->waits(device->instance);
}

/* --- Uploads ----------------------------------------------------------------- */

lks_status lks_device_pin(lks_device *device, void *host, size_t bytes)
{
    if (device->driver->is_host || bytes == 0)
        return LKS_OK;
    return device->driver->pin(device->instance, host, bytes);
}

void lks_device_unpin(lks_device *device, void *host, size_t bytes)
{
    if (!device->driver->is_host && bytes > 0)
        device->driver->unpin(device->instance, host, bytes);
}

lks_status lks_device_upload_begin(lks_device *device, int slot)
{
    return device->driver->is_host ? LKS_OK : device->driver->upload_begin(device->instance, slot);
}

lks_status lks_device_upload(lks_device *device, void *to_device, const void *from_host,
                             size_t bytes)
{
    const lks_device_driver *driver = device->driver;
    return (driver->is_host ? driver->copy_in : driver->upload)(device->instance, to_device,
                                                                from_host, bytes);
}

lks_status lks_device_upload_end(lks_device *device, int slot)
{
    return device->driver->is_host ? LKS_OK : device->driver->upload_end(device->instance, slot);
}

lks_status lks_device_upload_release(lks_device *device, int slot)
{
    return device->driver->is_host ? LKS_OK
                                   : device->driver->upload_release(device->instance, slot);
}

lks_status lks_device_upload_wait(lks_device *device, int slot)
{
    return device->driver->is_host ? LKS_OK : device->driver->upload_wait(device->instance, slot);
}

/* --- Recordings and ranges --------------------------------------------------- */

bool lks_device_can_record(const lks_device *device)
{
    return device->driver->record_begin != NULL;
}

lks_status lks_device_record_begin(lks_device *device)
{
    return lks_device_can_record(device) ? device->driver->record_begin(device->instance) : LKS_OK;
}

lks_status lks_device_record_end(lks_device *device, lks_recording **out)
{
    *out = NULL;
    return lks_device_can_record(device) ? device->driver->record_end(device->instance, out)
                                         : LKS_OK;
}

lks_status lks_device_record_launch(lks_device *device, lks_recording *recording)
{
    return device->driver->record_launch(device->instance, recording);
}

void lks_device_record_free(lks_device *device, lks_recording *recording)
{
    if (recording)
        device->driver->record_free(device->instance, recording);
}

lks_status lks_device_profile_begin(lks_device *device)
{
    return lks_profile_begin(&device->profile);
}

lks_status lks_device_profile_end(lks_device *device)
{
    return lks_profile_end(&device->profile);
}

bool lks_device_profiling(const lks_device *device)
{
    return device->profile.running;
}

void lks_device_profile_print(const lks_device *device, struct lks_text *out)
{
    lks_profile_print(&device->profile, out);
}

void lks_device_range_begin(lks_device *device, const char *name)
{
    if (device->driver->range_begin)
        device->driver->range_begin(device->instance, name);
}

void lks_device_range_end(lks_device *device)
{
    if (device->driver->range_end)
        device->driver->range_end(device->instance);
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

/* --- Flat memory ------------------------------------------------------------ */

/* Whether the next partials are the nodes of tree(first, end) in order; *next
 * is left after them. */
static bool covers(const lks_partial **next, const lks_partial *end_partial, int first, int end)
{
    if (*next == end_partial)
        return false;
    if ((*next)->first_lane == first && (*next)->end_lane == end) {
        ++*next;
        return true;
    }
    if (end - first < 2)
        return false;
    int middle = lks_tree_split(first, end);
    return covers(next, end_partial, first, middle) && covers(next, end_partial, middle, end);
}

static lks_status check_partials(const lks_sum *sum)
{
    const lks_partial *next = sum->partials, *end = next + sum->partial_count;
    if (covers(&next, end, 0, sum->lanes) && next == end)
        return LKS_OK;
    if (next == end)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%d partial sums do not cover %d lanes",
                        sum->partial_count, sum->lanes);
    return LKS_FAIL(LKS_ERR_INTERNAL,
                    "partial sum %d, of lanes [%d, %d), is not the next node of the tree over %d "
                    "lanes",
                    (int)(next - sum->partials), next->first_lane, next->end_lane, sum->lanes);
}

lks_status lks_device_sum_blocks(lks_device *device, const lks_sum *sum)
{
    LKS_TRY(check_partials(sum));
    lks_profile_line *line = &device->flat[SUM];
    LKS_TRY(lks_profile_enter(line));
    LKS_TRY(device->driver->sum_blocks(device->instance, sum));
    return lks_profile_leave(line, line->profile->running ? lks_sum_cost(sum).bytes : 0, 0);
}

lks_status lks_device_add(lks_device *device, uint64_t elements, const float *from, float *into)
{
    LKS_TRY(lks_profile_enter(&device->flat[ADD]));
    LKS_TRY(device->driver->add(device->instance, elements, from, into));
    return lks_profile_leave(&device->flat[ADD], 3.0 * sizeof(float) * (double)elements, 0);
}

lks_status lks_device_round(lks_device *device, uint64_t elements, const float *from, uint16_t *to)
{
    LKS_TRY(lks_profile_enter(&device->flat[ROUND]));
    LKS_TRY(device->driver->round(device->instance, elements, from, to));
    return lks_profile_leave(&device->flat[ROUND], 6.0 * (double)elements, 0);
}

lks_status lks_device_update(lks_device *device, const lks_update *update,
                             const lks_update_blocks *what)
{
    bool adam = update->rule == LKS_UPDATE_ADAM;
    bool first_wanted = adam || (update->rule == LKS_UPDATE_SGD && update->momentum != 0);
    if ((first_wanted && !what->states[0]) || (adam && !what->states[1]))
        return LKS_FAIL(LKS_ERR_INTERNAL, "update rule %d: its state is missing",
                        (int)update->rule);
    if (!what->count)
        return LKS_OK;
    lks_profile_line *line = &device->flat[UPDATE];
    LKS_TRY(lks_profile_enter(line));
    LKS_TRY(device->driver->update(device->instance, update, what));
    return lks_profile_leave(line, line->profile->running ? lks_update_cost(update, what).bytes : 0,
                             0);
}

/* --- The numbers of a step ---------------------------------------------------- */

lks_status lks_device_sum_stats(lks_device *device, uint32_t lanes, uint32_t micro_batches,
                                const double *stats, double *sums)
{
    if (device->driver->sum_stats) {
        LKS_TRY(lks_profile_enter(&device->flat[SUM_STATS]));
        LKS_TRY(device->driver->sum_stats(device->instance, lanes, micro_batches, stats, sums));
        return lks_profile_leave(&device->flat[SUM_STATS], 0, 0);
    }
    for (uint32_t i = 0; i < lanes * LKS_STATS; ++i)
        sums[i] = lks_totals_stat(stats, micro_batches, i / LKS_STATS, i % LKS_STATS);
    return LKS_OK;
}

lks_status lks_device_total(lks_device *device, const lks_totals_spec *spec, lks_totals *out)
{
    if (device->driver->total) {
        LKS_TRY(lks_profile_enter(&device->flat[TOTAL]));
        LKS_TRY(device->driver->total(device->instance, spec, out));
        return lks_profile_leave(&device->flat[TOTAL], 0, 0);
    }
    *out = lks_totals_none();
    for (uint32_t lane = 0; lane < spec->lanes; ++lane)
        lks_totals_add_lane(out, spec->lane_sums + (size_t)lane * LKS_STATS, lane);
    for (uint32_t block = 0; block < spec->blocks; ++block)
        if (spec->counted[block])
            lks_totals_add_block(out, spec->square_sums[block], block);
    lks_totals_finish(out, spec->clip_norm);
    return LKS_OK;
}
