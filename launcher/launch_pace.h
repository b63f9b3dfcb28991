/* How long the steps of a start take. */
#ifndef LKS_LAUNCHER_LAUNCH_PACE_H
#define LKS_LAUNCHER_LAUNCH_PACE_H

#include <stddef.h>

enum { LKS_PACE_RECENT = 15 };

typedef struct lks_pace {
    double recent[LKS_PACE_RECENT]; /* seconds; the newest at (count - 1) % LKS_PACE_RECENT */
    size_t count;                   /* added so far */
    double longest;                 /* of late: forgotten slowly */
} lks_pace;

void lks_pace_add(lks_pace *pace, double seconds);
/* The median of the recent ones, which a slow one among them leaves as it is; 0: none yet. */
double lks_pace_usual(const lks_pace *pace);

#endif
