/* `lockstep launch`: mpirun, watched and started again on the hosts that are left.
 *
 * One process, one thread. All state belongs to one lks_supervisor.
 */
#ifndef LKS_LAUNCHER_LAUNCH_H
#define LKS_LAUNCHER_LAUNCH_H

#include "launcher/arguments.h"

typedef struct lks_launch_options {
    const char *hosts, *mpirun; /* NULL: to be found */
    int64_t ranks;              /* 0: as many as slots and lanes allow */
    int64_t min_ranks, max_restarts;
    double backoff_seconds, probe_seconds, wait_seconds;
    double stall_seconds; /* 0: derived from the steps seen */
    lks_texts train;      /* "train", CONFIG, ... */
} lks_launch_options;

/* Runs the job to its end, over as many starts as it takes. Returns the ranks' status,
 * LKS_ERR_PEER for every way to lose a rank, LKS_ERR_USAGE when mpirun refuses to start any, or why
 * it could not start. */
lks_status lks_launch(const lks_launch_options *options) LKS_MUST_CHECK;

#endif
