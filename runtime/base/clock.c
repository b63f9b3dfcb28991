#include "runtime/base/clock.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { NS_PER_SECOND = 1000000000 };

static uint64_t clock_read_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * NS_PER_SECOND + (uint64_t)now.tv_nsec;
}

uint64_t lks_clock_ns(void)
{
    return clock_read_ns(CLOCK_MONOTONIC);
}

const char *lks_clock_wall(char *out, size_t size)
{
    time_t now = time(NULL);
    struct tm parts;
    if (size > 0)
        out[0] = '\0';
    if (gmtime_r(&now, &parts) && strftime(out, size, "%Y-%m-%dT%H:%M:%SZ", &parts) == 0 && size)
        out[0] = '\0';
    return out;
}

/* Field 22 of /proc/self/stat, counted after the name's closing parenthesis: clock
 * ticks from boot to the start of this process. 0 when it cannot be read. */
static uint64_t clock_start_ticks(void)
{
    char stat[1024];
    int file = open("/proc/self/stat", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return 0;
    ssize_t bytes = read(file, stat, sizeof stat - 1);
    close(file);
    if (bytes <= 0)
        return 0;
    stat[bytes] = '\0';
    char *field = strrchr(stat, ')');
    for (int number = 2; field && number < 22; ++number)
        field = strchr(field + 1, ' ');
    return field ? strtoull(field, NULL, 10) : 0;
}

uint64_t lks_clock_process_start_ns(void)
{
    uint64_t now = lks_clock_ns();
    uint64_t ticks = clock_start_ticks();
    uint64_t per_second = (uint64_t)sysconf(_SC_CLK_TCK);
    if (ticks == 0 || per_second == 0)
        return now;
    uint64_t start =
        ticks / per_second * NS_PER_SECOND + ticks % per_second * (NS_PER_SECOND / per_second);
    uint64_t boot = clock_read_ns(CLOCK_BOOTTIME);
    uint64_t age = boot > start ? boot - start : 0;
    return age < now ? now - age : 0;
}
