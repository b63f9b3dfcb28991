/* The state of a job that is trained and saved: parameters, and own blocks of optimizer states. (Of lks_job.)
 *
 * Checkpoints and copies in node memory see it as job->arrays, host memory: the state itself on a
 * host device, elsewhere a pinned mirror of own blocks that fetch and publish keep.
 */
#ifndef LKS_TRAIN_STATE_H
#define LKS_TRAIN_STATE_H

#include "runtime/train/job.h"

/* Not collective; the reducer is open. */
lks_status lks_state_open(lks_job *job) LKS_MUST_CHECK;
void lks_state_close(lks_job *job);
/* Brings the arrays up to the step that was done last; at once when they are. */
lks_status lks_state_fetch(lks_job *job) LKS_MUST_CHECK;
/* (collective) The arrays were filled, on every rank: all get all parameters. */
lks_status lks_state_publish(lks_job *job) LKS_MUST_CHECK;
/* After parameters have changed: their copies in the precision that kernels read. */
lks_status lks_state_round(lks_job *job) LKS_MUST_CHECK;

#endif
