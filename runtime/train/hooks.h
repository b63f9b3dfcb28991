/* Everything periodic, after a step. */
#ifndef LKS_TRAIN_HOOKS_H
#define LKS_TRAIN_HOOKS_H

#include "runtime/train/step.h"

/* (collective) Validation, checkpoint, metrics, ledger: each decides whether it is
 * its time. *stop: a notice came and the state is saved. */
lks_status lks_hooks_run(lks_job *job, const lks_step_result *step, bool *stop) LKS_MUST_CHECK;

/* (collective) Before leaving: no save is under way any more. */
lks_status lks_hooks_finish(lks_job *job) LKS_MUST_CHECK;

#endif
