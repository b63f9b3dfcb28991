/* Whether memory can be locked: RDMA registers it, and that counts against a limit. */
#include "launcher/doctor/check.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

/* What is locked for real: a bucket ring's worth with RDMA; else a little, as drivers do. */
enum { RDMA_BYTES = 64 << 20, PLAIN_BYTES = 1 << 20 };
enum { ACCESS_LOCAL_WRITE = 1 };

static bool has_rdma(void)
{
    bool found = false;
    DIR *devices = opendir("/sys/class/infiniband");
    for (struct dirent *entry; devices && (entry = readdir(devices));)
        found |= entry->d_name[0] != '.';
    if (devices)
        closedir(devices);
    return found;
}

typedef union verbs_function {
    void *address;
    void **(*list)(int *);                     /* ibv_get_device_list */
    void *(*open)(void *);                     /* ibv_open_device, ibv_alloc_pd */
    void *(*reg)(void *, void *, size_t, int); /* ibv_reg_mr */
} verbs_function;

static bool verbs_find(void *library, const char *name, verbs_function *out)
{
    out->address = dlsym(library, name);
    return out->address != NULL;
}

/* With the first device. NULL: done; else what failed, and errno. "": there is no device to ask. */
static const char *register_memory(void *memory, size_t bytes)
{
    verbs_function list, open, domain, reg;
    void *library = dlopen("libibverbs.so.1", RTLD_NOW | RTLD_LOCAL), **devices, *device;
    int count = 0;
    if (!library || !verbs_find(library, "ibv_get_device_list", &list) ||
        !verbs_find(library, "ibv_open_device", &open) ||
        !verbs_find(library, "ibv_alloc_pd", &domain) || !verbs_find(library, "ibv_reg_mr", &reg))
        return "";
    devices = list.list(&count);
    if (!devices || count == 0)
        return "";
    device = open.open(devices[0]);
    void *pd = device ? domain.open(device) : NULL;
    if (!pd)
        return "opening the RDMA device";
    return reg.reg(pd, memory, bytes, ACCESS_LOCAL_WRITE) ? NULL
                                                          : "registering it with the RDMA device";
}

static void put_limit(json_t *facts, const char *key, rlim_t limit)
{
    if (limit != RLIM_INFINITY)
        json_object_set_new(facts, key, json_real((double)limit));
}

static lks_status memlock_look(lks_doctor *d, json_t *facts)
{
    struct rlimit limit;
    void *memory;
    bool rdma = has_rdma();
    size_t bytes = rdma ? RDMA_BYTES : PLAIN_BYTES;
    (void)d;
    if (getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
        put_limit(facts, "soft", limit.rlim_cur);
        put_limit(facts, "hard", limit.rlim_max);
    }
    LKS_TRY(lks_memory_map(&memory, bytes));
    const char *failed = rdma ? register_memory(memory, bytes) : "";
    if (failed && !*failed) /* not mlock: the address sanitizer has it do nothing */
        failed = mlock2(memory, bytes, 0) == 0 ? NULL : "locking it";
    if (failed)
        json_object_set_new(facts, "failed_at", json_string(failed));
    if (failed)
        json_object_set_new(facts, "error", json_string(strerror(errno)));
    json_object_set_new(facts, "rdma", json_boolean(rdma));
    json_object_set_new(facts, "bytes", json_real((double)bytes));
    return LKS_OK;
}

static const char *mend_line(const lks_doctor *d, int rank)
{
    double hard = lks_doctor_number(d, rank, "hard"), bytes = lks_doctor_number(d, rank, "bytes");
    if (!isfinite(hard)) /* none */
        return "ulimit -l unlimited";
    if (hard >= 2 * bytes)
        return lks_doctor_say(d, "ulimit -l %.0f", hard / 1024);
    return lks_doctor_on(d, rank,
                         "echo '* - memlock unlimited' >/etc/security/limits.d/90-memlock.conf");
}

static void memlock_judge(lks_doctor *d)
{
    for (int r = 0; r < d->size; ++r) {
        bool rdma = lks_doctor_number(d, r, "rdma") == 1;
        double soft = lks_doctor_number(d, r, "soft"), bytes = lks_doctor_number(d, r, "bytes");
        const char *limit = isfinite(soft) ? lks_doctor_bytes(d, soft) : "none";
        if (!lks_doctor_has(d, r, "bytes"))
            continue;
        if (lks_doctor_has(d, r, "failed_at"))
            lks_doctor_row(d, NULL, rdma ? LKS_DOCTOR_FAIL : LKS_DOCTOR_WARN, r, mend_line(d, r),
                           "%s cannot be locked: %s: %s (limit %s)%s", lks_doctor_bytes(d, bytes),
                           lks_doctor_text(d, r, "failed_at"), lks_doctor_text(d, r, "error"),
                           limit, rdma ? "; RDMA needs it" : "");
        else
            lks_doctor_row(d, NULL, LKS_DOCTOR_OK, r, NULL, "%s %s (limit %s)",
                           lks_doctor_bytes(d, bytes),
                           rdma ? "were registered or locked"
                                : "were locked; there is no RDMA device that needs more",
                           limit);
    }
}

const lks_doctor_check lks_doctor_check_memlock = {
    .name = "memlock",
    .about = "memory that can be locked, by locking it",
    .look = memlock_look,
    .judge = memlock_judge,
};
