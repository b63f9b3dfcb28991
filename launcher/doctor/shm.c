/* Whether /dev/shm holds what the ranks of a host share. */
#include "launcher/doctor/check.h"
#include "launcher/doctor/host.h"
#include "runtime/base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

static const double per_rank_bytes = 4 << 20; /* Open MPI's own segment */
static const double container_bytes = 64 << 20;

static lks_status shm_look(lks_doctor *d, json_t *facts)
{
    struct statvfs disk;
    lks_mount mount;
    const char *copies = lks_doctor_plan_text(d, "memory_directory");
    if (statvfs("/dev/shm", &disk))
        return LKS_OK;
    json_object_set_new(facts, "size", json_real((double)disk.f_blocks * (double)disk.f_frsize));
    json_object_set_new(facts, "free", json_real((double)disk.f_bavail * (double)disk.f_frsize));
    json_object_set_new(facts, "copies", json_boolean(!strncmp(copies, "/dev/shm", 8)));
    json_object_set_new(facts, "pod", json_boolean(getenv("KUBERNETES_SERVICE_HOST") != NULL));
    if (lks_host_find_mount("/dev/shm", &mount))
        json_object_set_new(facts, "point", lks_json_text(mount.point));
    return LKS_OK;
}

static double or_zero(double number)
{
    return isfinite(number) ? number : 0;
}

/* Of the host whose first rank is `first`; *ranks on it. */
static double need_of(const lks_doctor *d, int first, int *ranks)
{
    double bytes = or_zero(lks_doctor_plan(d, first, "shared_bytes"));
    *ranks = 0;
    for (int r = first; r < d->size; ++r) {
        if (lks_comm_node_of(d->comm, r) != lks_comm_node_of(d->comm, first))
            continue;
        bytes += per_rank_bytes;
        if (lks_doctor_number(d, first, "copies") == 1)
            bytes += or_zero(lks_doctor_plan(d, r, "copies_bytes"));
        ++*ranks;
    }
    if (*ranks == 1) /* what it would share lies in its own memory */
        bytes -= or_zero(lks_doctor_plan(d, first, "shared_bytes"));
    return bytes;
}

static const char *mend_line(const lks_doctor *d, int rank, double bytes)
{
    double mib = ceil(bytes * 1.25 / (1 << 20));
    if (lks_doctor_number(d, rank, "pod") == 1)
        return lks_doctor_say(
            d, "volumes: [{name: shm, emptyDir: {medium: Memory, sizeLimit: %.0fMi}}]", mib);
    if (strcmp(lks_doctor_text(d, rank, "point"), "/dev/shm") != 0)
        return lks_doctor_on(d, rank,
                             lks_doctor_say(d, "mount -t tmpfs -o size=%.0fm tmpfs /dev/shm", mib));
    return lks_doctor_on(d, rank, lks_doctor_say(d, "mount -o remount,size=%.0fm /dev/shm", mib));
}

static void judge_host(lks_doctor *d, int first)
{
    int ranks;
    double need = need_of(d, first, &ranks), size = lks_doctor_number(d, first, "size"),
           free_bytes = lks_doctor_number(d, first, "free");
    bool planned = lks_doctor_is_planned(d);
    lks_severity severity = LKS_DOCTOR_OK;
    if (free_bytes < need)
        severity = LKS_DOCTOR_FAIL;
    else if (!planned && size <= container_bytes)
        severity = LKS_DOCTOR_WARN;
    double wanted = planned ? size - free_bytes + need : fmax(need, 16 * container_bytes);
    for (int r = first; r < d->size; ++r)
        if (lks_comm_node_of(d->comm, r) == lks_comm_node_of(d->comm, first))
            lks_doctor_row(d, NULL, severity, r,
                           severity == LKS_DOCTOR_OK ? NULL : mend_line(d, first, wanted),
                           "%s of %s are free, %d rank%s %s %s%s", lks_doctor_bytes(d, free_bytes),
                           lks_doctor_bytes(d, size), ranks, ranks == 1 ? "" : "s",
                           ranks == 1 ? "needs" : "need", lks_doctor_bytes(d, need),
                           planned ? ""
                           : severity == LKS_DOCTOR_WARN
                               ? " without a job: it is no more than a container's default"
                               : " without a job");
}

static void shm_judge(lks_doctor *d)
{
    for (int r = 0; r < d->size; ++r) {
        if (!lks_doctor_is_first(d, r))
            continue;
        if (lks_doctor_has(d, r, "size"))
            judge_host(d, r);
        else
            lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, r,
                           lks_doctor_on(d, r, "mount -m -t tmpfs tmpfs /dev/shm"),
                           "there is no /dev/shm");
    }
}

const lks_doctor_check lks_doctor_check_shm = {
    .name = "shm",
    .about = "the size of /dev/shm against what the ranks of a host share",
    .look = shm_look,
    .judge = shm_judge,
};
