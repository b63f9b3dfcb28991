/* What a job needs of a node's memory: planned before anything large is allocated, and told. */
#ifndef LKS_TRAIN_NEED_H
#define LKS_TRAIN_NEED_H

#include "runtime/train/job.h"

/* LKS_ERR_USAGE when the ranks of this node cannot have what the job needs, with what needs most and what to
 * lower. `user`: lks_job; `activations_bytes` of a rank at least; 0: not known yet. Not collective. */
lks_status lks_need_check(void *user, const lks_layout *layout,
                          uint64_t activations_bytes) LKS_MUST_CHECK;

/* Bytes that this rank and its node need, on rank 0's log. (collective) */
lks_status lks_need_print(const lks_job *job) LKS_MUST_CHECK;

#endif
