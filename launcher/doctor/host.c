#include "launcher/doctor/host.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

bool lks_host_read_line(const char *path, char *line, size_t size)
{
    FILE *file = fopen(path, "re");
    bool read = file && fgets(line, (int)size, file);
    if (file)
        fclose(file);
    if (read)
        line[strcspn(line, "\n")] = '\0';
    return read;
}

bool lks_host_read_number(const char *path, const char *key, uint64_t *out)
{
    char line[256];
    unsigned long long number;
    bool found = false;
    FILE *file = fopen(path, "re");
    while (file && !found && fgets(line, sizeof line, file))
        found =
            !strncmp(line, key, strlen(key)) && sscanf(line + strlen(key), "%llu", &number) == 1;
    if (file)
        fclose(file);
    if (found)
        *out = number;
    return found;
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* Control groups of the second kind, then of the first. Files that they could forget do not count. */
static uint64_t group_bytes(void)
{
    static const char *const limits[] = {"/sys/fs/cgroup/memory.max",
                                         "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    static const char *const uses[] = {"/sys/fs/cgroup/memory.current",
                                       "/sys/fs/cgroup/memory/memory.usage_in_bytes"};
    static const char *const stats[] = {"/sys/fs/cgroup/memory.stat",
                                        "/sys/fs/cgroup/memory/memory.stat"};
    for (int i = 0; i < 2; ++i) {
        uint64_t limit, used, active = 0, inactive = 0;
        if (!lks_host_read_number(limits[i], "", &limit) ||
            !lks_host_read_number(uses[i], "", &used))
            continue;
        (void)lks_host_read_number(stats[i], "active_file ", &active);
        (void)lks_host_read_number(stats[i], "inactive_file ", &inactive);
        used -= least(active + inactive, used);
        return limit > used ? limit - used : 0;
    }
    return UINT64_MAX;
}

uint64_t lks_host_available_bytes(void)
{
    uint64_t kib, bytes = UINT64_MAX;
    struct rlimit space;
    if (lks_host_read_number("/proc/meminfo", "MemAvailable:", &kib))
        bytes = kib << 10;
    if (getrlimit(RLIMIT_AS, &space) == 0 && space.rlim_cur != RLIM_INFINITY)
        bytes = least(bytes, space.rlim_cur);
    return least(bytes, group_bytes());
}

double lks_host_group_cores(void)
{
    char line[64];
    long long quota = 0, period = 0;
    uint64_t old_period;
    if (lks_host_read_line("/sys/fs/cgroup/cpu.max", line, sizeof line) &&
        sscanf(line, "%lld %lld", &quota, &period) == 2 && period > 0)
        return (double)quota / (double)period;
    if (lks_host_read_line("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", line, sizeof line) &&
        (quota = atoll(line)) > 0 &&
        lks_host_read_number("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "", &old_period) && old_period)
        return (double)quota / (double)old_period;
    return INFINITY;
}

/* --- Mounts ------------------------------------------------------------------------ */

/* mountinfo writes spaces as \040. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *at = text; *at; ++to) {
        unsigned code;
        if (at[0] == '\\' && sscanf(at + 1, "%3o", &code) == 1) {
            *to = (char)code;
            at += 4;
        } else {
            *to = *at++;
        }
    }
    *to = '\0';
}

static bool lies_below(const char *path, const char *point)
{
    size_t length = strlen(point);
    if (!strcmp(point, "/"))
        return true;
    return !strncmp(path, point, length) && (path[length] == '/' || !path[length]);
}

/* "36 35 98:0 /root /point options shared:1 - type source super" */
static bool parse_mount(char *line, lks_mount *out)
{
    char *rest = strstr(line, " - ");
    if (!rest || sscanf(line, "%*s %*s %*s %*s %1023s %511s", out->point, out->options) != 2 ||
        sscanf(rest + 3, "%63s %1023s %511s", out->type, out->source, out->super_options) != 3)
        return false;
    unescape(out->point);
    unescape(out->source);
    return true;
}

bool lks_host_find_mount(const char *path, lks_mount *out)
{
    char *line = NULL;
    size_t capacity = 0, deepest = 0;
    bool found = false;
    lks_mount it;
    FILE *file = fopen("/proc/self/mountinfo", "re");
    while (file && getline(&line, &capacity, file) > 0) {
        /* Of several on one point the last covers the others. */
        if (!parse_mount(line, &it) || !lies_below(path, it.point) || strlen(it.point) < deepest)
            continue;
        deepest = strlen(it.point);
        *out = it;
        found = true;
    }
    free(line);
    if (file)
        fclose(file);
    return found;
}

bool lks_mount_is_network(const char *type)
{
    static const char *const types[] = {"nfs",       "nfs4",  "lustre", "gpfs", "beegfs",
                                        "ceph",      "cifs",  "smb3",   "9p",   "virtiofs",
                                        "glusterfs", "pvfs2", "wekafs", "afs",  "fuse."};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; ++i)
        if (!strcmp(type, types[i]) ||
            (types[i][strlen(types[i]) - 1] == '.' && !strncmp(type, types[i], strlen(types[i]))))
            return true;
    return false;
}
