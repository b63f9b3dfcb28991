#include "launcher/launch_pace.h"

#include <stdlib.h>
#include <string.h>

static const double forgotten_each_step = 0.02;

void lks_pace_add(lks_pace *pace, double seconds)
{
    pace->recent[pace->count++ % LKS_PACE_RECENT] = seconds;
    if (seconds > pace->longest)
        pace->longest = seconds;
    else
        pace->longest += forgotten_each_step * (seconds - pace->longest);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double lks_pace_usual(const lks_pace *pace)
{
    double sorted[LKS_PACE_RECENT];
    size_t count = pace->count < LKS_PACE_RECENT ? pace->count : LKS_PACE_RECENT;
    if (!count)
        return 0;
    memcpy(sorted, pace->recent, count * sizeof *sorted);
    qsort(sorted, count, sizeof *sorted, compare);
    return sorted[(count - 1) / 2];
}
