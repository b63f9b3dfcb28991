/* The graphs of golden_ops.py's cases. */
#ifndef LKS_TESTS_GOLDEN_OPS_CASES_H
#define LKS_TESTS_GOLDEN_OPS_CASES_H

#include "runtime/graph/graph.h"

#include <jansson.h>

typedef struct op_case {
    const char *name;
    const json_t *entry; /* of ops.json */
    lks_graph *graph;
} op_case;

/* What the golden gives a case, by name, in the golden's shape. An input is a parameter behind an
 * op, so that its gradient is an activation's. */
lks_tensor *op_parameter(const op_case *c, const char *name);
lks_tensor *op_input(const op_case *c, const char *name);
lks_tensor *op_constant(const op_case *c, const char *name);
lks_tensor *op_buffer(const op_case *c, const char *name);

typedef struct op_builder {
    const char *name;
    lks_tensor *(*build)(const op_case *c); /* the op's output; of a loss: its stats */
} op_builder;

extern const op_builder op_builders[];
extern const size_t op_builder_count;

#endif
