/* Starting mpirun as a child that ends when this process does. */
#ifndef LKS_LAUNCHER_LAUNCH_MPIRUN_H
#define LKS_LAUNCHER_LAUNCH_MPIRUN_H

#include "launcher/launch.h"
#include "launcher/launch_hosts.h"

#include <signal.h>
#include <sys/types.h>

typedef struct lks_mpirun_plan {
    const lks_launch_options *options;
    const lks_hosts *hosts;
    const char *program, *directory; /* this program; for temporary files */
    const char *mark;                /* see launch_node.h */
    const sigset_t *signal_mask;
    int ranks;
    bool take_over; /* train --take-over */
    int per_slot; /* ranks that a slot takes: more than 1 when the user asked for more than slots */
} lks_mpirun_plan;

const char *lks_mpirun_name(const char *path); /* as the user knows it; NULL: the one on PATH */
/* LKS_ERR_USAGE when there is no such program. */
lks_status lks_mpirun_check(const char *path) LKS_MUST_CHECK;

/* `*output` is a pipe with its stderr. Takes the hosts that are `usable`. */
lks_status lks_mpirun_start(const lks_mpirun_plan *plan, const bool *usable, pid_t *pid,
                            int *output) LKS_MUST_CHECK;

#endif
