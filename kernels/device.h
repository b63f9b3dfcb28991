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

#include "runtime/base/layout.h"
#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lks_device lks_device;
typedef struct lks_kernel lks_kernel;

/* `name`: "cpu", "cuda", or "cpu:x86-64-v3" for one of the device's variants (README.md); "auto" is
 * cuda where this build has it and the machine a device, else cpu. An unknown one is
 * LKS_ERR_USAGE naming those there are; one that cannot be had here says what is missing.
 * `local_rank`: of the node's ranks, which share its devices out. */
lks_status lks_device_open(lks_device **out, const char *name, int local_rank) LKS_MUST_CHECK;
void lks_device_close(lks_device *device); /* NULL is fine */
const char *lks_device_name(const lks_device *device);
/* True when its memory is ordinary host memory and its calls return when they are done. */
bool lks_device_is_host(const lks_device *device);
/* What the bits depend on: "cpu x86-64-v4 AMD EPYC onednn-2.6.3". Same text, same bits. */
const char *lks_device_arithmetic(const lks_device *device);

/* Order: a device runs what it is given one after the other. Calls may return before their work is
 * done; copy_out and synchronize wait for all of it. A failure found while running (an id
 * out of range) is returned by the call itself or by the next one that waits. */

/* Memory of the device, 64-byte aligned, zeroed. */
lks_status lks_device_allocate(lks_device *device, size_t bytes, void **out) LKS_MUST_CHECK;
void lks_device_free(lks_device *device, void *memory, size_t bytes);
/* `from_host` may change as soon as it returns. */
lks_status lks_device_copy_in(lks_device *device, void *to_device, const void *from_host,
                              size_t bytes) LKS_MUST_CHECK;
lks_status lks_device_copy_out(lks_device *device, void *to_host, const void *from_device,
                               size_t bytes) LKS_MUST_CHECK;
/* Within the device; the two do not overlap. */
lks_status lks_device_copy(lks_device *device, void *to, const void *from,
                           size_t bytes) LKS_MUST_CHECK;
lks_status lks_device_synchronize(lks_device *device) LKS_MUST_CHECK;
/* How often the host has waited for all of the device's work (copy_out, synchronize). */
uint64_t lks_device_waits(const lks_device *device);

/* Uploads run beside the kernels, from pinned host memory, in LKS_UPLOAD_SLOTS slots of
 * device memory used in turn:
 *     upload_begin(slot)   waits, on the device, for the kernels that read the slot before
 *     upload(...)          any number
 *     upload_end(slot)     kernels given from here on see it
 *     ... kernels that read it ...
 *     upload_release(slot) no kernel given from here on reads it
 *     upload_wait(slot)    (the host waits) what it was copied from may change
 * On a host device `upload` copies and the rest is nothing. What is pinned begins with a page (lks_memory_map), and a child
 * does not have it. */
enum { LKS_UPLOAD_SLOTS = 2 };
lks_status lks_device_pin(lks_device *device, void *host, size_t bytes) LKS_MUST_CHECK;
void lks_device_unpin(lks_device *device, void *host, size_t bytes);
lks_status lks_device_upload_begin(lks_device *device, int slot) LKS_MUST_CHECK;
lks_status lks_device_upload(lks_device *device, void *to_device, const void *from_host,
                             size_t bytes) LKS_MUST_CHECK;
lks_status lks_device_upload_end(lks_device *device, int slot) LKS_MUST_CHECK;
lks_status lks_device_upload_release(lks_device *device, int slot) LKS_MUST_CHECK;
lks_status lks_device_upload_wait(lks_device *device, int slot) LKS_MUST_CHECK;

/* Kernels given between begin and end are recorded instead of run, with the addresses they were given; launch runs them
 * all. Unsupported (a host device): *out is NULL after end, and they ran at once. */
typedef struct lks_recording lks_recording;
lks_status lks_device_record_begin(lks_device *device) LKS_MUST_CHECK;
lks_status lks_device_record_end(lks_device *device, lks_recording **out) LKS_MUST_CHECK;
lks_status lks_device_record_launch(lks_device *device, lks_recording *recording) LKS_MUST_CHECK;
void lks_device_record_free(lks_device *device, lks_recording *recording); /* NULL is fine */
bool lks_device_can_record(const lks_device *device);

/* Where the time goes. Between begin and end, which wait for all work, each kernel and each call on flat memory is timed,
 * by the device itself where it is not the host; nothing waits for that. What one begin and end enclose is a step;
 * the table is per step: calls, time, bytes that must be moved and operations of products that must be done at
 * least, over the time. Work of other streams is not in it. Recordings do not go together with it. */
struct lks_text;
lks_status lks_device_profile_begin(lks_device *device) LKS_MUST_CHECK;
lks_status lks_device_profile_end(lks_device *device) LKS_MUST_CHECK; /* nothing without a begin */
bool lks_device_profiling(const lks_device *device);
void lks_device_profile_print(const lks_device *device, struct lks_text *out);

/* Names a stretch of work for profilers (NVTX); nested. Nothing where there are none. */
void lks_device_range_begin(lks_device *device, const char *name);
void lks_device_range_end(lks_device *device);

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
        *positions; /* [micro-batch] position p of each sample; device memory; for dropout */
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
    const float *data; /* device memory: where element `origin` of the flat array is */
    uint64_t origin;
} lks_partial;

/* For each of the `count` blocks: out = sum of the partials in the fixed tree over [0, lanes): tree(a, b) is
 * tree(a, m) + tree(m, b) with m - a the largest power of two below b - a. The partials are sorted, cover [0, lanes) and each is a node of the tree. `out` is a flat array from element 0
 * and may be any one partial's memory. square_sums[i] (NULL: not wanted; device memory) gets the sum of the squares of
 * block i of `out` in f64, in a fixed order. `blocks`: device memory; `host_blocks`: the same in host memory. */
typedef struct lks_sum {
    const lks_layout_block *blocks, *host_blocks;
    uint32_t count;
    const lks_partial *partials; /* host memory */
    int partial_count, lanes;
    float *out;
    double *square_sums;
} lks_sum;
lks_status lks_device_sum_blocks(lks_device *device, const lks_sum *sum) LKS_MUST_CHECK;

/* The nearest bf16, ties to even. */
lks_status lks_device_round(lks_device *device, uint64_t elements, const float *from,
                            uint16_t *to) LKS_MUST_CHECK;

/* into += from, elementwise. */
lks_status lks_device_add(lks_device *device, uint64_t elements, const float *from,
                          float *into) LKS_MUST_CHECK;

/* --- The numbers of a step --- */

enum { LKS_STATS = 3 }; /* of a micro-batch, in f64: loss sum, valid targets, right ones */

/* sums[lane] = the stats of its micro-batches, added in their order. Device memory:
 * stats [lanes][micro_batches][LKS_STATS], sums [lanes][LKS_STATS]. */
lks_status lks_device_sum_stats(lks_device *device, uint32_t lanes, uint32_t micro_batches,
                                const double *stats, double *sums) LKS_MUST_CHECK;

/* Over the global batch. */
typedef struct lks_totals {
    double loss_sum, targets, correct;
    double square_sum;    /* of the summed gradient */
    double norm;          /* of the gradient of the mean loss: sqrt(square_sum) / max(targets, 1) */
    int64_t bad_lane;     /* first whose loss is not finite; -1: none */
    int64_t bad_block;    /* first whose square sum is not finite; -1: none */
    float gradient_scale; /* clip factor / max(targets, 1) */
} lks_totals;

/* What is added up, in order of lanes and of blocks. Device memory. */
typedef struct lks_totals_spec {
    uint32_t lanes, blocks;
    const double *lane_sums;   /* [lanes][LKS_STATS] */
    const double *square_sums; /* [blocks] */
    const uint8_t *counted;    /* [blocks] 0: not part of the gradient */
    double clip_norm;          /* the largest norm that is left as it is; 0: any */
} lks_totals_spec;
/* `out`: device memory. */
lks_status lks_device_total(lks_device *device, const lks_totals_spec *spec,
                            lks_totals *out) LKS_MUST_CHECK;

/* --- Optimizers --- */

/* With g = gradient_scale * gradient: */
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
    /* Device memory, read when the update runs; NULL: none. Where it has a bad lane or block nothing is
     * changed; else its gradient_scale is the one taken, but for LKS_UPDATE_AVERAGE. */
    const lks_totals *totals;
    float gradient_scale;
    float lr, weight_decay, momentum;
    double beta1, beta2; /* f64: 1 - beta is taken before it is rounded */
    float epsilon, correction1, correction2;
    bool nesterov, decoupled, first_step;
} lks_update;

/* What is updated: `count` blocks of flat arrays. */
typedef struct lks_update_blocks {
    const lks_layout_block *blocks, *host_blocks; /* the same in device and in host memory */
    uint32_t count;
    const float *gradient; /* flat arrays from element 0; device memory */
    float *parameter;
    float *states
        [2]; /* where element `origin` of the flat array is; those a rule does not use are NULL */
    uint64_t origin;
} lks_update_blocks;

lks_status lks_device_update(lks_device *device, const lks_update *update,
                             const lks_update_blocks *what) LKS_MUST_CHECK;

/* Hash of a fixed probe of kernels: equal on two ranks whose arithmetic agrees. */
lks_status lks_device_probe(lks_device *device, uint64_t *hash) LKS_MUST_CHECK;

#endif
