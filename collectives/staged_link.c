/* Ranks whose device is not host memory, without a library of that device's: partials go through host
 * memory as messages to the owners of their blocks, parameters come back around a ring. For several
 * ranks on one device, for tests and laptops: nothing overlaps with the backward pass.
 */
#include "collectives/ring.h"
#include "collectives/shard.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

typedef struct staged_link {
    lks_shard shard;
    /* Host memory: parameters, flat; own partials, flat; the inbox. One rank has none. */
    float *host_parameters, *host_partials, *host_inbox;
    lks_comm_request **requests; /* of a step */
    size_t request_count, request_capacity;
} staged_link;

static lks_status staged_usable(const lks_link_spec *spec)
{
    if (!lks_device_is_host(spec->device))
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_USAGE,
                    "link staged is for devices with memory of their own, not for %s: set "
                    "collectives.link=auto",
                    lks_device_name(spec->device));
}

static lks_status staged_allocate_host(staged_link *link)
{
    const lks_shard *shard = &link->shard;
    size_t array_bytes = shard->arrays.array_bytes;
    size_t own = (size_t)shard->own_leaves, foreign = (size_t)shard->leaf_count - own;
    link->request_capacity = foreign + own * (size_t)shard->size;
    LKS_TRY(LKS_NEW_ARRAY(&link->requests, link->request_capacity));
    LKS_TRY(lks_memory_map((void **)&link->host_parameters, array_bytes));
    LKS_TRY(lks_memory_map((void **)&link->host_partials, array_bytes * own));
    if (shard->inbox_bytes > 0)
        LKS_TRY(lks_memory_map((void **)&link->host_inbox, shard->inbox_bytes));
    lks_log_root(
        "warning: gradients go through host memory and MPI: several ranks share a device, or this "
        "build has no NCCL; meant for tests");
    return lks_comm_reserve(shard->spec.comm, link->request_capacity + 8, array_bytes);
}

static float *staged_partial(const staged_link *link, int level)
{
    return link->host_partials + link->shard.arrays.array_bytes / sizeof(float) * (size_t)level;
}

static lks_status staged_prepare(staged_link *link, const lks_link_spec *spec)
{
    LKS_TRY(lks_shard_open(&link->shard, spec));
    LKS_TRY(lks_shard_allocate(&link->shard, LKS_ALIGNMENT));
    LKS_TRY(lks_shard_allocate_inbox(&link->shard));
    return link->shard.size > 1 ? staged_allocate_host(link) : LKS_OK;
}

static void staged_free_host(staged_link *link)
{
    size_t array_bytes = link->shard.arrays.array_bytes;
    if (link->host_parameters)
        lks_memory_unmap(link->host_parameters, array_bytes);
    if (link->host_partials)
        lks_memory_unmap(link->host_partials, array_bytes * (size_t)link->shard.own_leaves);
    if (link->host_inbox)
        lks_memory_unmap(link->host_inbox, link->shard.inbox_bytes);
}

static void staged_close(void *instance)
{
    staged_link *link = instance;
    if (!link)
        return;
    bool idle = true; /* where a message cannot be called back, its memory stays */
    for (size_t i = 0; i < link->request_count; ++i)
        if (link->requests[i])
            idle = lks_comm_cancel(link->shard.spec.comm, &link->requests[i]) && idle;
    if (idle)
        staged_free_host(link);
    lks_memory_free(link->requests);
    lks_shard_close(&link->shard);
    lks_memory_free(link);
}

static lks_status staged_open(void **instance, const lks_link_spec *spec, lks_link_arrays *arrays)
{
    staged_link *link = NULL;
    lks_status status = LKS_NEW(&link);
    if (status == LKS_OK)
        status = staged_prepare(link, spec);
    status = lks_comm_agree(spec->comm, status);
    if (status != LKS_OK) {
        staged_close(link);
        return status;
    }
    *instance = link;
    *arrays = link->shard.arrays;
    return LKS_OK;
}

static lks_status staged_post_receives(staged_link *link)
{
    size_t foreign = 0, elements = link->shard.elements;
    for (int i = 0; i < link->shard.leaf_count && elements > 0; ++i) {
        const lks_leaf *leaf = &link->shard.leaves[i];
        if (leaf->rank == link->shard.rank)
            continue;
        LKS_TRY(lks_comm_receive(link->shard.spec.comm, leaf->rank, leaf->level,
                                 link->host_inbox + foreign++ * elements, elements * sizeof(float),
                                 &link->requests[link->request_count]));
        ++link->request_count;
    }
    return LKS_OK;
}

static lks_status staged_send_to(staged_link *link, int owner, int level)
{
    uint64_t offset = 0, elements = 0;
    lks_shard_owned(&link->shard.spec, owner, &offset, &elements);
    if (owner == link->shard.rank || elements == 0)
        return LKS_OK;
    LKS_TRY(lks_comm_send(link->shard.spec.comm, owner, level, staged_partial(link, level) + offset,
                          elements * sizeof(float), &link->requests[link->request_count]));
    ++link->request_count;
    return LKS_OK;
}

static lks_status staged_exchange(staged_link *link)
{
    const lks_shard *shard = &link->shard;
    const lks_link_spec *spec = &shard->spec;
    LKS_TRY(staged_post_receives(link));
    for (int level = 0; level < shard->own_leaves; ++level) {
        LKS_TRY(lks_device_copy_out(spec->device, staged_partial(link, level),
                                    lks_link_gradient(&shard->arrays, level),
                                    spec->layout->flat_elements * sizeof(float)));
        for (int owner = 0; owner < shard->size; ++owner)
            LKS_TRY(staged_send_to(link, owner, level));
    }
    for (size_t i = 0; i < link->request_count; ++i)
        LKS_TRY(lks_comm_wait(spec->comm, &link->requests[i], NULL));
    link->request_count = 0;
    if (shard->inbox_bytes == 0)
        return LKS_OK;
    return lks_device_copy_in(spec->device, shard->inbox, link->host_inbox, shard->inbox_bytes);
}

static lks_status staged_sum(void *instance, double *wait_seconds)
{
    staged_link *link = instance;
    uint64_t start = lks_clock_ns();
    if (link->shard.size > 1)
        LKS_TRY(staged_exchange(link));
    *wait_seconds += lks_clock_seconds_since(start);
    return lks_shard_sum(&link->shard, link->shard.first_block, link->shard.end_block);
}

/* Elements [first, end) of the parameters. */
static lks_status staged_take_in(staged_link *link, uint64_t first, uint64_t end)
{
    return lks_device_copy_in(link->shard.spec.device, link->shard.arrays.parameters + first,
                              link->host_parameters + first, (end - first) * sizeof(float));
}

static lks_status staged_share(staged_link *link)
{
    const lks_shard *shard = &link->shard;
    uint64_t first = shard->offset, end = shard->offset + shard->elements;
    LKS_TRY(lks_device_copy_out(shard->spec.device, link->host_parameters + first,
                                shard->arrays.parameters + first, (end - first) * sizeof(float)));
    LKS_TRY(lks_ring_gather(shard, link->host_parameters));
    LKS_TRY(staged_take_in(link, 0, first));
    return staged_take_in(link, end, shard->spec.layout->flat_elements);
}

static lks_status staged_gather(void *instance, double *wait_seconds)
{
    staged_link *link = instance;
    uint64_t start = lks_clock_ns();
    if (link->shard.size > 1)
        LKS_TRY(staged_share(link));
    *wait_seconds += lks_clock_seconds_since(start);
    return LKS_OK;
}

const lks_link_driver lks_staged_link = {
    .name = "staged",
    .about = "ranks with devices of their own, through host memory",
    .usable = staged_usable,
    .open = staged_open,
    .close = staged_close,
    .sum = staged_sum,
    .gather = staged_gather,
};
