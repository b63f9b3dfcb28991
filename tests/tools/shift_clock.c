/* Preloaded into the program: the time of day is LKS_CLOCK_SHIFT seconds off; with LKS_CLOCK_WANDER it changes
 * sides at every look. Clocks that count from a start are left alone. */
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static atomic_ulong looks;

static time_t shift(void)
{
    const char *seconds = getenv("LKS_CLOCK_SHIFT");
    long by = seconds ? atol(seconds) : 0;
    return getenv("LKS_CLOCK_WANDER") && atomic_fetch_add(&looks, 1) % 2 ? -by : by;
}

int clock_gettime(clockid_t clock, struct timespec *out)
{
    int result = (int)syscall(SYS_clock_gettime, clock, out);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        out->tv_sec += shift();
    return result;
}

int gettimeofday(struct timeval *restrict out, void *restrict zone)
{
    (void)zone;
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    *out = (struct timeval){.tv_sec = now.tv_sec, .tv_usec = now.tv_nsec / 1000};
    return 0;
}

time_t time(time_t *out)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out)
        *out = now.tv_sec;
    return now.tv_sec;
}
