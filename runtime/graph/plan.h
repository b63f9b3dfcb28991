/* The memory plan: an offset in one arena for every tensor that a program makes. */
#ifndef LKS_GRAPH_PLAN_H
#define LKS_GRAPH_PLAN_H

#include "runtime/graph/program.h"

typedef enum lks_accumulate {
    LKS_ACCUMULATE_NEVER,
    LKS_ACCUMULATE_ALWAYS,
    LKS_ACCUMULATE_AS_CALLED, /* the first contribution to a gradient slot */
} lks_accumulate;

typedef struct lks_plan_step {
    const lks_node *node;
    lks_accumulate *accumulate; /* by output */
    uint32_t *finals;           /* layout tensors that get their last contribution here */
    uint32_t final_count;
} lks_plan_step;

typedef struct lks_plan {
    lks_plan_step *steps;
    size_t step_count;
    size_t *offsets; /* by tensor id: bytes from the arena's start; SIZE_MAX: not in the arena */
    size_t tensor_count;
    size_t arena_bytes;
    size_t tensors_bytes; /* the sum of all tensors' sizes: the arena without reuse */
    lks_arena *arena;     /* holds the arrays of the steps */
} lks_plan;

/* Asked with the bytes that are alive at once, the least that any arena can have. */
typedef struct lks_plan_accept {
    lks_status (*accept)(void *user, size_t bytes);
    void *user;
} lks_plan_accept;

/* `accept`: NULL: any size. */
lks_status lks_plan_create(lks_plan *out, const lks_program *program, const lks_graph *graph,
                           const lks_plan_accept *accept) LKS_MUST_CHECK;
void lks_plan_release(lks_plan *plan);

#endif
