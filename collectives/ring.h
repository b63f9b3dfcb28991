/* The parameters' way around: from each owner to everybody, in host memory. */
#ifndef LKS_COLLECTIVES_RING_H
#define LKS_COLLECTIVES_RING_H

#include "collectives/shard.h"

/* (collective) Everybody's own blocks of the flat array become everybody's whole array. Nothing for one rank. */
lks_status lks_ring_gather(const lks_shard *shard, float *parameters) LKS_MUST_CHECK;

#endif
