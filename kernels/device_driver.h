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

typedef struct lks_device_driver {
    const char *name;
    const char *about; /* one line */
    /* `variant`: what stood after a colon in the device's name; NULL: choose. */
    lks_status (*open)(void **instance, const char *variant, int local_rank);
    void (*close)(void *instance);
    const char *(*arithmetic)(void *instance);
    lks_status (*allocate)(void *instance, size_t bytes, void **out);
    void (*free)(void *instance, void *memory, size_t bytes);
    lks_status (*copy_in)(void *instance, void *to_device, const void *from_host, size_t bytes);
    lks_status (*copy_out)(void *instance, void *to_host, const void *from_device, size_t bytes);
    lks_status (*sum_partials)(void *instance, const lks_partial *partials, int partial_count,
                               int lanes, uint64_t elements, float *out, double *square_sum);
    lks_status (*add)(void *instance, uint64_t elements, const float *from, float *into);
    lks_status (*update)(void *instance, const lks_update *update, uint64_t elements,
                         const float *gradient, float *parameter, float *state0, float *state1);
    /* NULL-terminated; from the registry that Meson writes. */
    const lks_kernel_driver *const *(*kernels)(void *instance);
} lks_device_driver;

/* The instance behind a handle, for the device's own kernels. */
void *lks_device_instance(const lks_device *device);

/* NULL-terminated; written by Meson. */
extern const lks_device_driver *const lks_device_drivers[];

#endif
