/* The directory in node memory: names, the lock of the living, and what the dead left. */
#include "checkpoints/directory.h"
#include "checkpoints/memory_state.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const char lock_name[] = "lock";
enum { LOCK_TRIES = 200, LOCK_PAUSE_NS = 10000000, PATH_LIMIT = 65536 };

/* --- Names ---------------------------------------------------------------------- */

void lks_memory_copy_name(const lks_memory_copies *c, uint64_t step, int world_size, int rank,
                          char out[LKS_MEMORY_NAME])
{
    snprintf(out, LKS_MEMORY_NAME, "%sstep-%08" PRIu64 "-rank-%d-of-%d-at-%d", c->prefix, step,
             rank, world_size, lks_comm_rank(c->comm));
}

/* "lockstep-<16 hex>-<16 hex>-" */
static bool has_prefix(const char *name)
{
    return strlen(name) > LKS_MEMORY_PREFIX && strncmp(name, "lockstep-", 9) == 0 &&
           strspn(name + 9, "0123456789abcdef") == 16 && name[25] == '-' &&
           strspn(name + 26, "0123456789abcdef") == 16 && name[42] == '-';
}

static bool is_copy(const char *name, uint64_t *step)
{
    return sscanf(name + LKS_MEMORY_PREFIX, "step-%20" SCNu64 "-", step) == 1;
}

static void remove_file(const char *directory, const char *name)
{
    char *path = lks_files_join(directory, name);
    if (path != NULL)
        unlink(path); /* another rank may have been quicker */
    free(path);
}

uint64_t lks_memory_disk_step(const char *run_directory)
{
    uint64_t *steps, newest = 0;
    size_t count;
    char *directory = lks_files_join(run_directory, "checkpoints");
    if (directory != NULL && lks_files_is_directory(directory) &&
        lks_directory_steps(directory, &steps, &count) == LKS_OK) {
        newest = count > 0 ? steps[count - 1] : 0;
        free(steps);
    }
    free(directory);
    return newest;
}

/* --- The lock ------------------------------------------------------------------- */

/* The file that `path` names now, and not one that was removed meanwhile. */
static bool is_current(int file, const char *path)
{
    struct stat have, there;
    return fstat(file, &have) == 0 && stat(path, &there) == 0 && have.st_dev == there.st_dev &&
           have.st_ino == there.st_ino;
}

/* -1: somebody holds it otherwise, or an error (errno). */
static int try_lock(const char *path, int operation)
{
    int file = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0)
        return -1;
    if (flock(file, operation | LOCK_NB) == 0 && is_current(file, path))
        return file;
    close(file);
    errno = EWOULDBLOCK;
    return -1;
}

lks_status lks_memory_lock(lks_memory_copies *c)
{
    char name[LKS_MEMORY_NAME];
    struct timespec pause = {.tv_nsec = LOCK_PAUSE_NS};
    snprintf(name, sizeof name, "%s%s", c->prefix, lock_name);
    char *path = lks_files_join(c->directory, name);
    if (path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    /* Another run that cleans up holds it for a moment. */
    for (int i = 0; i < LOCK_TRIES && c->lock < 0; ++i) {
        c->lock = try_lock(path, LOCK_SH);
        if (c->lock < 0 && errno != EWOULDBLOCK)
            break;
        if (c->lock < 0)
            nanosleep(&pause, NULL);
    }
    lks_status status = LKS_OK;
    if (c->lock < 0)
        status = LKS_FAIL(LKS_ERR_IO, "cannot lock %s: %s", path, strerror(errno));
    else
        status = lks_files_pwrite(c->lock, path, c->run_directory, strlen(c->run_directory), 0);
    free(path);
    return status;
}

/* --- Other runs ----------------------------------------------------------------- */

/* Whether the directory is still that run's. When in doubt, it is. */
static bool is_run(const char *run_directory, const char *prefix)
{
    char id[17], *path = lks_files_join(run_directory, "run.json");
    struct stat about;
    bool is = true;
    json_t *json = NULL;
    const char *text;
    snprintf(id, sizeof id, "%.16s", prefix + 9);
    if (path == NULL)
        return true;
    if (stat(path, &about) != 0)
        is = errno != ENOENT && errno != ENOTDIR;
    else if (lks_json_load(path, &json) == LKS_OK &&
             lks_json_get_string(json, path, "run_id", &text) == LKS_OK)
        is = strcmp(text, id) == 0;
    json_decref(json);
    free(path);
    return is;
}

/* A copy older than the newest checkpoint is of no use; a partial one never is. */
static size_t remove_useless(const char *directory, char **names, size_t count,
                             const char *run_directory)
{
    bool run = run_directory[0] == '/' && is_run(run_directory, names[0]);
    uint64_t disk_step = run ? lks_memory_disk_step(run_directory) : 0, step;
    size_t left = 0;
    for (size_t i = 0; i < count; ++i) {
        if (strcmp(names[i] + LKS_MEMORY_PREFIX, lock_name) == 0)
            continue;
        if (run && is_copy(names[i], &step) && step >= disk_step)
            ++left;
        else
            remove_file(directory, names[i]);
    }
    return left;
}

static void clean_run(const char *directory, char **names, size_t count)
{
    char lock[LKS_MEMORY_NAME], *run_directory = NULL;
    size_t bytes;
    struct stat about;
    snprintf(lock, sizeof lock, "%.*s%s", LKS_MEMORY_PREFIX, names[0], lock_name);
    char *path = lks_files_join(directory, lock), *first = lks_files_join(directory, names[0]);
    int file = -1;
    if (path != NULL && first != NULL && lstat(first, &about) == 0 && about.st_uid == geteuid())
        file = try_lock(path, LOCK_EX);
    if (file >= 0 && lks_files_read(path, PATH_LIMIT, &run_directory, &bytes) == LKS_OK &&
        remove_useless(directory, names, count, run_directory) == 0) {
        remove_file(directory, lock);
        lks_log_verbose("removed what a dead job left in node memory: %.*s*", LKS_MEMORY_PREFIX,
                        names[0]);
    }
    if (file >= 0)
        close(file);
    free(run_directory);
    free(first);
    free(path);
}

lks_status lks_memory_clean_others(const lks_memory_copies *c)
{
    lks_file_list list;
    LKS_TRY(lks_files_list(c->directory, &list));
    for (size_t i = 0, end; i < list.count; i = end) {
        end = i + 1;
        if (!has_prefix(list.names[i]) || strncmp(list.names[i], c->prefix, LKS_MEMORY_PREFIX) == 0)
            continue;
        while (end < list.count && strncmp(list.names[i], list.names[end], LKS_MEMORY_PREFIX) == 0)
            ++end;
        clean_run(c->directory, list.names + i, end - i);
    }
    lks_file_list_release(&list);
    return LKS_OK;
}

/* --- This run ------------------------------------------------------------------- */

static bool belongs_to(const lks_memory_copies *c, const char *name, const lks_memory_entry *keep)
{
    size_t bytes;
    void *map = NULL;
    char *path = lks_files_join(c->directory, name);
    bool belongs = false;
    if (path != NULL && lks_memory_map_file(path, &map, &bytes) == LKS_OK) {
        const lks_memory_header *h = map;
        belongs = h->start == c->start ||
                  (keep != NULL && h->start == keep->start && h->step == keep->step);
        lks_memory_unmap_file(map, bytes);
    }
    free(path);
    return belongs;
}

lks_status lks_memory_clean_own(const lks_memory_copies *c, const lks_memory_entry *keep)
{
    lks_file_list list;
    uint64_t step;
    LKS_TRY(lks_files_list(c->directory, &list));
    for (size_t i = 0; i < list.count; ++i) {
        const char *name = list.names[i];
        if (strncmp(name, c->prefix, LKS_MEMORY_PREFIX) != 0 ||
            strcmp(name + LKS_MEMORY_PREFIX, lock_name) == 0)
            continue;
        bool mine = strstr(name + LKS_MEMORY_PREFIX, "partial") != NULL && c->series != NULL;
        if (!mine && !(is_copy(name, &step) && belongs_to(c, name, keep)))
            remove_file(c->directory, name);
    }
    lks_file_list_release(&list);
    return LKS_OK;
}

void lks_memory_leave(const lks_memory_copies *c)
{
    lks_file_list list;
    size_t count = 0;
    char lock[LKS_MEMORY_NAME];
    if (lks_files_list(c->directory, &list) != LKS_OK)
        return;
    for (size_t i = 0; i < list.count; ++i)
        count += strncmp(list.names[i], c->prefix, LKS_MEMORY_PREFIX) == 0;
    lks_file_list_release(&list);
    snprintf(lock, sizeof lock, "%s%s", c->prefix, lock_name);
    if (count == 1)
        remove_file(c->directory, lock);
}

lks_status lks_memory_remove_run(const lks_memory_copies *c)
{
    lks_file_list list;
    char lock[LKS_MEMORY_NAME];
    LKS_TRY(lks_files_list(c->directory, &list));
    snprintf(lock, sizeof lock, "%s%s", c->prefix, lock_name);
    for (size_t i = 0; i < list.count; ++i)
        if (strncmp(list.names[i], c->prefix, LKS_MEMORY_PREFIX) == 0 &&
            strcmp(list.names[i], lock) != 0)
            remove_file(c->directory, list.names[i]);
    lks_file_list_release(&list);
    remove_file(c->directory, lock); /* last: while it is there, the files have an owner */
    return LKS_OK;
}
