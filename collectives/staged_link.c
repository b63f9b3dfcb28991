/* Ranks whose device is not host memory, without a library of that device's: partials go through host
 * memory as messages to the owners of their blocks, parameters come back around a ring. For several
 * ranks on one device, for tests and laptops: nothing overlaps with the backward pass.
 */
#include "collectives/comm_private.h"
#include "collectives/shard.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

typedef struct staged_link {
    lks_shard shard;
    int rank, size, levels;
    float *parameters, *gradients; /* device memory: flat; [levels] flat arrays */
    float *inbox;                  /* device memory: [leaves of others] the own blocks' range */
    /* Host memory: parameters, flat; own partials, flat; the inbox. One rank has none. */
    float *host_parameters, *host_partials, *host_inbox;
    size_t array_bytes, inbox_bytes;
    int own_leaves;
    lks_comm_request **requests; /* of a step */
    size_t request_count, request_capacity;
    bool poisoned; /* a message could not be given up: its memory stays */
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
    size_t own = (size_t)link->own_leaves, foreign = (size_t)link->shard.leaf_count - own;
    link->request_capacity = foreign + own * (size_t)link->size;
    LKS_TRY(LKS_NEW_ARRAY(&link->requests, link->request_capacity));
    LKS_TRY(lks_memory_map((void **)&link->host_parameters, link->array_bytes));
    LKS_TRY(lks_memory_map((void **)&link->host_partials, link->array_bytes * own));
    if (link->inbox_bytes > 0)
        LKS_TRY(lks_memory_map((void **)&link->host_inbox, link->inbox_bytes));
    lks_log_root(
        "warning: gradients go through host memory and MPI: several ranks share a device, or this "
        "build has no NCCL; meant for tests");
    return lks_comm_reserve(link->shard.spec.comm, link->request_capacity + 8, link->array_bytes);
}

static lks_status staged_allocate(staged_link *link)
{
    const lks_link_spec *spec = &link->shard.spec;
    size_t foreign = (size_t)(link->shard.leaf_count - link->own_leaves);
    link->array_bytes = lks_round_up(spec->layout->flat_elements * sizeof(float), LKS_ALIGNMENT);
    link->inbox_bytes = foreign * link->shard.elements * sizeof(float);
    LKS_TRY(lks_device_allocate(spec->device, link->array_bytes, (void **)&link->parameters));
    LKS_TRY(lks_device_allocate(spec->device, link->array_bytes * (size_t)link->levels,
                                (void **)&link->gradients));
    if (link->inbox_bytes > 0)
        LKS_TRY(lks_device_allocate(spec->device, link->inbox_bytes, (void **)&link->inbox));
    return link->size > 1 ? staged_allocate_host(link) : LKS_OK;
}

static float *staged_gradient(void *instance, int level)
{
    staged_link *link = instance;
    return link->gradients + link->array_bytes / sizeof(float) * (size_t)level;
}

static float *staged_partial(const staged_link *link, int level)
{
    return link->host_partials + link->array_bytes / sizeof(float) * (size_t)level;
}

static void staged_point_leaves(staged_link *link)
{
    size_t foreign = 0;
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        lks_leaf *leaf = &link->shard.leaves[i];
        bool own = leaf->rank == link->rank;
        leaf->data = own ? staged_gradient(link, leaf->level)
                         : link->inbox + foreign++ * link->shard.elements;
        leaf->origin = own ? 0 : link->shard.offset;
    }
}

static lks_status staged_prepare(staged_link *link, const lks_link_spec *spec)
{
    int first = 0, end = 0;
    link->rank = lks_comm_rank(spec->comm);
    link->size = lks_comm_size(spec->comm);
    LKS_TRY(lks_shard_open(&link->shard, spec));
    lks_lanes_of(spec->lanes, link->rank, link->size, &first, &end);
    link->levels = lks_lane_levels(spec->lanes, first, end);
    for (int i = 0; i < link->shard.leaf_count; ++i)
        link->own_leaves += link->shard.leaves[i].rank == link->rank;
    LKS_TRY(staged_allocate(link));
    staged_point_leaves(link);
    return LKS_OK;
}

static void staged_free(staged_link *link)
{
    lks_device *device = link->shard.spec.device;
    if (link->parameters)
        lks_device_free(device, link->parameters, link->array_bytes);
    if (link->gradients)
        lks_device_free(device, link->gradients, link->array_bytes * (size_t)link->levels);
    if (link->inbox)
        lks_device_free(device, link->inbox, link->inbox_bytes);
    if (link->poisoned)
        return;
    if (link->host_parameters)
        lks_memory_unmap(link->host_parameters, link->array_bytes);
    if (link->host_partials)
        lks_memory_unmap(link->host_partials, link->array_bytes * (size_t)link->own_leaves);
    if (link->host_inbox)
        lks_memory_unmap(link->host_inbox, link->inbox_bytes);
}

static void staged_close(void *instance)
{
    staged_link *link = instance;
    if (!link)
        return;
    for (size_t i = 0; i < link->request_count; ++i)
        if (link->requests[i] && !lks_comm_cancel(link->shard.spec.comm, &link->requests[i]))
            link->poisoned = true;
    staged_free(link);
    lks_memory_free(link->requests);
    lks_shard_close(&link->shard);
    lks_memory_free(link);
}

static lks_status staged_open(void **instance, const lks_link_spec *spec)
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
    return LKS_OK;
}

static float *staged_parameters(void *instance)
{
    return ((staged_link *)instance)->parameters;
}

static lks_status staged_begin(void *instance)
{
    ((staged_link *)instance)->request_count = 0;
    return LKS_OK;
}

/* All is done in sum, when the last kernel of the backward pass has been given. */
static lks_status staged_offer(void *instance, uint32_t bucket)
{
    (void)instance, (void)bucket;
    return LKS_OK;
}

static lks_status staged_progress(void *instance)
{
    (void)instance;
    return LKS_OK;
}

static lks_status staged_post_receives(staged_link *link)
{
    size_t foreign = 0, elements = link->shard.elements;
    for (int i = 0; i < link->shard.leaf_count && elements > 0; ++i) {
        const lks_leaf *leaf = &link->shard.leaves[i];
        if (leaf->rank == link->rank)
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
    if (owner == link->rank || elements == 0)
        return LKS_OK;
    LKS_TRY(lks_comm_send(link->shard.spec.comm, owner, level, staged_partial(link, level) + offset,
                          elements * sizeof(float), &link->requests[link->request_count]));
    ++link->request_count;
    return LKS_OK;
}

static lks_status staged_exchange(staged_link *link)
{
    const lks_link_spec *spec = &link->shard.spec;
    LKS_TRY(staged_post_receives(link));
    for (int level = 0; level < link->own_leaves; ++level) {
        LKS_TRY(lks_device_copy_out(spec->device, staged_partial(link, level),
                                    staged_gradient(link, level),
                                    spec->layout->flat_elements * sizeof(float)));
        for (int owner = 0; owner < link->size; ++owner)
            LKS_TRY(staged_send_to(link, owner, level));
    }
    for (size_t i = 0; i < link->request_count; ++i)
        LKS_TRY(lks_comm_wait(spec->comm, &link->requests[i], NULL));
    link->request_count = 0;
    if (link->inbox_bytes == 0)
        return LKS_OK;
    return lks_device_copy_in(spec->device, link->inbox, link->host_inbox, link->inbox_bytes);
}

static lks_status staged_sum(void *instance, double *wait_seconds)
{
    staged_link *link = instance;
    uint64_t start = lks_clock_ns();
    if (link->size > 1)
        LKS_TRY(staged_exchange(link));
    *wait_seconds += lks_clock_seconds_since(start);
    if (link->shard.first_block == link->shard.end_block)
        return LKS_OK;
    return lks_shard_sum(&link->shard, link->shard.first_block, link->shard.end_block);
}

static const float *staged_sums(void *instance)
{
    return lks_shard_sums(&((staged_link *)instance)->shard);
}

static const double *staged_square_sums(void *instance)
{
    return ((staged_link *)instance)->shard.square_sums;
}

/* One hop: rank `passing`'s blocks go on to the right, the next ones come from the left. */
static lks_status staged_hop(staged_link *link, int passing)
{
    const lks_link_spec *spec = &link->shard.spec;
    lks_comm_request *send = NULL, *receive = NULL;
    int right = (link->rank + 1) % link->size, left = (link->rank + link->size - 1) % link->size;
    uint64_t out = 0, out_elements = 0, in = 0, in_elements = 0;
    lks_shard_owned(spec, passing, &out, &out_elements);
    lks_shard_owned(spec, (passing + link->size - 1) % link->size, &in, &in_elements);
    LKS_TRY(lks_comm_receive(spec->comm, left, LKS_TAG_PARAMETERS, link->host_parameters + in,
                             in_elements * sizeof(float), &receive));
    LKS_TRY(lks_comm_send(spec->comm, right, LKS_TAG_PARAMETERS, link->host_parameters + out,
                          out_elements * sizeof(float), &send));
    LKS_TRY(lks_comm_wait(spec->comm, &receive, NULL));
    LKS_TRY(lks_comm_wait(spec->comm, &send, NULL));
    return lks_device_copy_in(spec->device, link->parameters + in, link->host_parameters + in,
                              in_elements * sizeof(float));
}

static lks_status staged_gather(void *instance, double *wait_seconds)
{
    staged_link *link = instance;
    uint64_t start = lks_clock_ns(), offset = link->shard.offset;
    if (link->size > 1)
        LKS_TRY(lks_device_copy_out(link->shard.spec.device, link->host_parameters + offset,
                                    link->parameters + offset,
                                    link->shard.elements * sizeof(float)));
    for (int hop = 0; hop + 1 < link->size; ++hop)
        LKS_TRY(staged_hop(link, (link->rank + link->size - hop) % link->size));
    *wait_seconds += lks_clock_seconds_since(start);
    return LKS_OK;
}

static void staged_memory(void *instance, uint64_t *shared_bytes, uint64_t *private_bytes)
{
    const staged_link *link = instance;
    (void)shared_bytes;
    *private_bytes += link->array_bytes * (1 + (uint64_t)link->levels) + link->inbox_bytes;
}

const lks_link_driver lks_staged_link = {
    .name = "staged",
    .about = "ranks with devices of their own, through host memory",
    .usable = staged_usable,
    .open = staged_open,
    .close = staged_close,
    .parameters = staged_parameters,
    .gradient = staged_gradient,
    .begin = staged_begin,
    .offer = staged_offer,
    .progress = staged_progress,
    .sum = staged_sum,
    .sums = staged_sums,
    .square_sums = staged_square_sums,
    .gather = staged_gather,
    .memory = staged_memory,
};
