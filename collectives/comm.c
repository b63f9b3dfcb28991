#include "collectives/comm_private.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static lks_status find_driver(const char *name, const lks_comm_driver **out)
{
    bool automatic = strcmp(name, "auto") == 0;
    for (int i = 0; lks_comm_drivers[i]; ++i) {
        const lks_comm_driver *driver = lks_comm_drivers[i];
        if (automatic ? driver->wanted() : strcmp(name, driver->name) == 0) {
            *out = driver;
            return LKS_OK;
        }
    }
    lks_text names = {0};
    for (int i = 0; lks_comm_drivers[i]; ++i)
        lks_text_append(&names, ", %s", lks_comm_drivers[i]->name);
    lks_status status = LKS_FAIL(LKS_ERR_USAGE, "unknown comm \"%s\": there are auto%s", name,
                                 names.data ? names.data : "");
    lks_text_release(&names);
    return status;
}

static lks_status identify(lks_comm *comm, lks_comm_identity *me)
{
    memset(me, 0, sizeof *me);
    if (gethostname(me->host, HOST_NAME_MAX) != 0 || !me->host[0])
        strcpy(me->host, "localhost");
    struct stat shm;
    if (stat("/dev/shm", &shm) == 0)
        me->shm_device = shm.st_dev;
    if (sched_getaffinity(0, sizeof me->cpus, &me->cpus) != 0)
        CPU_ZERO(&me->cpus);
    int lowest = comm->rank;
    if (comm->size > 1)
        LKS_TRY(comm->driver->lowest_neighbour(comm->instance, &lowest));
    me->lowest_neighbour = lowest;
    return LKS_OK;
}

static bool share_memory(const lks_comm_identity *a, const lks_comm_identity *b)
{
    return a->lowest_neighbour == b->lowest_neighbour && a->shm_device == b->shm_device &&
           strcmp(a->host, b->host) == 0;
}

/* Nodes are numbered by their lowest rank. */
static void number_nodes(lks_comm *comm)
{
    for (int r = 0; r < comm->size; ++r) {
        int peer = comm->identities[r].lowest_neighbour;
        while (peer < r && !share_memory(&comm->identities[peer], &comm->identities[r]))
            ++peer;
        comm->node_of[r] = peer < r ? comm->node_of[peer] : comm->node_count++;
    }
    comm->node = comm->node_of[comm->rank];
    for (int r = 0; r < comm->size; ++r) {
        if (comm->node_of[r] != comm->node)
            continue;
        if (r == comm->rank)
            comm->local_rank = comm->local_size;
        comm->local_ranks[comm->local_size++] = r;
    }
}

/* Whole cores that this control group may use; a container's limit. */
static long quota_cores(void)
{
    long quota = 0, period = 0;
    FILE *file = fopen("/sys/fs/cgroup/cpu.max", "r");
    if (!file)
        return LONG_MAX;
    int read = fscanf(file, "%ld %ld", &quota, &period);
    fclose(file);
    return read == 2 && period > 0 ? quota / period : LONG_MAX; /* "max" reads as no number */
}

static bool is_crowded(const lks_comm *comm)
{
    cpu_set_t all;
    CPU_ZERO(&all);
    for (int i = 0; i < comm->local_size; ++i)
        CPU_OR(&all, &all, &comm->identities[comm->local_ranks[i]].cpus);
    long cores = CPU_COUNT(&all);
    if (cores == 0)
        cores = sysconf(_SC_NPROCESSORS_ONLN);
    long quota = quota_cores();
    return comm->local_size > (quota < cores ? quota : cores);
}

static lks_status find_nodes(lks_comm *comm)
{
    size_t size = (size_t)comm->size;
    LKS_TRY(LKS_NEW_ARRAY(&comm->identities, size));
    LKS_TRY(LKS_NEW_ARRAY(&comm->node_of, size));
    LKS_TRY(LKS_NEW_ARRAY(&comm->local_ranks, size));
    LKS_TRY(LKS_NEW_ARRAY(&comm->equal_counts, size));
    lks_comm_identity me;
    LKS_TRY(identify(comm, &me));
    LKS_TRY(lks_comm_all_gather_equal(comm, &me, comm->identities, sizeof me));
    number_nodes(comm);
    comm->crowded = is_crowded(comm);
    return LKS_OK;
}

static void release(lks_comm *comm)
{
    if (comm->instance)
        comm->driver->close(comm->instance);
    lks_comm_release_requests(comm);
    lks_memory_free(comm->identities);
    lks_memory_free(comm->node_of);
    lks_memory_free(comm->local_ranks);
    lks_memory_free(comm->equal_counts);
    lks_memory_free(comm);
}

lks_status lks_comm_open(lks_comm **out, const char *name)
{
    const lks_comm_driver *driver = NULL;
    LKS_TRY(find_driver(name, &driver));
    lks_comm *comm = NULL;
    LKS_TRY(LKS_NEW(&comm));
    comm->driver = driver;
    comm->message_limit = driver->message_limit;
    lks_status status = driver->open(&comm->instance, &comm->rank, &comm->size);
    if (status == LKS_OK)
        status = find_nodes(comm);
    if (status != LKS_OK) {
        release(comm);
        return status;
    }
    *out = comm;
    return LKS_OK;
}

void lks_comm_close(lks_comm *comm)
{
    if (!comm)
        return;
    /* A failed barrier means that a peer is gone: nobody is left to wait for. */
    lks_status status = lks_comm_barrier(comm);
    (void)status;
    release(comm);
}

void lks_comm_abort(lks_comm *comm, lks_status status)
{
    comm->driver->abort(comm->instance, (int)status);
    _exit((int)status);
}

int lks_comm_rank(const lks_comm *comm)
{
    return comm->rank;
}
int lks_comm_size(const lks_comm *comm)
{
    return comm->size;
}
int lks_comm_node(const lks_comm *comm)
{
    return comm->node;
}
int lks_comm_node_count(const lks_comm *comm)
{
    return comm->node_count;
}
int lks_comm_local_rank(const lks_comm *comm)
{
    return comm->local_rank;
}
int lks_comm_local_size(const lks_comm *comm)
{
    return comm->local_size;
}
int lks_comm_node_of(const lks_comm *comm, int rank)
{
    return comm->node_of[rank];
}
const char *lks_comm_host(const lks_comm *comm, int rank)
{
    return comm->identities[rank].host;
}
const char *lks_comm_about(const lks_comm *comm)
{
    return comm->driver->version(comm->instance);
}
void lks_comm_set_message_limit(lks_comm *comm, size_t bytes)
{
    comm->message_limit = bytes;
}

lks_status lks_comm_agree(lks_comm *comm, lks_status mine)
{
    /* The greatest number is the lowest failed rank's. */
    int64_t vote = mine == LKS_OK ? 0 : (int64_t)(comm->size - comm->rank) * 256 + (int)mine;
    int64_t worst = 0;
    lks_comm_request *request = NULL;
    LKS_TRY(lks_comm_max_start(comm, vote, &request));
    LKS_TRY(lks_comm_wait(comm, &request, &worst));
    if (worst != vote)
        lks_status_set_message("");
    return (lks_status)(worst % 256);
}

lks_status lks_comm_on_root(lks_comm *comm, lks_status (*work)(void *user), void *user)
{
    return lks_comm_agree(comm, comm->rank == 0 ? work(user) : LKS_OK);
}

void lks_comm_relax(lks_comm *comm, unsigned spins)
{
    unsigned patience = comm->crowded ? 1 : 256;
    if (spins >= patience) {
        sched_yield();
        return;
    }
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}
