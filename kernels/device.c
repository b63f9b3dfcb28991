/* The calls of device.h, passed to the driver that the handle belongs to. */
#include "kernels/device_private.h"

#include "runtime/base/log.h"
#include "runtime/base/memory.h"
#include "runtime/base/module.h"
#include "runtime/base/text.h"

#include <string.h>
#include <unistd.h>

static const char *const flat_names[LKS_FLAT_CALLS] = {"sum_blocks", "add",    "round", "sum_stats",
                                                       "total",      "update", "copy"};

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
    for (int i = 0; i < LKS_FLAT_CALLS; ++i)
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
    LKS_TRY(lks_profile_enter(&device->flat[LKS_FLAT_COPY]));
    LKS_TRY(device->driver->copy(device->instance, to, from, bytes));
    return lks_profile_leave(&device->flat[LKS_FLAT_COPY], 2.0 * (double)bytes, 0);
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
