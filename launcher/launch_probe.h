/* Asking all hosts of a job at once, each within a bound.
 *
 * A host is asked by running this program there (see launch_node.h): over ssh or what Open MPI
 * is told to use instead, by srun in a SLURM job, by a plain child for this machine.
 */
#ifndef LKS_LAUNCHER_LAUNCH_PROBE_H
#define LKS_LAUNCHER_LAUNCH_PROBE_H

#include "launcher/launch_hosts.h"
#include "runtime/base/text.h"

#include <signal.h>
#include <stdint.h>
#include <sys/types.h>

typedef struct lks_probe_one {
    pid_t pid;  /* 0: not started, or over */
    int answer; /* its stdout */
    bool over;
    uint64_t start_ns, deadline_ns;
    lks_text text;
} lks_probe_one;

typedef struct lks_probe {
    lks_hosts *hosts;
    char *order;                 /* "look:MARK", see launch_node.h */
    const char *program;         /* this program's path, the same on all hosts */
    const sigset_t *signal_mask; /* for the children */
    double seconds;
    bool hurry; /* a host is lost: once half of them answer, the others get little more time */
    uint64_t start_ns;
    double slowest_seconds; /* of the answers */
    size_t answered;
    lks_probe_one *ones; /* [hosts->count]; NULL: no probe is under way */
} lks_probe;

/* Starts asking every host: `seconds` for each, less for a suspect one. `mask` is what children
 * get. Answers are polled: nothing here blocks. */
lks_status lks_probe_start(lks_probe *probe, lks_hosts *hosts, const char *order,
                           const char *program, double seconds,
                           const sigset_t *mask) LKS_MUST_CHECK;
/* True when every host has answered or had its time; hosts' `answers` and `frozen` are set
 * then, and the probe is released. */
bool lks_probe_poll(lks_probe *probe);
/* Gives up what is under way; who has been silent for long by then does not answer. Fine when
 * nothing is. */
void lks_probe_stop(lks_probe *probe);

#endif
