/* The saves of a job: what they say of it, and what is told of them. */
#ifndef LKS_TRAIN_SAVES_H
#define LKS_TRAIN_SAVES_H

#include "runtime/train/job.h"

/* Before the first step, not collective: what need not wait for the first checkpoint. */
void lks_saves_prepare(lks_job *job);
/* (collective) Of the state after `step`; validation_loss NaN: none was taken. */
lks_status lks_saves_start(lks_job *job, uint64_t step, double validation_loss,
                           lks_checkpoint_when_busy busy, double *stall_seconds) LKS_MUST_CHECK;
/* Rank 0, when a notice has come that leaves `left` seconds (infinity: not known): what the save of that step will
 * take, from what those of this start have taken, and whether that is too long. */
void lks_saves_announce(const lks_job *job, uint64_t at, double left);
/* What they have cost, on rank 0's log. */
void lks_saves_log(const lks_job *job);

#endif
