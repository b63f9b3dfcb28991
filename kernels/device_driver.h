/* For those who implement a device. See device.h for what the calls promise. */
#ifndef LKS_KERNELS_DEVICE_DRIVER_H
#define LKS_KERNELS_DEVICE_DRIVER_H

#include "kernels/device.h"

enum { LKS_KERNEL_TENSORS_MAX = 8 }; /* inputs, and outputs, of one kernel */

/* One kernel of one device; each stands as a const at the end of its file.
 * The spec and the run that a driver sees have all LKS_KERNEL_TENSORS_MAX inputs and outputs
 * (absent ones LKS_NONE and NULL), and `accumulate` is never NULL. */
typedef struct lks_kernel_driver {
    const char *name; /* as in ops.h */
    /* Checks the spec, stores what `run` needs in *state and the bytes of
     * workspace that `run` needs in *workspace. May allocate. */
    lks_status (*prepare)(void **state, lks_device *device, const lks_kernel_spec *spec,
                          size_t *workspace);
    /* Allocates nothing. */
    lks_status (*run)(void *state, const lks_kernel_run *run);
    void (*release)(void *state);
} lks_kernel_driver;

/* What device.h promises of each call; a host device leaves NULL what says so. */
typedef struct lks_device_driver {
    const char *name;
    const char *about; /* one line */
    bool is_host;
    /* LKS_OK, or what is missing on this machine. NULL: always there. */
    lks_status (*available)(void);
    /* `variant`: what stood after a colon in the device's name; NULL: choose. */
    lks_status (*open)(void **instance, const char *variant, int local_rank);
    void (*close)(void *instance);
    const char *(*arithmetic)(void *instance);
    lks_status (*allocate)(void *instance, size_t bytes, void **out);
    void (*free)(void *instance, void *memory, size_t bytes);
    lks_status (*copy_in)(void *instance, void *to_device, const void *from_host, size_t bytes);
    lks_status (*copy_out)(void *instance, void *to_host, const void *from_device, size_t bytes);
    lks_status (*copy)(void *instance, void *to, const void *from, size_t bytes);
    /* From here to record_free: NULL on a host device. */
    lks_status (*synchronize)(void *instance);
    uint64_t (*waits)(void *instance);
    lks_status (*pin)(void *instance, void *host, size_t bytes);
    void (*unpin)(void *instance, void *host, size_t bytes);
    lks_status (*upload_begin)(void *instance, int slot);
    lks_status (*upload)(void *instance, void *to_device, const void *from_host, size_t bytes);
    lks_status (*upload_end)(void *instance, int slot);
    lks_status (*upload_release)(void *instance, int slot);
    lks_status (*upload_wait)(void *instance, int slot);
    lks_status (*record_begin)(void *instance); /* NULL: cannot record */
    lks_status (*record_end)(void *instance, lks_recording **out);
    lks_status (*record_launch)(void *instance, lks_recording *recording);
    void (*record_free)(void *instance, lks_recording *recording);
    /* Marks in the device's work, in its order: `span` waits for both and is the time between. NULL on a host device. */
    lks_status (*mark_open)(void *instance, void **out);
    void (*mark_close)(void *instance, void *mark); /* NULL is fine */
    bool (*can_mark)(void *instance); /* false while what is given goes into a link's order */
    lks_status (*mark)(void *instance, void *mark);
    lks_status (*mark_span)(void *instance, void *from, void *to, uint64_t *ns);
    void (*range_begin)(void *instance, const char *name); /* NULL: no profiler */
    void (*range_end)(void *instance);
    /* The partials are known to cover the lanes. */
    lks_status (*sum_blocks)(void *instance, const lks_sum *sum);
    lks_status (*add)(void *instance, uint64_t elements, const float *from, float *into);
    lks_status (*round)(void *instance, uint64_t elements, const float *from, uint16_t *to);
    /* NULL on a host device, as is `total`. */
    lks_status (*sum_stats)(void *instance, uint32_t lanes, uint32_t micro_batches,
                            const double *stats, double *sums);
    lks_status (*total)(void *instance, const lks_totals_spec *spec, lks_totals *out);
    /* The states that the rule needs are there. */
    lks_status (*update)(void *instance, const lks_update *update, const lks_update_blocks *what);
    /* NULL-terminated; from the registry that Meson writes. */
    const lks_kernel_driver *const *(*kernels)(void *instance);
    /* Takes the specs that have bf16 in them instead of the kernel that they name. NULL: the kernels do. */
    const lks_kernel_driver *bf16;
} lks_device_driver;

/* The instance behind a handle, for the device's own kernels. */
void *lks_device_instance(const lks_device *device);

/* Where tree(first, end) of device.h splits, end - first > 1. */
static inline int lks_tree_split(int first, int end)
{
    int size = 1;
    while (size < (end - first + 1) / 2)
        size *= 2;
    return first + size;
}

/* NULL-terminated; written by Meson. Built in; the cuda device comes with a module. */
extern const lks_device_driver *const lks_device_drivers[];

#endif
