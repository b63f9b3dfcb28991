/* Time: a monotonic clock for durations, wall time for provenance only. */
#ifndef LKS_BASE_CLOCK_H
#define LKS_BASE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

uint64_t lks_clock_ns(void); /* monotonic */
static inline double lks_clock_seconds_since(uint64_t start_ns)
{
    return (double)(lks_clock_ns() - start_ns) * 1e-9;
}
/* "2030-01-02T03:04:05Z" */
const char *lks_clock_wall(char *out, size_t size);
/* Monotonic ns at which this process was started, from /proc; for the time to
 * the first step. */
uint64_t lks_clock_process_start_ns(void);

#endif
