/* What the run directory tells about the job, for those outside it. */
#ifndef LKS_LAUNCHER_LAUNCH_JOB_H
#define LKS_LAUNCHER_LAUNCH_JOB_H

#include "launcher/arguments.h"

typedef struct lks_launch_job {
    char *run, *metrics, *lock; /* paths */
    int lanes;                  /* the most ranks there can be; 0: not known */
} lks_launch_job;

/* From the arguments of train. What is wrong with them is train's to say. */
lks_status lks_launch_job_open(lks_launch_job *out, const lks_texts *train) LKS_MUST_CHECK;
void lks_launch_job_close(lks_launch_job *job);

/* CONFIG among the arguments of train, NULL: none; and the lanes that it gives. */
const char *lks_launch_job_config(const lks_texts *train);
lks_status lks_launch_job_lanes(const lks_texts *train, int *lanes) LKS_MUST_CHECK;

/* The newest step that metrics or a checkpoint shows; 0: none. */
int64_t lks_launch_job_newest_step(const lks_launch_job *job);
bool lks_launch_job_has_checkpoint(const lks_launch_job *job);
/* The starts recorded so far, and the step that the newest went on from. */
size_t lks_launch_job_starts(const lks_launch_job *job, int64_t *first_step);
/* A number that changes whenever a step is written down. */
uint64_t lks_launch_job_pulse(const lks_launch_job *job);
/* False: a process holds the run directory still. */
bool lks_launch_job_is_free(const lks_launch_job *job);

#endif
