/* The executor: a finished graph, differentiated, planned and run on a device.
 *
 * Opening it adds the backward pass (mode train), gives every activation an
 * offset in one arena from its liveness, prepares all kernels and allocates;
 * running it allocates nothing.
 *
 * Parameters and gradients are not the executor's: they are flat arrays in
 * device memory with the graph's layout, handed over per call.
 */
#ifndef LKS_GRAPH_EXECUTOR_H
#define LKS_GRAPH_EXECUTOR_H

#include "runtime/graph/graph.h"

typedef struct lks_executor lks_executor;

/* `graph` must be complete (else LKS_ERR_USAGE says what is missing) and outlive the executor. A
 * graph may be opened more than once. */
lks_status lks_executor_open(lks_executor **out, lks_graph *graph,
                             lks_device *device) LKS_MUST_CHECK;
/* The same; `accept` is asked before offsets are sought and memory is taken, with the bytes that the arena needs at
 * least: a failure ends the opening. */
lks_status lks_executor_open_within(lks_executor **out, lks_graph *graph, lks_device *device,
                                    lks_status (*accept)(void *user, size_t activations_bytes),
                                    void *user) LKS_MUST_CHECK;
void lks_executor_close(lks_executor *executor); /* NULL is fine */

/* Bytes of device memory that are the executor's: what was planned. */
typedef struct lks_executor_memory {
    size_t activations_bytes; /* the arena */
    size_t workspace_bytes;   /* the largest kernel's scratch */
    size_t constants_bytes;
} lks_executor_memory;
lks_executor_memory lks_executor_get_memory(const lks_executor *executor);

typedef struct lks_executor_call {
    uint64_t seed;
    const uint64_t *positions; /* [B]; device memory; NULL where no op is random */
    const void *const *inputs; /* in the order of lks_graph_create's inputs; device memory; NULL for
                                     targets in mode predict */
    const float *parameters;   /* flat */
    const uint16_t *rounded;   /* flat, their nearest bf16: for a graph that computes in it */
    float *gradients;          /* flat; mode train */
    bool accumulate; /* false: this call's gradients overwrite (a lane's first micro-batch) */
    /* A tensor's gradient has got its last contribution of this call. NULL: not wanted. */
    void (*gradient_final)(void *user, uint32_t layout_tensor);
    /* Called between ops, so that messages move. NULL: not wanted. A failure ends the run. */
    lks_status (*between_ops)(void *user);
    void *user;
} lks_executor_call;

/* `stats` [3], device memory, gets {loss sum, count of valid targets, count correct} of this
 * micro-batch; untouched in mode predict. Every tensor of the layout gets gradient_final exactly once, buffers
 * too; one that no op uses has its gradient zeroed (kept when accumulating). On a device that is not a host
 * "has got" and "between ops" mean that the work was given to it in that order. */
lks_status lks_executor_run(lks_executor *executor, const lks_executor_call *call,
                            double *stats) LKS_MUST_CHECK;

/* After a run in mode predict: device memory of a named output, valid until the
 * next run; LKS_ERR_USAGE when there is none of that name. */
lks_status lks_executor_output(const lks_executor *executor, const char *name, const void **data,
                               lks_shape *shape) LKS_MUST_CHECK;

/* Fills `values` (host, flat) with the initial parameters and buffers: a pure function of (seed, layout). */
lks_status lks_graph_initialize(const lks_graph *graph, uint64_t seed,
                                float *values) LKS_MUST_CHECK;
/* The same for blocks [first, end) of the layout alone; the rest of `values` is not touched. */
lks_status lks_graph_initialize_blocks(const lks_graph *graph, uint64_t seed, uint32_t first_block,
                                       uint32_t end_block, float *values) LKS_MUST_CHECK;

#endif
