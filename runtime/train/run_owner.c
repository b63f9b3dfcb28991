#include "runtime/train/run_owner.h"
#include "runtime/base/clock.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

/* --- The lock ------------------------------------------------------------------------- */

/* False: another start has put a new file in its place. */
static bool is_still_there(int lock, const char *path)
{
    struct stat held, named;
    return !fstat(lock, &held) && !stat(path, &named) && held.st_dev == named.st_dev &&
           held.st_ino == named.st_ino;
}

static lks_status lock_once(const char *path, int *lock, bool *held)
{
    *lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (*lock < 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    *held = !flock(*lock, LOCK_EX | LOCK_NB);
    if (!*held && errno != EWOULDBLOCK) {
        lks_log_verbose("%s: no locks here (%s): the epoch in run.json alone keeps starts apart",
                        path, strerror(errno));
        *held = true;
    }
    return LKS_OK;
}

static lks_status lock_path(const char *path, const char *directory, bool take_over, int *lock)
{
    bool held = false;
    for (bool taken = false; !held;) {
        LKS_TRY(lock_once(path, lock, &held));
        if (held && is_still_there(*lock, path))
            return LKS_OK;
        close(*lock);
        *lock = -1;
        if (!held && (!take_over || taken))
            return LKS_FAIL(LKS_ERR_USAGE,
                            "%s: another job is running in this directory; wait for it, or name "
                            "another with --run",
                            directory);
        if (!held && unlink(path) && errno != ENOENT)
            return LKS_FAIL(LKS_ERR_IO, "%s: cannot remove: %s", path, strerror(errno));
        taken = taken || !held;
        held = false;
    }
    return LKS_OK;
}

lks_status lks_run_lock(const char *directory, bool take_over, int *lock)
{
    *lock = -1;
    char *path = lks_files_join(directory, "lock");
    if (!path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    lks_status status = lock_path(path, directory, take_over, lock);
    free(path);
    return status;
}

bool lks_run_lock_is_held(const char *directory, int lock)
{
    char *path = lks_files_join(directory, "lock");
    bool held = path && lock >= 0 && is_still_there(lock, path);
    free(path);
    return held;
}

/* --- The owner ------------------------------------------------------------------------ */

void lks_run_new_id(char id[LKS_RUN_ID_SIZE])
{
    uint64_t number = 0;
    if (getrandom(&number, sizeof number, 0) != sizeof number)
        number = lks_clock_ns() ^ (uint64_t)getpid() << 40;
    for (int i = 0; i < LKS_RUN_ID_SIZE - 1; ++i, number >>= 4)
        id[i] = "0123456789abcdef"[number & 15];
    id[LKS_RUN_ID_SIZE - 1] = '\0';
}

lks_run_owner lks_run_owner_of(const json_t *json)
{
    lks_run_owner owner = {0};
    const json_t *member = json_object_get(json, "owner");
    const char *start = json_string_value(json_object_get(member, "start"));
    const char *host = json_string_value(json_object_get(member, "host"));
    json_int_t epoch = json_integer_value(json_object_get(json, "epoch"));
    owner.epoch = epoch > 0 ? (uint64_t)epoch : 0;
    snprintf(owner.start, sizeof owner.start, "%s", start ? start : "");
    snprintf(owner.host, sizeof owner.host, "%s", host ? host : "an unknown host");
    return owner;
}

/* Opening is what makes a network file system look again. */
lks_status lks_run_owner_read(const char *path, struct stat *info, lks_run_owner *owner)
{
    json_t *json;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, info)) {
        lks_status status = LKS_FAIL(LKS_ERR_IO, "%s: cannot open: %s; it says who owns the run",
                                     path, strerror(errno));
        if (file >= 0)
            close(file);
        return status;
    }
    close(file);
    if (!owner)
        return LKS_OK;
    LKS_TRY(lks_json_load(path, &json));
    *owner = lks_run_owner_of(json);
    json_decref(json);
    return LKS_OK;
}

lks_status lks_run_owner_fail(const char *path, const lks_run_owner *owner)
{
    return LKS_FAIL(LKS_ERR_USAGE,
                    "%s: fenced: a newer start (epoch %llu, %s) owns this run; this one writes "
                    "nothing more",
                    path, (unsigned long long)owner->epoch, owner->host);
}
