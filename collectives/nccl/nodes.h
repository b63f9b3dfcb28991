/* When a sum can be taken node by node: the lanes of each node are a node of the lane tree, and each node has as many
 * ranks, one after the other. Then only one partial of each block leaves a node.
 *
 * Rank (n, i) is the i-th of node n. The node sums of what rank (m, i) adds up are taken, on every node n, by
 * rank (n, i): its column is the pieces of (0, i), (1, i), ...
 */
#ifndef LKS_COLLECTIVES_NCCL_NODES_H
#define LKS_COLLECTIVES_NCCL_NODES_H

#include "collectives/shard.h"

typedef struct lks_nodes {
    int count, ranks; /* nodes, ranks of each; count 1 or ranks 1: it is not taken node by node */
    int node, index;  /* this rank is (node, index) */
} lks_nodes;

/* *out is {1, size, 0, rank} when it cannot. The same on every rank. */
void lks_nodes_find(lks_nodes *out, const lks_link_spec *spec);
static inline bool lks_nodes_apart(const lks_nodes *nodes)
{
    return nodes->count > 1 && nodes->ranks > 1;
}
/* The lanes of a node. */
lks_lane_span lks_nodes_lanes(const lks_nodes *nodes, const lks_link_spec *spec, int node);

#endif
