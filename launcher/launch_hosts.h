/* The hosts of a job, and what is known of each. */
#ifndef LKS_LAUNCHER_LAUNCH_HOSTS_H
#define LKS_LAUNCHER_LAUNCH_HOSTS_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct lks_host {
    char *name;
    int slots;
    bool answers; /* the last probe */
    bool suspect; /* mpirun lost it, or it hung: it gets less time to answer */
    int frozen;   /* a rank there that is stopped, -1: none */
    int ended;    /* exit status of the last probe's command there, -1: it did not end by itself */
    char *said;   /* its last answer to "name:" or "look:"; NULL: none */
} lks_host;

typedef struct lks_hosts {
    lks_host *items;
    size_t count, capacity;
    const char *source; /* for people: "SLURM", "localhost", a path */
} lks_hosts;

/* From `file`; NULL: from SLURM's environment, else /etc/mpi/hostfile, else this machine
 * alone. A file that is missing, empty or not a hostfile is LKS_ERR_USAGE with the line. */
lks_status lks_hosts_find(lks_hosts *out, const char *file) LKS_MUST_CHECK;
/* "host", "host slots=4", "host:4", '#' comments; a repeated host adds its slots. */
lks_status lks_hosts_read(lks_hosts *out, const char *path) LKS_MUST_CHECK;
/* "n[1-3,07-09]x,m2" with "4(x3),2" tasks per node; NULL `tasks`: 1 each. */
lks_status lks_hosts_expand_slurm(lks_hosts *out, const char *nodes,
                                  const char *tasks) LKS_MUST_CHECK;
void lks_hosts_release(lks_hosts *hosts);

/* The host that mpirun calls `name`, long or short; NULL: none. */
lks_host *lks_hosts_named(lks_hosts *hosts, const char *name);
bool lks_host_is_here(const lks_host *host);
int lks_cores_here(void);

#endif
