#include "launcher/launch_hosts.h"
#include "runtime/base/files.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"

#include <ctype.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HOSTFILE_BYTES_MAX = 16 << 20, SLOTS_MAX = 65536, SLURM_RANGE_MAX = 65536 };

static const char operator_hostfile[] = "/etc/mpi/hostfile";

void lks_hosts_release(lks_hosts *hosts)
{
    for (size_t i = 0; i < hosts->count; ++i) {
        free(hosts->items[i].name);
        free(hosts->items[i].said);
    }
    lks_memory_free(hosts->items);
    *hosts = (lks_hosts){0};
}

static lks_status hosts_add(lks_hosts *hosts, const char *name, size_t length, int slots)
{
    for (size_t i = 0; i < hosts->count; ++i) {
        lks_host *host = &hosts->items[i];
        if (strlen(host->name) == length && !strncmp(host->name, name, length)) {
            host->slots += slots;
            return LKS_OK;
        }
    }
    LKS_TRY(LKS_GROW(&hosts->items, &hosts->capacity, hosts->count + 1));
    lks_host *host = &hosts->items[hosts->count];
    *host = (lks_host){.name = strndup(name, length), .slots = slots, .frozen = -1};
    if (!host->name)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the list of hosts");
    ++hosts->count;
    return LKS_OK;
}

/* --- Hostfiles ------------------------------------------------------------ */

/* What ssh and mpirun take: no option, nothing that a terminal or a shell obeys. */
#define NAME_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:@[]%"

static bool parse_slots(const char *text, int *slots)
{
    int64_t number;
    if (!lks_text_parse_integer(text, &number) || number < 1 || number > SLOTS_MAX)
        return false;
    *slots = (int)number;
    return true;
}

static lks_status hostfile_line(lks_hosts *hosts, char *line, const char *path, int number)
{
    for (const char *c = line; *c; ++c)
        if ((unsigned char)*c >= 127) /* not repeated: it may be no UTF-8 */
            return LKS_FAIL(LKS_ERR_USAGE,
                            "%s:%d: a byte that is not ASCII, want lines such as: host1 slots=4",
                            path, number);
    char *rest = NULL, *name = strtok_r(line, " \t\r", &rest);
    if (!name)
        return LKS_OK;
    if (*name == '-' || name[strspn(name, NAME_CHARACTERS)])
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%s:%d: \"%s\" is no host's name, want lines such as: host1 slots=4", path,
                        number, name);
    int slots = 1;
    char *colon = strchr(name, ':');
    if (colon && !strchr(colon + 1, ':')) {
        if (!parse_slots(colon + 1, &slots))
            return LKS_FAIL(LKS_ERR_USAGE, "%s:%d: \"%s\", want HOST, HOST slots=N or HOST:N", path,
                            number, name);
        *colon = '\0';
    }
    for (char *word; (word = strtok_r(NULL, " \t\r", &rest));) {
        if (!strncmp(word, "max_slots=", 10) || !strncmp(word, "max-slots=", 10))
            continue;
        if (strncmp(word, "slots=", 6) || !parse_slots(word + 6, &slots))
            return LKS_FAIL(LKS_ERR_USAGE, "%s:%d: \"%s\", want slots=N with N from 1 to %d", path,
                            number, word, SLOTS_MAX);
    }
    return hosts_add(hosts, name, strlen(name), slots);
}

lks_status lks_hosts_read(lks_hosts *out, const char *path)
{
    char *text, *rest = NULL;
    size_t bytes;
    int number = 0;
    LKS_TRY(lks_files_read(path, HOSTFILE_BYTES_MAX, &text, &bytes));
    lks_status status = LKS_OK;
    for (char *line = text; line && status == LKS_OK; line = rest) {
        rest = strchr(line, '\n');
        if (rest)
            *rest++ = '\0';
        line[strcspn(line, "#")] = '\0';
        status = hostfile_line(out, line, path, ++number);
    }
    free(text);
    if (status == LKS_OK && !out->count)
        status =
            LKS_FAIL(LKS_ERR_USAGE, "%s names no host, want lines such as: host1 slots=4", path);
    return status;
}

/* --- SLURM ---------------------------------------------------------------- */

static lks_status slurm_malformed(const char *nodes)
{
    return LKS_FAIL(LKS_ERR_USAGE,
                    "SLURM_JOB_NODELIST is \"%s\", which is not a list of nodes: name the hosts "
                    "with --hosts",
                    nodes);
}

/* "1-3,07": each with what stands before and after the brackets. */
static lks_status slurm_ranges(lks_hosts *out, const char *nodes, const char *prefix,
                               int prefix_length, const char *suffix, int suffix_length,
                               const char *range, const char *end)
{
    while (range < end) {
        char *after;
        long first = strtol(range, &after, 10), last = first;
        int width = (int)(after - range);
        if (!isdigit((unsigned char)*range))
            return slurm_malformed(nodes);
        if (*after == '-')
            last = strtol(after + 1, &after, 10);
        if (last < first || last - first > SLURM_RANGE_MAX || (after < end && *after != ','))
            return slurm_malformed(nodes);
        for (long i = first; i <= last; ++i) {
            char name[512];
            int length = snprintf(name, sizeof name, "%.*s%0*ld%.*s", prefix_length, prefix, width,
                                  i, suffix_length, suffix);
            if (length >= (int)sizeof name)
                return slurm_malformed(nodes);
            LKS_TRY(hosts_add(out, name, (size_t)length, 1));
        }
        range = after + 1;
    }
    return LKS_OK;
}

static lks_status slurm_names(lks_hosts *out, const char *nodes)
{
    for (const char *at = nodes; *at;) {
        size_t plain = strcspn(at, ",[");
        if (!plain)
            return slurm_malformed(nodes);
        if (at[plain] != '[') {
            LKS_TRY(hosts_add(out, at, plain, 1));
            at += plain + (at[plain] == ',');
            continue;
        }
        const char *close = strchr(at + plain, ']');
        if (!close)
            return slurm_malformed(nodes);
        int suffix = (int)strcspn(close + 1, ",[");
        if (close[1 + suffix] == '[')
            return slurm_malformed(nodes);
        LKS_TRY(slurm_ranges(out, nodes, at, (int)plain, close + 1, suffix, at + plain + 1, close));
        at = close + 1 + suffix;
        at += *at == ',';
    }
    return LKS_OK;
}

/* "4(x3),2" */
static void slurm_slots(lks_hosts *hosts, const char *tasks)
{
    size_t host = 0;
    for (const char *at = tasks; at && *at && host < hosts->count;) {
        char *after;
        long slots = strtol(at, &after, 10), repeat = 1;
        if (!strncmp(after, "(x", 2))
            repeat = strtol(after + 2, &after, 10);
        for (long i = 0; i < repeat && host < hosts->count; ++i)
            hosts->items[host++].slots = slots > 0 && slots <= SLOTS_MAX ? (int)slots : 1;
        after += strcspn(after, ",");
        at = *after ? after + 1 : after;
    }
}

lks_status lks_hosts_expand_slurm(lks_hosts *out, const char *nodes, const char *tasks)
{
    LKS_TRY(slurm_names(out, nodes));
    if (!out->count)
        return slurm_malformed(nodes);
    slurm_slots(out, tasks);
    return LKS_OK;
}

/* SLURM's own tool knows every form of the list; where it is missing (containers), the usual one
 * is read here. */
static lks_status slurm_ask(lks_hosts *out)
{
    char line[1024];
    FILE *answer = popen("exec scontrol show hostnames 2>/dev/null", "re");
    lks_status status = LKS_OK;
    while (answer && status == LKS_OK && fgets(line, sizeof line, answer)) {
        size_t length = strcspn(line, "\n");
        if (length)
            status = hosts_add(out, line, length, 1);
    }
    if (answer)
        pclose(answer);
    return status;
}

static lks_status hosts_from_slurm(lks_hosts *out, const char *nodes)
{
    const char *tasks = getenv("SLURM_TASKS_PER_NODE");
    if (!tasks)
        tasks = getenv("SLURM_JOB_CPUS_PER_NODE");
    out->source = "SLURM";
    LKS_TRY(slurm_ask(out));
    if (!out->count)
        return lks_hosts_expand_slurm(out, nodes, tasks);
    slurm_slots(out, tasks);
    return LKS_OK;
}

/* -------------------------------------------------------------------------- */

int lks_cores_here(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
}

lks_status lks_hosts_find(lks_hosts *out, const char *file)
{
    const char *nodes = getenv("SLURM_JOB_NODELIST");
    *out = (lks_hosts){.source = file};
    if (file)
        return lks_hosts_read(out, file);
    if (nodes && *nodes)
        return hosts_from_slurm(out, nodes);
    out->source = operator_hostfile;
    if (lks_files_exists(operator_hostfile))
        return lks_hosts_read(out, operator_hostfile);
    out->source = "this machine";
    return hosts_add(out, "localhost", strlen("localhost"), lks_cores_here());
}

static bool same_host(const char *a, const char *b)
{
    size_t short_a = strcspn(a, "."), short_b = strcspn(b, ".");
    if (a[short_a] && b[short_b])
        return !strcmp(a, b);
    return short_a == short_b && !strncmp(a, b, short_a);
}

bool lks_host_is_here(const lks_host *host)
{
    char name[256] = "";
    gethostname(name, sizeof name - 1);
    return !strcmp(host->name, "localhost") || !strcmp(host->name, "127.0.0.1") ||
           same_host(host->name, name);
}

lks_host *lks_hosts_named(lks_hosts *hosts, const char *name)
{
    for (size_t i = 0; i < hosts->count; ++i)
        if (same_host(hosts->items[i].name, name))
            return &hosts->items[i];
    for (size_t i = 0; i < hosts->count; ++i) {
        lks_host here = {.name = (char *)(uintptr_t)name};
        if (lks_host_is_here(&hosts->items[i]) && lks_host_is_here(&here))
            return &hosts->items[i];
    }
    return NULL;
}
