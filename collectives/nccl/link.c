/* Ranks with a cuda device each: gradients and parameters travel by NCCL, on a stream of their own.
 *
 * What is final is offered bucket by bucket while the backward pass goes on, and brought to its sum (reduce.c). The host
 * gives work and waits for none of it until it settles.
 */
#include "collectives/nccl/cuda_call.h"
#include "collectives/nccl/link_private.h"
#include "kernels/cuda_stream.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

#include <sched.h>
#include <string.h>
#include <unistd.h>

enum {
    UUID_BYTES = 64,
    PACE =
        32, /* buckets; a stream takes about a thousand launches ahead, and a bucket is up to ten */
};

/* The first pair of ranks with one device; -1: none. */
static int shared_device(const char (*uuids)[UUID_BYTES], int size, int *other)
{
    for (int i = 0; i < size; ++i)
        for (int j = 0; j < i; ++j)
            if (!strncmp(uuids[i], uuids[j], UUID_BYTES)) {
                *other = i;
                return j;
            }
    return -1;
}

static lks_status nccl_link_usable(const lks_link_spec *spec)
{
    int size = lks_comm_size(spec->comm), other = 0;
    char mine[UUID_BYTES] = "", (*all)[UUID_BYTES] = NULL;
    lks_status status;
    LKS_TRY(LKS_NEW_ARRAY(&all, (size_t)size));
    strncpy(mine, lks_cuda_uuid(spec->device), UUID_BYTES - 1);
    LKS_TRY_GOTO(status, lks_comm_all_gather_equal(spec->comm, mine, all, sizeof mine), done);
    int first = shared_device((const char(*)[UUID_BYTES])all, size, &other);
    if (first >= 0)
        status = LKS_FAIL(LKS_ERR_USAGE,
                          "link nccl needs a device for each rank, but ranks %d and %d share %s on "
                          "%s: start as many "
                          "ranks as there are devices, or set collectives.link=auto",
                          first, other, all[first], lks_comm_host(spec->comm, first));
done:
    lks_memory_free(all);
    return status;
}

/* --- Opening ------------------------------------------------------------------------ */

static lks_status open_stream(nccl_link *link)
{
    int least = 0, greatest = 0;
    LKS_LINK_CUDA(cudaDeviceGetStreamPriorityRange(&least, &greatest));
    /* Before the backward pass, which fills the device: a message that waits for a place there is late. */
    LKS_LINK_CUDA(cudaStreamCreateWithPriority(&link->stream, cudaStreamNonBlocking, greatest));
    for (int i = 0; i < NCCL_MARKS; ++i)
        LKS_LINK_CUDA(cudaEventCreateWithFlags(&link->marks[i], cudaEventDefault));
    for (int i = 0; i < NCCL_PACES; ++i)
        LKS_LINK_CUDA(cudaEventCreateWithFlags(&link->paces[i], cudaEventDisableTiming));
    return LKS_OK;
}

static lks_status nccl_link_prepare(nccl_link *link, const lks_link_spec *spec)
{
    LKS_TRY(lks_shard_open(&link->shard, spec));
    lks_nodes_find(&link->nodes, spec);
    LKS_TRY(lks_shard_allocate(&link->shard, LKS_ALIGNMENT));
    LKS_TRY(nccl_reduce_open(link));
    return open_stream(link);
}

static void nccl_link_close(void *instance)
{
    nccl_link *link = instance;
    if (!link)
        return;
    lks_nccl_close(link->nccl);
    if (link->stream)
        (void)cudaStreamDestroy(link->stream);
    for (int i = 0; i < NCCL_MARKS; ++i)
        if (link->marks[i])
            (void)cudaEventDestroy(link->marks[i]);
    for (int i = 0; i < NCCL_PACES; ++i)
        if (link->paces[i])
            (void)cudaEventDestroy(link->paces[i]);
    nccl_reduce_close(link);
    lks_shard_close(&link->shard);
    lks_memory_free(link);
}

static void say_how(const nccl_link *link)
{
    const lks_link_spec *spec = &link->shard.spec;
    const char *how = spec->any_order                 ? "in NCCL's own order"
                      : lks_nodes_apart(&link->nodes) ? "in the fixed tree, node by node"
                                                      : "in the fixed tree";
    int nodes = lks_comm_node_count(spec->comm);
    lks_log_root("%s: gradients of %d rank%s on %d node%s are added %s",
                 lks_nccl_version(link->nccl), link->shard.size, link->shard.size == 1 ? "" : "s",
                 nodes, nodes == 1 ? "" : "s", how);
}

/* NCCL's threads begin with this one's affinity. */
static void warn_of_binding(const nccl_link *link)
{
    cpu_set_t mine;
    CPU_ZERO(&mine);
    if (sched_getaffinity(0, sizeof mine, &mine) || CPU_COUNT(&mine) > 2)
        return;
    if (sysconf(_SC_NPROCESSORS_ONLN) >= 4L * link->nodes.ranks)
        lks_log_root("warning: ranks are bound to %d processor%s, which they share with NCCL's "
                     "threads: start "
                     "them with mpirun --bind-to numa, or none",
                     CPU_COUNT(&mine), CPU_COUNT(&mine) == 1 ? "" : "s");
}

static lks_status nccl_link_open(void **instance, const lks_link_spec *spec,
                                 lks_link_arrays *arrays)
{
    nccl_link *link = NULL;
    lks_status status = LKS_NEW(&link);
    if (status == LKS_OK)
        status = nccl_link_prepare(link, spec);
    status = lks_comm_agree(spec->comm, status);
    if (status == LKS_OK)
        status = lks_nccl_open(&link->nccl, spec->comm, spec->timeout_seconds);
    if (status != LKS_OK) {
        nccl_link_close(link);
        return status;
    }
    say_how(link);
    warn_of_binding(link);
    *instance = link;
    *arrays = link->shard.arrays;
    return LKS_OK;
}

/* --- A step ------------------------------------------------------------------------------ */

/* The link's stream goes on after what the device was given so far. */
static lks_status follow_device(nccl_link *link, nccl_mark mark)
{
    LKS_LINK_CUDA(cudaEventRecord(link->marks[mark], lks_cuda_stream(link->shard.spec.device)));
    LKS_LINK_CUDA(cudaStreamWaitEvent(link->stream, link->marks[mark], 0));
    return LKS_OK;
}

/* And the other way round. */
static lks_status follow_link(nccl_link *link, nccl_mark mark)
{
    LKS_LINK_CUDA(cudaEventRecord(link->marks[mark], link->stream));
    LKS_LINK_CUDA(
        cudaStreamWaitEvent(lks_cuda_stream(link->shard.spec.device), link->marks[mark], 0));
    return LKS_OK;
}

static lks_status nccl_link_poll(void *instance)
{
    return lks_nccl_poll(((nccl_link *)instance)->nccl);
}

/* Where a stream's queue is full the driver holds the host, which then cannot give up a rank that does not answer: so
 * it waits, looking, for what was given NCCL_PACES times PACE buckets ago. */
static lks_status keep_pace(nccl_link *link)
{
    if (++link->offered % PACE != 0)
        return LKS_OK;
    cudaEvent_t pace = link->paces[link->offered / PACE % NCCL_PACES];
    LKS_TRY(lks_nccl_wait(link->nccl, pace, "bringing gradients together"));
    LKS_LINK_CUDA(cudaEventRecord(pace, link->stream));
    return LKS_OK;
}

static lks_status nccl_link_offer(void *instance, uint32_t bucket)
{
    nccl_link *link = instance;
    LKS_TRY(follow_device(link, NCCL_GIVEN));
    void *before = lks_cuda_use_stream(link->shard.spec.device, link->stream);
    lks_status status = nccl_reduce(link, bucket);
    lks_cuda_use_stream(link->shard.spec.device, before);
    LKS_TRY(status);
    return keep_pace(link);
}

static void nccl_link_abandon(void *instance)
{
    lks_nccl_abandon(((nccl_link *)instance)->nccl);
}

static lks_status nccl_link_sum(void *instance, double *wait_seconds)
{
    nccl_link *link = instance;
    (void)wait_seconds; /* it is known when it is over: settle */
    LKS_TRY(follow_device(link, NCCL_COMPUTED));
    LKS_TRY(follow_link(link, NCCL_SUMMED));
    link->summed = true;
    return nccl_square_sums(link);
}

static lks_status nccl_link_share(void *instance, double *numbers, const uint64_t *first)
{
    nccl_link *link = instance;
    LKS_TRY(follow_device(link, NCCL_GIVEN));
    LKS_TRY(lks_nccl_group_begin(link->nccl, "sharing losses and norms"));
    for (int rank = 0; rank < link->shard.size; ++rank)
        if (first[rank] < first[rank + 1])
            LKS_TRY(lks_nccl_broadcast(link->nccl, rank, numbers + first[rank],
                                       (first[rank + 1] - first[rank]) * sizeof *numbers,
                                       link->stream));
    LKS_TRY(lks_nccl_group_end(link->nccl));
    link->shared = true;
    return follow_link(link, NCCL_SHARED);
}

static lks_status nccl_link_gather(void *instance, double *wait_seconds)
{
    nccl_link *link = instance;
    (void)wait_seconds;
    LKS_TRY(follow_device(link, NCCL_UPDATED));
    LKS_TRY(lks_nccl_group_begin(link->nccl, "giving out parameters"));
    for (int rank = 0; rank < link->shard.size; ++rank) {
        uint64_t offset = 0, elements = 0;
        lks_shard_owned(&link->shard.spec, rank, &offset, &elements);
        if (elements > 0)
            LKS_TRY(lks_nccl_broadcast(link->nccl, rank, link->shard.arrays.parameters + offset,
                                       elements * sizeof(float), link->stream));
    }
    LKS_TRY(lks_nccl_group_end(link->nccl));
    link->gathered = true;
    return follow_link(link, NCCL_GATHERED);
}

/* How long the device had nothing to do but to wait for the link. */
static lks_status add_wait(const nccl_link *link, nccl_mark from, nccl_mark to,
                           double *wait_seconds)
{
    float milliseconds = 0;
    LKS_LINK_CUDA(cudaEventElapsedTime(&milliseconds, link->marks[from], link->marks[to]));
    *wait_seconds += 1e-3 * (double)milliseconds;
    return LKS_OK;
}

/* The host waits here, where it can give up a rank that never answers: behind messages, its next wait for the
 * device would be one without an end. */
static lks_status nccl_link_settle(void *instance, double *wait_seconds)
{
    nccl_link *link = instance;
    if (!link->gathered)
        return LKS_OK;
    if (link->summed)
        LKS_TRY(lks_nccl_wait(link->nccl, link->marks[NCCL_SUMMED], "bringing gradients together"));
    if (link->shared)
        LKS_TRY(lks_nccl_wait(link->nccl, link->marks[NCCL_SHARED], "sharing losses and norms"));
    LKS_TRY(lks_nccl_wait(link->nccl, link->marks[NCCL_GATHERED], "giving out parameters"));
    LKS_TRY(add_wait(link, NCCL_UPDATED, NCCL_GATHERED, wait_seconds));
    if (link->summed)
        LKS_TRY(add_wait(link, NCCL_COMPUTED, NCCL_SUMMED, wait_seconds));
    link->gathered = link->summed = link->shared = false;
    return LKS_OK;
}

extern const lks_link_driver lks_nccl_link_driver;
const lks_link_driver lks_nccl_link_driver = {
    .name = "nccl",
    .about = "ranks with a cuda device each, over NVLink, InfiniBand, RoCE or sockets",
    .alone_by_name = true,
    .usable = nccl_link_usable,
    .open = nccl_link_open,
    .close = nccl_link_close,
    .begin = nccl_link_poll,
    .offer = nccl_link_offer,
    .progress = nccl_link_poll,
    .abandon = nccl_link_abandon,
    .sum = nccl_link_sum,
    .share = nccl_link_share,
    .gather = nccl_link_gather,
    .settle = nccl_link_settle,
};
