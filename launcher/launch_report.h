/* What mpirun says on stderr: read for who died and of what, and passed on. */
#ifndef LKS_LAUNCHER_LAUNCH_REPORT_H
#define LKS_LAUNCHER_LAUNCH_REPORT_H

#include "launcher/launch_hosts.h"
#include "runtime/base/text.h"

typedef struct lks_launch_report {
    lks_hosts *hosts; /* `suspect` is set for the lost */
    lks_text line;    /* not complete yet */
    lks_text block;   /* between two rules of dashes */
    bool in_block, passing;
    lks_text cause; /* the first that was said: "rank 1 on host2 was killed by ..." */
    bool lost;      /* a signal or a lost host, not an end that a rank chose */
    bool host_lost; /* some host, though mpirun may not say which */
} lks_launch_report;

/* For a new start. */
void lks_launch_report_reset(lks_launch_report *report, lks_hosts *hosts);
/* What lockstep says in its own words is kept back, unless --verbose. */
void lks_launch_report_feed(lks_launch_report *report, const char *bytes, size_t count);
/* The stream has ended. */
void lks_launch_report_end(lks_launch_report *report);
void lks_launch_report_release(lks_launch_report *report);

#endif
