/* Notices: this machine will be taken away, save and stop.
 *
 * A signal is one (lks_train_request.notice). Others are asked for on one rank of each node, through
 * a watch that the caller of lks_train provides. A notice of any rank joins the vote at the end of the
 * step, so that all ranks save at the same step.
 */
#ifndef LKS_TRAIN_NOTICE_H
#define LKS_TRAIN_NOTICE_H

#include "runtime/base/status.h"

/* preemption.source */
enum { LKS_NOTICE_NONE, LKS_NOTICE_AWS, LKS_NOTICE_GCP, LKS_NOTICE_AZURE };

/* The section preemption. */
typedef struct lks_preemption {
    const char *file; /* that it exists is a notice; "": none */
    int source;
    const char *url;      /* base URL of the source's endpoint; "": its own */
    double poll_seconds;  /* between two questions */
    double grace_seconds; /* from notice to end, where it is known; 0: as the source says */
} lks_preemption;

typedef struct lks_notice_watch {
    /* Called on one rank of each node before the first step; may start a thread. The settings are to be copied;
     * their texts live as long as the configuration. */
    lks_status (*start)(void *user, const lks_preemption *preemption);
    /* Called there once a step, from the main thread; quick. 0: no notice; else the seconds that are
     * left, INFINITY when nobody knows. */
    double (*check)(void *user);
    void *user;
} lks_notice_watch;

#endif
