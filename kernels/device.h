/* Devices and the kernels that run on them.
 *
 * A kernel is prepared once for fixed shapes (it may allocate and build library
 * primitives then) and run many times (it allocates nothing). What each kernel
 * computes, its inputs, outputs and attributes, is in kernels/ops.h.
 *
 * No kernel's result depends on a thread count, on time or on the addresses it
 * is given. On the cpu device everything runs in the calling thread.
 */
#ifndef LKS_KERNELS_DEVICE_H
#define LKS_KERNELS_DEVICE_H

#include "runtime/base/status.h"
#include "runtime/base/tensor.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lks_device lks_device;
typedef struct lks_kernel lks_kernel;

/* `name`: "cpu" (or a device this build has; "auto" is the best there is), or
 * "cpu:x86-64-v3" for one of the device's variants (README.md). An unknown one
 * is LKS_ERR_USAGE naming those there are. */
lks_status lks_device_open(lks_device **out, const char *name, int local_rank) LKS_MUST_CHECK;
void lks_device_close(lks_device *device); /* NULL is fine */
const char *lks_device_name(const lks_device *device);
/* What the bits depend on: "cpu x86-64-v4 AMD EPYC onednn-2.6.3". Same text, same bits. */
const char *lks_device_arithmetic(const lks_device *device);

/* Memory of the device, 64-byte aligned, zeroed. */
lks_status lks_device_allocate(lks_device *device, size_t bytes, void **out) LKS_MUST_CHECK;
void lks_device_free(lks_device *device, void *memory, size_t bytes);
lks_status lks_device_copy_in(lks_device *device, void *to_device, const void *from_host,
                              size_t bytes) LKS_MUST_CHECK;
lks_status lks_device_copy_out(lks_device *device, void *to_host, const void *from_device,
                               size_t bytes) LKS_MUST_CHECK;

typedef struct lks_kernel_tensor {
    lks_dtype dtype; /* LKS_NONE: absent */
    lks_shape shape;
} lks_kernel_tensor;

/* What is fixed when a kernel is prepared. Copied as needed by the callee. */
typedef struct lks_kernel_spec {
    const char *kernel;     /* "linear", see kernels/ops.h */
    const void *attributes; /* that kernel's struct, NULL if it has none */
    const lks_kernel_tensor *inputs;
    int input_count;
    const lks_kernel_tensor *outputs;
    int output_count;
} lks_kernel_spec;

/* What a micro-batch brings along. */
typedef struct lks_kernel_context {
    uint64_t seed;
    const uint64_t
        *positions; /* [micro-batch] position p of each sample, in host memory; for dropout */
} lks_kernel_context;

typedef struct lks_kernel_run {
    const void *const *inputs; /* device memory, in the spec's order; NULL where absent */
    void *const *outputs;
    const bool *accumulate; /* per output: add to it instead of overwriting; NULL: none */
    void *workspace;        /* lks_kernel_workspace bytes, 64-byte aligned */
    const lks_kernel_context *context;
} lks_kernel_run;

/* Unknown kernel, shape or type that it does not take: LKS_ERR_INTERNAL naming
 * it. An output may be accumulated into only where ops.h says "(+=)". */
lks_status lks_kernel_prepare(lks_kernel **out, lks_device *device,
                              const lks_kernel_spec *spec) LKS_MUST_CHECK;
void lks_kernel_release(lks_kernel *kernel);           /* NULL is fine */
size_t lks_kernel_workspace(const lks_kernel *kernel); /* bytes */
lks_status lks_kernel_execute(lks_kernel *kernel, const lks_kernel_run *run) LKS_MUST_CHECK;

/* --- Flat memory: reduction and optimizers ------------------------------- */

/* One leaf of the lane tree: the partial sum of lanes [first, end). */
typedef struct lks_partial {
    int first_lane, end_lane;
    const float *data; /* [elements] */
} lks_partial;

/* out = sum of the partials in the fixed tree over [0, lanes): tree(a, b) is
 * tree(a, m) + tree(m, b) with m - a the largest power of two below b - a. The partials are sorted,
 * cover [0, lanes) and each is a node of the tree. `out` may be any one
 * partial's memory. *square_sum (NULL: not wanted) gets the sum of the squares
 * of `out` in f64, in a fixed order. */
lks_status lks_device_sum_partials(lks_device *device, const lks_partial *partials,
                                   int partial_count, int lanes, uint64_t elements, float *out,
                                   double *square_sum) LKS_MUST_CHECK;

/* into += from, elementwise. */
lks_status lks_device_add(lks_device *device, uint64_t elements, const float *from,
                          float *into) LKS_MUST_CHECK;

/* One optimizer update of consecutive elements. With g = gradient_scale * gradient: */
typedef enum lks_update_rule {
    /* g += weight_decay * p; state0 = momentum * state0 + g (state0 = g on the
     * first step); p -= lr * (nesterov ? g + momentum * state0 : state0).
     * momentum 0: no state. (PyTorch's SGD with dampening 0.) */
    LKS_UPDATE_SGD,
    /* Kingma and Ba 2015; decoupled decay of Loshchilov and Hutter 2019 when `decoupled`:
     * p -= lr * weight_decay * p, else g += weight_decay * p. state0 = b1 state0 + (1-b1) g;
     * state1 = b2 state1 + (1-b2) g^2; p -= lr * (state0 / correction1) /
     * (sqrt(state1 / correction2) + epsilon), correction_i = 1 - b_i^t. */
    LKS_UPDATE_ADAM,
    /* Running statistics: p = (1 - momentum) * p + momentum * g. */
    LKS_UPDATE_AVERAGE,
} lks_update_rule;

typedef struct lks_update {
    lks_update_rule rule;
    float gradient_scale;
    float lr, weight_decay, momentum;
    double beta1, beta2; /* f64: 1 - beta is taken before it is rounded */
    float epsilon, correction1, correction2;
    bool nesterov, decoupled, first_step;
} lks_update;

/* State pointers a rule does not use are NULL. */
lks_status lks_device_update(lks_device *device, const lks_update *update, uint64_t elements,
                             const float *gradient, float *parameter, float *state0,
                             float *state1) LKS_MUST_CHECK;

/* Hash of a fixed probe of kernels: equal on two ranks whose arithmetic agrees. */
lks_status lks_device_probe(lks_device *device, uint64_t *hash) LKS_MUST_CHECK;

#endif
