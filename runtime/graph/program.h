/* A program: the nodes of a graph in the order in which they run, forward then
 * backward, without those that nothing needs.
 */
#ifndef LKS_GRAPH_PROGRAM_H
#define LKS_GRAPH_PROGRAM_H

#include "runtime/graph/graph_internal.h"

typedef struct lks_program {
    lks_node_list nodes;
    size_t backward_start; /* of the first backward node; the count when there is none */
} lks_program;

/* The graph must have no error, and a loss (mode predict: an output). New nodes and tensors go
 * to the graph's arena. */
lks_status lks_program_build(lks_program *out, lks_graph *graph) LKS_MUST_CHECK;
void lks_program_release(lks_program *program);

/* backward.c: appends the backward pass of `forward` to `backward`. */
lks_status lks_backward_append(lks_graph *graph, const lks_node_list *forward,
                               lks_node_list *backward) LKS_MUST_CHECK;

/* recompute.c: copies `backward` to `out`, with clones of the forward nodes of recomputed regions
 * before the first node that needs them. */
lks_status lks_recompute_insert(lks_graph *graph, const lks_node_list *forward,
                                const lks_node_list *backward, lks_node_list *out) LKS_MUST_CHECK;

#endif
