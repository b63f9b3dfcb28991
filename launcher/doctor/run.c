/* Whether all hosts see one run directory, can write to it, how fast, and whether locks reach from host to host. */
#include "launcher/doctor/check.h"
#include "launcher/doctor/host.h"
#include "runtime/base/clock.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum { RATE_CHUNK = 4 << 20, RATE_CHUNKS = 16, STALE_SECONDS = 3600 };
static const double rate_seconds = 1, see_seconds = 2; /* or a part of the check's time */
static const char prefix[] = ".lockstep-doctor-";

/* --- Looking ----------------------------------------------------------------------- */

/* The run directory, or what is there above it, absolute. */
static lks_status existing_part(const char *run, char out[PATH_MAX])
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s", run);
    while (!realpath(path, out)) {
        char *slash = strrchr(path, '/');
        if (errno != ENOENT)
            return LKS_FAIL(LKS_ERR_IO, "%s: %s", path, strerror(errno));
        if (slash == path)
            snprintf(path, sizeof path, "/");
        else if (slash)
            *slash = '\0';
        else
            snprintf(path, sizeof path, ".");
    }
    return LKS_OK;
}

/* Its name goes from rank to rank in JSON. */
static lks_status check_text(const char *path)
{
    json_t *text = json_string(path);
    json_decref(text);
    return text ? LKS_OK
                : LKS_FAIL(LKS_ERR_USAGE, "%s: its name is not UTF-8, so doctor cannot look at it",
                           path);
}

/* What doctors left behind that were killed. */
static void remove_stale(const char *directory)
{
    lks_file_list names;
    struct stat file;
    if (lks_files_list(directory, &names) != LKS_OK)
        return;
    for (size_t i = 0; i < names.count; ++i) {
        char *path = lks_files_join(directory, names.names[i]);
        if (path && !strncmp(names.names[i], prefix, sizeof prefix - 1) &&
            lstat(path, &file) == 0 && file.st_mtime < time(NULL) - STALE_SECONDS)
            unlink(path);
        free(path);
    }
    lks_file_list_release(&names);
}

/* Rank 0 says where, and under which name. */
static lks_status agree_on_place(lks_doctor *d, const char *run, json_t *facts, json_t **place)
{
    json_t *mine = json_object(), *all = NULL;
    if (d->rank == 0) {
        char path[PATH_MAX], nonce[24];
        uint64_t number = lks_clock_ns();
        LKS_TRY(existing_part(run, path));
        LKS_TRY(check_text(path));
        if (getrandom(&number, sizeof number, 0) != (ssize_t)sizeof number)
            number ^= (uint64_t)getpid();
        snprintf(nonce, sizeof nonce, "%016llx", (unsigned long long)number);
        remove_stale(path);
        json_object_set_new(mine, "directory", json_string(path));
        json_object_set_new(mine, "nonce", json_string(nonce));
        json_object_update(facts, mine);
    }
    LKS_TRY(lks_doctor_exchange(d, mine, &all));
    *place = json_incref(json_array_get(all, 0));
    json_decref(all);
    return LKS_OK;
}

static const char *file_of(const lks_doctor *d, const json_t *place, int rank)
{
    return lks_doctor_say(d, "%s/%s%s-%d", json_string_value(json_object_get(place, "directory")),
                          prefix, json_string_value(json_object_get(place, "nonce")), rank);
}

static void put_place(json_t *facts, const char *directory)
{
    struct statvfs disk;
    lks_mount mount;
    if (lks_host_find_mount(directory, &mount))
        json_object_set_new(
            facts, "mount",
            json_pack("{s:o, s:o, s:o, s:o, s:o}", "point", lks_json_text(mount.point), "type",
                      lks_json_text(mount.type), "source", lks_json_text(mount.source), "options",
                      lks_json_text(mount.options), "super", lks_json_text(mount.super_options)));
    if (statvfs(directory, &disk) != 0)
        return;
    json_object_set_new(facts, "size", json_real((double)disk.f_blocks * (double)disk.f_frsize));
    json_object_set_new(facts, "free", json_real((double)disk.f_bavail * (double)disk.f_frsize));
}

static int make_file(const char *path, json_t *facts)
{
    int file = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (file < 0 || write(file, path, strlen(path)) != (ssize_t)strlen(path) || fsync(file))
        json_object_set_new(facts, "write_error", json_string(strerror(errno)));
    return file;
}

/* A network file system may show a new file only after a while. */
static bool sees(const char *path, double seconds)
{
    uint64_t start = lks_clock_ns();
    struct timespec pause = {.tv_nsec = 50000000};
    while (access(path, F_OK) != 0) {
        if (lks_clock_seconds_since(start) > seconds)
            return false;
        nanosleep(&pause, NULL);
    }
    return true;
}

static void look_for_others(lks_doctor *d, const json_t *place, const json_t *written,
                            json_t *facts)
{
    json_t *missing = json_array();
    double seconds = fmin(see_seconds, 0.3 * d->options->limit_seconds);
    for (int r = 0; r < d->size; ++r)
        if (json_is_true(json_object_get(json_array_get(written, (size_t)r), "written")) &&
            !sees(file_of(d, place, r), json_array_size(missing) ? 0 : seconds))
            json_array_append_new(missing, json_integer(r));
    json_object_set_new(facts, "missing", missing);
}

/* Rank 0 holds its file, as train does the run's; nobody else may get it. */
static void try_lock(lks_doctor *d, const json_t *place, json_t *facts)
{
    int file = open(file_of(d, place, 0), O_RDWR | O_CLOEXEC);
    if (file < 0)
        return;
    bool taken = flock(file, LOCK_EX | LOCK_NB) == 0;
    const char *word = taken ? "taken" : errno == EWOULDBLOCK ? "held" : strerror(errno);
    json_object_set_new(facts, "lock", json_string(word));
    close(file);
}

static void measure_rate(const lks_doctor *d, int file, json_t *facts)
{
    char *chunk = malloc(RATE_CHUNK);
    uint64_t start = lks_clock_ns();
    double bytes = 0, most = fmin(rate_seconds, 0.3 * d->options->limit_seconds);
    for (size_t i = 0; chunk && i < RATE_CHUNK; ++i)
        chunk[i] = (char)(i * 2654435761u >> 13); /* nothing that compresses well */
    for (int i = 0; chunk && i < RATE_CHUNKS && lks_clock_seconds_since(start) < most; ++i) {
        ssize_t part = pwrite(file, chunk, RATE_CHUNK, (off_t)i * RATE_CHUNK);
        if (part <= 0 || fdatasync(file)) {
            json_object_set_new(facts, "rate_error", json_string(strerror(errno)));
            break;
        }
        bytes += (double)part;
    }
    json_object_set_new(facts, "rate", json_real(bytes / lks_clock_seconds_since(start)));
    free(chunk);
}

static lks_status barrier(lks_doctor *d, json_t *mine)
{
    json_t *all = NULL;
    LKS_TRY(lks_doctor_exchange(d, mine, &all));
    json_decref(all);
    return LKS_OK;
}

static lks_status look_at(lks_doctor *d, const json_t *place, int *file, json_t *facts)
{
    json_t *written = NULL;
    put_place(facts, json_string_value(json_object_get(place, "directory")));
    *file = make_file(file_of(d, place, d->rank), facts);
    json_t *mine = json_pack("{s:b}", "written", *file >= 0);
    if (*file >= 0 && d->rank == 0 && flock(*file, LOCK_EX | LOCK_NB))
        json_object_set_new(facts, "lock", json_string(strerror(errno)));
    LKS_TRY(lks_doctor_exchange(d, mine, &written));
    look_for_others(d, place, written, facts);
    json_decref(written);
    if (d->rank != 0)
        try_lock(d, place, facts);
    LKS_TRY(barrier(d, json_object())); /* now all write at once, as for a checkpoint */
    if (*file >= 0)
        measure_rate(d, *file, facts);
    return barrier(d, json_object());
}

static lks_status run_look(lks_doctor *d, json_t *facts)
{
    json_t *place = NULL;
    int file = -1;
    const char *run = d->options->run ? d->options->run : lks_doctor_plan_text(d, "run");
    if (!*run)
        return LKS_OK;
    json_object_set_new(facts, "run", lks_json_text(run));
    LKS_TRY(agree_on_place(d, run, facts, &place));
    if (!json_object_get(place, "directory"))
        return LKS_OK; /* rank 0 has said why */
    lks_status status = look_at(d, place, &file, facts);
    if (file >= 0) {
        unlink(file_of(d, place, d->rank));
        close(file);
    }
    json_decref(place);
    return status;
}

/* --- Judging ----------------------------------------------------------------------- */

static const char *mount_text(const lks_doctor *d, int rank, const char *key)
{
    const json_t *mount = json_object_get(lks_doctor_facts(d, "run", rank), "mount");
    const char *text = json_string_value(json_object_get(mount, key));
    return text ? text : "";
}

static bool has_option(const char *options, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = options; *at;) {
        size_t part = strcspn(at, ",");
        if (part == length && !strncmp(at, name, length))
            return true;
        at += part;
        at += *at == ',';
    }
    return false;
}

static const char *share_line(const lks_doctor *d, int rank)
{
    const char *point = mount_text(d, rank, "point"), *root_point = mount_text(d, 0, "point");
    if (strlen(point) > strlen(root_point))
        return lks_doctor_on(d, rank, lks_doctor_say(d, "umount %s", point));
    if (lks_mount_is_network(mount_text(d, 0, "type")))
        return lks_doctor_on(d, rank,
                             lks_doctor_say(d, "mount -t %s %s %s", mount_text(d, 0, "type"),
                                            mount_text(d, 0, "source"), root_point));
    for (int r = 0; r < d->size; ++r)
        if (lks_mount_is_network(mount_text(d, r, "type")))
            return lks_doctor_say(d, "--run %s/%s", mount_text(d, r, "point"),
                                  lks_doctor_text(d, 0, "run"));
    const char *directory = lks_doctor_text(d, 0, "directory");
    return lks_doctor_on(
        d, rank,
        lks_doctor_say(d, "mount -t nfs4 %s:%s %s", lks_doctor_host(d, 0), directory, directory));
}

static const char *write_line(const lks_doctor *d, int rank, const char *error)
{
    const char *point = mount_text(d, rank, "point");
    if (!strcmp(error, strerror(EROFS)))
        return lks_doctor_on(d, rank,
                             has_option(mount_text(d, rank, "super"), "ro")
                                 ? lks_doctor_say(d, "mount -o remount,rw %s", point)
                                 : lks_doctor_say(d, "mount -o remount,bind,rw %s", point));
    if (!strcmp(error, strerror(EACCES)) || !strcmp(error, strerror(EPERM)))
        return lks_doctor_on(d, rank,
                             lks_doctor_say(d, "sudo chown %u %s", (unsigned)geteuid(),
                                            lks_doctor_text(d, 0, "directory")));
    if (!strcmp(error, strerror(ENOSPC)) && !strcmp(mount_text(d, rank, "type"), "tmpfs"))
        return lks_doctor_on(d, rank,
                             lks_doctor_say(d, "mount -o remount,size=%.0fm %s",
                                            lks_doctor_number(d, rank, "size") / (1 << 20) + 1024,
                                            point));
    return NULL;
}

static bool is_missing(const lks_doctor *d, int by, int rank)
{
    json_t *value;
    size_t i;
    bool missing = false;
    json_array_foreach(json_object_get(lks_doctor_facts(d, "run", by), "missing"), i, value)
        missing |= json_integer_value(value) == rank;
    return missing;
}

static void judge_shared(lks_doctor *d)
{
    const char *directory = lks_doctor_text(d, 0, "directory");
    bool written = !*lks_doctor_text(d, 0, "write_error"); /* else it says nothing of sharing */
    for (int r = 0; r < d->size; ++r) {
        const char *error = lks_doctor_text(d, r, "write_error");
        if (written &&
            (!strcmp(error, strerror(ENOENT)) || is_missing(d, r, 0) || is_missing(d, 0, r)))
            lks_doctor_row(
                d, NULL, LKS_DOCTOR_FAIL, r, share_line(d, r),
                "%s is not the one of %s: what is written on one host is not there on the "
                "other (%s on %s here, %s there)",
                directory, lks_doctor_host(d, 0), mount_text(d, r, "type"),
                mount_text(d, r, "point"), mount_text(d, 0, "type"));
        else if (*error)
            lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, r, write_line(d, r, error),
                           "%s cannot be written to: %s", directory, error);
    }
    if (!lks_doctor_has_trouble(d))
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "%s lies in %s (%s), which all ranks see and write to",
                       lks_doctor_text(d, 0, "run"), directory, mount_text(d, 0, "type"));
}

static void judge_rate(lks_doctor *d)
{
    double total = 0;
    for (int r = 0; r < d->size; ++r) {
        double rate = lks_doctor_number(d, r, "rate");
        total += isfinite(rate) ? rate : 0;
        if (lks_doctor_has(d, r, "rate_error"))
            lks_doctor_row(d, "write rate", LKS_DOCTOR_FAIL, r,
                           write_line(d, r, lks_doctor_text(d, r, "rate_error")),
                           "writing 64 MiB failed: %s", lks_doctor_text(d, r, "rate_error"));
    }
    json_object_set_new(json_array_get(json_object_get(d->facts, "run"), 0), "total_rate",
                        json_real(total));
    if (total > 0)
        lks_doctor_row(d, "write rate", LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "%s/s by %d rank%s at once, each piece synced", lks_doctor_bytes(d, total),
                       d->size, d->size == 1 ? "" : "s");
}

static const char *lock_line(const lks_doctor *d, int rank)
{
    const char *type = mount_text(d, rank, "type"), *point = mount_text(d, rank, "point"),
               *source = mount_text(d, rank, "source");
    if (!strncmp(type, "nfs", 3))
        return lks_doctor_on(d, rank,
                             lks_doctor_say(d, "mount -o remount,local_lock=none %s", point));
    if (!strcmp(type, "lustre"))
        return lks_doctor_on(
            d, rank,
            lks_doctor_say(d, "umount %s && mount -t lustre -o flock %s %s", point, source, point));
    const char *preload = getenv("LD_PRELOAD");
    return preload && *preload ? "unset LD_PRELOAD" : NULL;
}

static void judge_locks(lks_doctor *d)
{
    int asked = 0, bad = 0;
    for (int r = 0; r < d->size; ++r) {
        const char *lock = lks_doctor_text(d, r, "lock");
        asked += *lock != '\0';
        if (!*lock || !strcmp(lock, "held"))
            continue;
        ++bad;
        lks_doctor_row(d, "locks", LKS_DOCTOR_WARN, r, lock_line(d, r),
                       !strcmp(lock, "taken")
                           ? "a lock that %s holds is not seen here: two starts at once find out "
                             "only by the epoch in run.json"
                           : "%s does not lock files%s%s",
                       !strcmp(lock, "taken") ? lks_doctor_host(d, 0) : mount_text(d, r, "type"),
                       ": ", lock);
    }
    if (asked && !bad)
        lks_doctor_row(d, "locks", LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "a lock of rank 0 holds on all other ranks");
}

static void run_judge(lks_doctor *d)
{
    if (!lks_doctor_has(d, 0, "directory")) {
        if (!lks_doctor_has_trouble(d))
            lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                           "neither CONFIG nor --run names a run directory");
        return;
    }
    judge_shared(d);
    judge_rate(d);
    judge_locks(d);
}

const lks_doctor_check lks_doctor_check_run = {
    .name = "run",
    .about = "the run directory: shared by all hosts, its write rate, its locks",
    .look = run_look,
    .judge = run_judge,
};
