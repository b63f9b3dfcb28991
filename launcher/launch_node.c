#include "launcher/launch_node.h"
#include "runtime/base/clock.h"
#include "runtime/base/files.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PROC_FILE_MAX = 8 << 20 };
static const uint64_t clear_limit_ns = 5000000000;

typedef struct node_process {
    pid_t pid;
    int rank; /* -1: no rank */
    char state;
} node_process;

/* Files of /proc have no size: read until the end. The text ends in NUL. */
static bool read_proc(pid_t pid, const char *name, lks_text *out)
{
    char path[64], part[16384];
    snprintf(path, sizeof path, "/proc/%ld/%s", (long)pid, name);
    lks_text_clear(out);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    ssize_t got;
    while ((got = read(file, part, sizeof part)) > 0 && out->length < PROC_FILE_MAX)
        lks_text_append_bytes(out, part, (size_t)got);
    close(file);
    return got >= 0 && out->length && !out->failed;
}

/* The value of `name` in an environment of NUL-ended texts. */
static const char *environment_value(const lks_text *environment, const char *name)
{
    size_t length = strlen(name);
    for (size_t at = 0; at < environment->length; at += strlen(environment->data + at) + 1)
        if (!strncmp(environment->data + at, name, length) && environment->data[at + length] == '=')
            return environment->data + at + length + 1;
    return NULL;
}

static char process_state(pid_t pid, lks_text *scratch)
{
    if (!read_proc(pid, "stat", scratch))
        return 'X';
    const char *after_name = strrchr(scratch->data, ')');
    return after_name && after_name[1] ? after_name[2] : 'X';
}

static bool node_process_of(pid_t pid, const char *mark, lks_text *scratch, node_process *out)
{
    if (pid == getpid() || !read_proc(pid, "environ", scratch))
        return false;
    const char *value = environment_value(scratch, LKS_LAUNCH_MARK);
    if (!value || strcmp(value, mark))
        return false;
    const char *rank = environment_value(scratch, "OMPI_COMM_WORLD_RANK");
    *out = (node_process){.pid = pid, .rank = rank ? atoi(rank) : -1};
    out->state = process_state(pid, scratch);
    return out->state != 'Z' && out->state != 'X';
}

/* Calls `act` for each process of the start; returns how many there are. */
static size_t each_process(const char *mark, void (*act)(const node_process *, lks_text *),
                           lks_text *answer)
{
    size_t count = 0;
    DIR *directory = opendir("/proc");
    lks_text scratch = {0};
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        node_process process;
        if (!isdigit((unsigned char)entry->d_name[0]) ||
            !node_process_of((pid_t)atol(entry->d_name), mark, &scratch, &process))
            continue;
        act(&process, answer);
        ++count;
    }
    if (directory)
        closedir(directory);
    lks_text_release(&scratch);
    return count;
}

static void act_tell(const node_process *process, lks_text *answer)
{
    lks_text_append(answer, "%d %ld %c\n", process->rank, (long)process->pid, process->state);
}

static void act_kill(const node_process *process, lks_text *answer)
{
    (void)answer;
    kill(process->pid, SIGKILL);
}

/* --- Shared memory of Open MPI -------------------------------------------- */

static bool is_mapped_by(pid_t pid, const char *path, lks_text *scratch)
{
    return read_proc(pid, "maps", scratch) && strstr(scratch->data, path);
}

static bool is_mapped(const char *path)
{
    bool mapped = false;
    DIR *directory = opendir("/proc");
    lks_text scratch = {0};
    for (struct dirent *entry; directory && !mapped && (entry = readdir(directory));)
        if (isdigit((unsigned char)entry->d_name[0]))
            mapped = is_mapped_by((pid_t)atol(entry->d_name), path, &scratch);
    if (directory)
        closedir(directory);
    lks_text_release(&scratch);
    return mapped;
}

/* A rank that was killed while its mpirun was, too, leaves its segment. Nobody can ever open it
 * again: its name holds the number of the dead start. */
static void remove_segments(void)
{
    char host[256] = "", path[768];
    struct stat file;
    lks_file_list names = {0};
    gethostname(host, sizeof host - 1);
    if (lks_files_list("/dev/shm", &names) != LKS_OK)
        return;
    for (size_t i = 0; i < names.count; ++i) {
        const char *name = names.names[i], prefix[] = "vader_segment.";
        if (strncmp(name, prefix, sizeof prefix - 1) || strlen(name) > 500 ||
            strncmp(name + sizeof prefix - 1, host, strlen(host)))
            continue;
        snprintf(path, sizeof path, "/dev/shm/%s", name);
        if (lstat(path, &file) == 0 && file.st_uid == geteuid() && !is_mapped(path))
            unlink(path);
    }
    lks_file_list_release(&names);
}

static lks_status clear(const char *mark)
{
    struct timespec pause = {.tv_nsec = 10000000};
    uint64_t start = lks_clock_ns();
    size_t left;
    while ((left = each_process(mark, act_kill, NULL)) && lks_clock_ns() - start < clear_limit_ns)
        nanosleep(&pause, NULL);
    if (left)
        return LKS_FAIL(LKS_ERR_IO, "%zu processes of the last start cannot be killed", left);
    remove_segments();
    return LKS_OK;
}

/* Stopped is who is so twice: a job that is being continued after a pause is not. */
static void look(const char *mark, lks_text *answer)
{
    struct timespec pause = {.tv_nsec = 500000000};
    each_process(mark, act_tell, answer);
    if (!answer->length || !strstr(answer->data, " T\n"))
        return;
    nanosleep(&pause, NULL);
    lks_text_clear(answer);
    each_process(mark, act_tell, answer);
}

static lks_status name(lks_text *answer)
{
    char host[256] = "";
    if (gethostname(host, sizeof host - 1))
        return LKS_FAIL(LKS_ERR_IO, "this host has no name: %s", strerror(errno));
    lks_text_append(answer, "%s %s\n", host, LKS_VERSION);
    return LKS_OK;
}

lks_status lks_node_obey(const char *order, lks_text *answer)
{
    if (!strncmp(order, "clear:", 6) && order[6])
        return clear(order + 6);
    if (!strcmp(order, "name:"))
        return name(answer);
    if (strncmp(order, "look:", 5) || !order[5])
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--on-host is \"%s\", want look:MARK, clear:MARK or name:", order);
    look(order + 5, answer);
    return LKS_OK;
}
