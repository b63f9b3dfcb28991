/* What the hosts' answers to "look:MARK" (see launch_node.h) say about the ranks of a start. */
#ifndef LKS_LAUNCHER_LAUNCH_LOOK_H
#define LKS_LAUNCHER_LAUNCH_LOOK_H

#include "launcher/launch_hosts.h"
#include "runtime/base/text.h"

typedef struct lks_look {
    const lks_host *silent,
        *frozen; /* the first that does not answer; that has a stopped rank; NULL: none */
    bool gone;   /* there are fewer ranks than there must be, however many run on silent hosts */
    int rank;    /* the lowest that is gone; -1: not known, since hosts are silent */
    int missing; /* ranks that are gone; 0: not known */
    lks_text
        on; /* their hosts, ", " between; empty: not known, since ranks do not fill the hosts in order */
} lks_look;

/* The lowest rank of an answer that is stopped, -1: none. */
int lks_look_frozen(const char *answer);
/* Of *out the text is to be released. `ranks` were started on the hosts that are `usable`, `per_slot` on each slot. */
lks_status lks_look_read(lks_look *out, const lks_hosts *hosts, const bool *usable, int per_slot,
                         int ranks) LKS_MUST_CHECK;

#endif
