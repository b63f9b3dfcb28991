/* What an executor is made of; for this folder alone. */
#ifndef LKS_GRAPH_EXECUTOR_INTERNAL_H
#define LKS_GRAPH_EXECUTOR_INTERNAL_H

#include "runtime/graph/executor.h"
#include "runtime/graph/plan.h"

typedef struct lks_executor_step {
    lks_kernel *kernel;
    const void **inputs; /* filled anew in each run, as the two below */
    void **outputs;
    bool *accumulate;
    uint64_t total_ns, calls; /* while profiling */
} lks_executor_step;

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
    const void **output_data; /* after a run that predicts */
    bool profiling;
};

#endif
