/* What an executor is made of; for this folder alone. */
#ifndef LKS_GRAPH_EXECUTOR_INTERNAL_H
#define LKS_GRAPH_EXECUTOR_INTERNAL_H

#include "runtime/graph/executor.h"
#include "runtime/graph/graph_internal.h"
#include "runtime/graph/plan.h"

typedef struct lks_executor_step {
    lks_kernel *kernel;
    const void **inputs; /* filled anew in each run, as the two below */
    void **outputs;
    bool *accumulate;
} lks_executor_step;

/* A run with these addresses. */
typedef struct lks_executor_recording {
    lks_executor_call call;
    const void **inputs;
    lks_recording *recording;
} lks_executor_recording;

/* Slots of uploads, gradient arrays and whether to accumulate: more than a job has. */
enum { LKS_RECORDINGS_MAX = 64 };

struct lks_executor {
    lks_graph *graph;
    lks_device *device;
    lks_program program;
    lks_plan plan;
    lks_executor_step *steps; /* one per step of the plan */
    lks_arena *arena;         /* the arrays of the steps */

    void *activations, *workspace, *constants; /* device memory */
    size_t *constant_offsets;
    lks_executor_memory memory;
    bool *input_used;
    const void **output_data;           /* after a run that predicts */
    bool ran;                           /* once */
    lks_executor_recording *recordings; /* [LKS_RECORDINGS_MAX]; NULL: none are made */
    int recording_count;
};

/* Gives all kernels to the device, in order. */
lks_status lks_executor_give_all(lks_executor *executor,
                                 const lks_executor_call *call) LKS_MUST_CHECK;

lks_status lks_recordings_open(lks_executor *executor) LKS_MUST_CHECK;
void lks_recordings_close(lks_executor *executor);
bool lks_recordings_serve(const lks_executor *executor, const lks_executor_call *call);
lks_status lks_recordings_run(lks_executor *executor, const lks_executor_call *call) LKS_MUST_CHECK;

#endif
