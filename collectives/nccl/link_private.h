/* What link.c and reduce.c share of a link. */
#ifndef LKS_COLLECTIVES_NCCL_LINK_PRIVATE_H
#define LKS_COLLECTIVES_NCCL_LINK_PRIVATE_H

#include "collectives/nccl/communicator.h"
#include "collectives/nccl/nodes.h"
#include "collectives/shard.h"

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

enum { NCCL_PACES = 2 };

typedef struct nccl_link {
    lks_shard shard;
    lks_nodes nodes;
    lks_nccl *nccl;
    cudaStream_t stream;
    cudaEvent_t marks[NCCL_MARKS];
    bool summed, shared, gathered; /* since it settled */
    cudaEvent_t paces[NCCL_PACES]; /* the link's, every so many buckets, in turn */
    uint32_t offered;              /* buckets */

    /* reduce.c's, in device memory: */
    uint64_t piece_elements; /* the most that a piece has */
    float *column_inbox;     /* [partials of this node's other ranks][nodes] pieces */
    float *node_inbox;       /* [other nodes] pieces */
    size_t column_bytes, node_bytes;
    lks_layout_block *blocks; /* of the whole layout */
} nccl_link;

/* reduce.c. The shard has its arrays. Close may follow a failed open. */
lks_status nccl_reduce_open(nccl_link *link) LKS_MUST_CHECK;
void nccl_reduce_close(nccl_link *link);
/* Gives the stream, which the device uses meanwhile, all that brings own blocks' sums of a bucket here. */
lks_status nccl_reduce(nccl_link *link, uint32_t bucket) LKS_MUST_CHECK;
/* When all buckets are: the squares of own blocks. */
lks_status nccl_square_sums(nccl_link *link) LKS_MUST_CHECK;

#endif
