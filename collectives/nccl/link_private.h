/* What link.c, reduce.c and by_node.c share of a link. */
#ifndef LKS_COLLECTIVES_NCCL_LINK_PRIVATE_H
#define LKS_COLLECTIVES_NCCL_LINK_PRIVATE_H

#include "collectives/nccl/communicator.h"
#include "collectives/nccl/nodes.h"
#include "collectives/shard.h"

/* What sums taken node by node need. */
typedef struct nccl_by_node {
    lks_nodes nodes;
    float *inbox;          /* [other nodes] sums of own blocks */
    float *column_inbox;   /* [partials of this node's other ranks] the column */
    uint64_t *column_base; /* [nodes] where in it the own blocks of that node's rank begin */
    uint64_t column_elements;
    size_t inbox_bytes, column_bytes;
    lks_layout_block *blocks; /* of the whole layout, in device memory */
    lks_partial *scratch;     /* [leaves, or nodes] */
} nccl_by_node;

/* Each marks how far a stream has come. */
typedef enum nccl_mark {
    NCCL_GIVEN,    /* the device's: what a message reads */
    NCCL_SHARED,   /* the link's: numbers are there */
    NCCL_COMPUTED, /* the device's: the backward pass is done */
    NCCL_SUMMED,   /* the link's */
    NCCL_UPDATED,  /* the device's: own parameters are written */
    NCCL_GATHERED, /* the link's: all are there */
    NCCL_MARKS
} nccl_mark;

typedef struct nccl_link {
    lks_shard shard;
    nccl_by_node by_node;
    lks_nccl *nccl;
    cudaStream_t stream;
    cudaEvent_t marks[NCCL_MARKS];
    bool summed, gathered; /* since it settled */
} nccl_link;

/* Gives the stream all that makes own blocks' sums of a bucket. */
lks_status nccl_reduce(nccl_link *link, uint32_t bucket) LKS_MUST_CHECK;
/* In any order the sums come without their squares. */
lks_status nccl_square_sums(nccl_link *link) LKS_MUST_CHECK;

/* Sends partials [0, count) of what `owner` owns of the bucket to rank `to`, within a group. */
lks_status nccl_send_part(nccl_link *link, uint32_t bucket, int owner, int to,
                          int count) LKS_MUST_CHECK;

/* Where lks_nodes_apart. The shard has its arrays. */
lks_status nccl_by_node_open(nccl_link *link) LKS_MUST_CHECK;
void nccl_by_node_close(nccl_link *link);
lks_status nccl_by_node_reduce(nccl_link *link, uint32_t bucket) LKS_MUST_CHECK;

#endif
