/* One step of training. */
#ifndef LKS_TRAIN_STEP_H
#define LKS_TRAIN_STEP_H

#include "runtime/train/job.h"

typedef struct lks_step_result {
    uint64_t step;   /* steps done, this one included */
    double loss;     /* mean over the valid targets */
    double accuracy; /* NaN where there are no classes */
    double lr, grad_norm;
    double seconds, loader_wait_seconds, reduce_wait_seconds;
    uint64_t gradient_bytes, gradient_bytes_early; /* of this rank, see report.h */
    bool notice;           /* some rank was told to stop: all ranks see it at the same step */
    double notice_seconds; /* then: the time left, INFINITY: not known */
} lks_step_result;

/* (collective) Step job->step, which it then counts. Numbers that are not finite are
 * LKS_ERR_NOT_FINITE on every rank, parameters untouched, and rank 0 has the message. */
lks_status lks_step_run(lks_job *job, lks_step_result *out) LKS_MUST_CHECK;

#endif
