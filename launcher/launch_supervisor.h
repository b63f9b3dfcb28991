/* All that `lockstep launch` knows while it runs. */
#ifndef LKS_LAUNCHER_LAUNCH_SUPERVISOR_H
#define LKS_LAUNCHER_LAUNCH_SUPERVISOR_H

#include "launcher/launch.h"
#include "launcher/launch_job.h"
#include "launcher/launch_pace.h"
#include "launcher/launch_probe.h"
#include "launcher/launch_report.h"

#include <limits.h>

enum { LKS_MARK_SIZE = 17 };

typedef struct lks_supervisor {
    const lks_launch_options *options;
    lks_hosts hosts;
    bool *usable; /* [hosts.count], for this start */
    lks_launch_job job;
    lks_probe probe;
    lks_launch_report report;
    char program[PATH_MAX];
    char *directory; /* for temporary files; locked while this process lives */
    int directory_lock;
    int signals;          /* signalfd */
    sigset_t mask_before; /* for children */

    bool notice, notice_sent; /* asked to save and stop */
    bool killed;              /* asked twice */
    uint64_t interrupt_ns;

    /* the start under way */
    char mark[LKS_MARK_SIZE];
    pid_t mpirun; /* 0: none */
    int output;   /* -1: closed */
    int wait_status;
    int ranks, ranks_wanted, per_slot;
    bool take_over; /* who holds the run directory is cut off */
    uint64_t started_ns;
    size_t starts_before;  /* in run.json */
    int64_t newest_before; /* step */

    /* the steps of this start, as the run directory shows them */
    uint64_t pulse, pulse_ns;
    bool stepped;  /* one was seen */
    bool met;      /* all ranks were looked for, after the first step */
    bool whole;    /* and found, so that they can be seen where they are */
    lks_pace pace; /* from one to the next */
    uint64_t next_look_ns;
    bool looking, meeting;           /* meeting: for the first time, to the end */
    int stopped_looks, silent_looks; /* in a row: of mpirun, of a host */
    uint64_t gone_ns;                /* a rank is gone in all looks since; 0: none is */

    uint64_t fault_ns; /* the last step before the fault that is being mended; 0: none */
    int restarts, stuck;
    int64_t last_end; /* step at which the last start ended */
} lks_supervisor;

/* Waits up to `milliseconds` for anything to happen; takes signals, passes mpirun's output and a
 * notice on. */
void lks_supervisor_wait(lks_supervisor *s, int milliseconds);
/* True once mpirun has ended: wait_status is set and all it said was read. */
bool lks_supervisor_reap(lks_supervisor *s);
/* Ends mpirun at once; its ranks on all hosts are cleared as after any loss. */
void lks_supervisor_kill(lks_supervisor *s);

/* Asks all hosts to clear what the last start left, and chooses those to start on: sets `usable` and
 * `ranks`, 0 when a notice came. At the first start (`for_all`) it waits for all, since hosts may still
 * be coming up, after a fault while too few answer; --wait-seconds at most, telling for whom. With
 * fewer than --min-ranks then, LKS_ERR_PEER names the hosts. */
lks_status lks_gather(lks_supervisor *s, bool for_all) LKS_MUST_CHECK;
bool lks_gather_is_complete(const lks_supervisor *s); /* all answered */

/* Looks at the steps and, when they stop, at the ranks. True: they hang, and `cause` of the
 * report says so. */
bool lks_watch(lks_supervisor *s);
void lks_watch_begin(lks_supervisor *s);

#endif
