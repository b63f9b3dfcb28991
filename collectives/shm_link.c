/* All ranks on one node: parameters and everybody's gradients lie in one shared segment.
 *
 * Each rank publishes its buckets by writing the step's number into its flags; owners read the
 * others' partials where they lie. Nothing is copied, and the all-gather is a barrier.
 */
#include "collectives/shard.h"
#include "runtime/base/clock.h"
#include "runtime/base/memory.h"

#include <stdatomic.h>
#include <string.h>

typedef _Atomic uint64_t shm_flag;

typedef struct shm_link {
    lks_shard shard;
    void *memory; /* flags, parameters, gradients */
    size_t bytes;
    shm_flag **flags;  /* [ranks] each: [0] barriers reached, [1 + bucket] step published */
    float **gradients; /* [ranks] that rank's arrays, one after the other */
    uint64_t step, barriers;
    uint32_t *waiting; /* [waiting_count] segments of this step not yet summed */
    int *published;    /* [segments] ranks, from 0 on, known to have published it */
    uint32_t waiting_count;
} shm_link;

static lks_status shm_usable(const lks_link_spec *spec)
{
    const lks_comm *comm = spec->comm;
    int nodes = lks_comm_node_count(comm);
    if (nodes > 1)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "link shm needs all ranks on one node, but %d ranks are on %d: set "
                        "collectives.link=auto or mpi",
                        lks_comm_size(comm), nodes);
    return lks_shard_on_host(spec, "shm");
}

static int levels_of(const lks_link_spec *spec, int rank)
{
    int first = 0, end = 0;
    lks_lanes_of(spec->lanes, rank, lks_comm_size(spec->comm), &first, &end);
    return lks_lane_levels(spec->lanes, first, end);
}

static void *shm_at(char *base, size_t at)
{
    return base ? base + at : NULL;
}

/* Where everything lies; returns the bytes of it all. `base` NULL: only counts. */
static size_t shm_place(shm_link *link, char *base)
{
    const lks_link_spec *spec = &link->shard.spec;
    lks_link_arrays *arrays = &link->shard.arrays;
    int size = link->shard.size;
    size_t page = 4096, at = 0;
    size_t flag_bytes =
        lks_round_up((1 + (size_t)spec->buckets->count) * sizeof(shm_flag), 2 * LKS_ALIGNMENT);
    for (int r = 0; r < size; ++r, at += flag_bytes)
        link->flags[r] = shm_at(base, at);
    at = lks_round_up(at, page);
    arrays->parameters = shm_at(base, at);
    at = lks_round_up(at + arrays->array_bytes, page);
    for (int r = 0; r < size; ++r) {
        link->gradients[r] = shm_at(base, at);
        at = lks_round_up(at + arrays->array_bytes * (size_t)levels_of(spec, r), page);
    }
    arrays->gradients = link->gradients[link->shard.rank];
    return at;
}

static lks_status shm_prepare(shm_link *link, const lks_link_spec *spec)
{
    LKS_TRY(lks_shard_open(&link->shard, spec));
    size_t size = (size_t)link->shard.size;
    LKS_TRY(LKS_NEW_ARRAY(&link->flags, size));
    LKS_TRY(LKS_NEW_ARRAY(&link->gradients, size));
    LKS_TRY(LKS_NEW_ARRAY(&link->waiting, link->shard.segment_count));
    LKS_TRY(LKS_NEW_ARRAY(&link->published, link->shard.segment_count));
    link->shard.keep_arrays = true;
    link->shard.arrays.array_bytes =
        lks_round_up(spec->layout->flat_elements * sizeof(float), LKS_ALIGNMENT);
    link->bytes = shm_place(link, NULL);
    link->shard.arrays.shared_bytes = link->bytes;
    return LKS_OK;
}

static void shm_close(void *instance)
{
    shm_link *link = instance;
    if (!link)
        return;
    lks_comm_unshare(link->shard.spec.comm, link->memory, link->bytes);
    lks_memory_free(link->flags);
    lks_memory_free(link->gradients);
    lks_memory_free(link->waiting);
    lks_memory_free(link->published);
    lks_shard_close(&link->shard);
    lks_memory_free(link);
}

static lks_status shm_open_link(void **instance, const lks_link_spec *spec, lks_link_arrays *arrays)
{
    shm_link *link = NULL;
    lks_status status = LKS_NEW(&link);
    if (status == LKS_OK)
        status = shm_prepare(link, spec);
    status = lks_comm_agree(spec->comm, status);
    if (status == LKS_OK)
        status = lks_comm_share(spec->comm, link->bytes, &link->memory);
    if (status != LKS_OK) {
        shm_close(link);
        return status;
    }
    (void)shm_place(link, link->memory);
    for (int r = 0; r < link->shard.size; ++r)
        lks_shard_read_at(&link->shard, r, link->gradients[r]);
    *instance = link;
    *arrays = link->shard.arrays;
    return LKS_OK;
}

/* Waits, letting messages move now and then, while *flag < wanted. */
static lks_status shm_await(shm_link *link, const shm_flag *flag, uint64_t wanted)
{
    lks_comm *comm = link->shard.spec.comm;
    for (unsigned spins = 0; atomic_load_explicit(flag, memory_order_acquire) < wanted; ++spins) {
        lks_comm_relax(comm, spins);
        if (spins % 64 == 63)
            LKS_TRY(lks_comm_progress(comm));
    }
    return LKS_OK;
}

/* What any rank wrote before is seen by all after. */
static lks_status shm_barrier(shm_link *link)
{
    ++link->barriers;
    atomic_store_explicit(&link->flags[link->shard.rank][0], link->barriers, memory_order_release);
    for (int r = 0; r < link->shard.size; ++r)
        LKS_TRY(shm_await(link, &link->flags[r][0], link->barriers));
    return LKS_OK;
}

static lks_status shm_begin(void *instance)
{
    shm_link *link = instance;
    ++link->step;
    link->waiting_count = link->shard.segment_count;
    for (uint32_t i = 0; i < link->waiting_count; ++i) {
        link->waiting[i] = i;
        link->published[i] = 0;
    }
    return LKS_OK;
}

static lks_status shm_offer(void *instance, uint32_t bucket)
{
    shm_link *link = instance;
    shm_flag *mine = link->flags[link->shard.rank];
    atomic_store_explicit(&mine[1 + bucket], link->step, memory_order_release);
    return LKS_OK;
}

static bool shm_all_published(shm_link *link, uint32_t index)
{
    uint32_t flag = 1 + link->shard.segments[index].bucket;
    int *rank = &link->published[index], size = link->shard.size;
    while (*rank < size &&
           atomic_load_explicit(&link->flags[*rank][flag], memory_order_acquire) >= link->step)
        ++*rank;
    return *rank == size;
}

/* Sums one segment that all have published, if there is one. */
static lks_status shm_sum_one(shm_link *link, bool *summed)
{
    *summed = false;
    for (uint32_t i = 0; i < link->waiting_count; ++i) {
        uint32_t index = link->waiting[i];
        if (!shm_all_published(link, index))
            continue;
        const lks_segment *segment = &link->shard.segments[index];
        LKS_TRY(lks_shard_sum(&link->shard, segment->first_block, segment->end_block));
        link->waiting[i] = link->waiting[--link->waiting_count];
        *summed = true;
        return LKS_OK;
    }
    return LKS_OK;
}

static lks_status shm_progress(void *instance)
{
    bool summed = false;
    return shm_sum_one(instance, &summed);
}

static lks_status shm_sum(void *instance, double *wait_seconds)
{
    shm_link *link = instance;
    while (link->waiting_count > 0) {
        bool summed = false;
        LKS_TRY(shm_sum_one(link, &summed));
        if (summed)
            continue;
        uint32_t index = link->waiting[0];
        uint32_t flag = 1 + link->shard.segments[index].bucket;
        uint64_t start = lks_clock_ns();
        LKS_TRY(shm_await(link, &link->flags[link->published[index]][flag], link->step));
        *wait_seconds += lks_clock_seconds_since(start);
    }
    return LKS_OK;
}

/* The barrier also keeps the next step's gradients from being written while an owner still reads
 * this step's. */
static lks_status shm_gather(void *instance, double *wait_seconds)
{
    uint64_t start = lks_clock_ns();
    lks_status status = shm_barrier(instance);
    *wait_seconds += lks_clock_seconds_since(start);
    return status;
}

const lks_link_driver lks_shm_link = {
    .name = "shm",
    .about = "ranks of one node sum in shared memory",
    .usable = shm_usable,
    .open = shm_open_link,
    .close = shm_close,
    .begin = shm_begin,
    .offer = shm_offer,
    .progress = shm_progress,
    .sum = shm_sum,
    .gather = shm_gather,
};
