/* Ranks anywhere: partials travel to the owners of their blocks as messages, parameters come back
 * around a ring.
 *
 * A segment of a bucket goes to its owner as one message per partial, its tag the bucket and the
 * number of the partial. The owner posts all receives of a step in begin; each partial of others
 * has a place of the owner's size.
 */
#include "collectives/comm_private.h"
#include "collectives/shard.h"
#include "runtime/base/clock.h"
#include "runtime/base/memory.h"

typedef struct mpi_message {
    lks_comm_request *request;
    uint32_t segment; /* of a receive */
} mpi_message;

typedef struct mpi_link {
    lks_shard shard;
    int rank, size;
    int first_lane, end_lane;
    float *parameters; /* flat */
    float *gradients;  /* [levels] flat arrays */
    int levels;
    float *inbox; /* [leaves of others] the own blocks' range */
    size_t array_bytes, inbox_bytes;
    int own_leaves;
    mpi_message *receives, *sends; /* under way */
    size_t receive_capacity, send_capacity;
    uint32_t receive_count, send_count, cursor;
    uint32_t *missing; /* [segments] messages, and own offer, that it still waits for */
    uint32_t *ready;   /* [ready_count] segments to be summed */
    uint32_t ready_count, summed_count;
    bool poisoned; /* a message could not be given up: its memory stays */
} mpi_link;

static lks_status mpi_link_usable(const lks_link_spec *spec)
{
    if (lks_device_is_host(spec->device))
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_USAGE,
                    "link mpi needs a device that computes in the host's memory, not %s: set "
                    "collectives.link=auto",
                    lks_device_name(spec->device));
}

static int mpi_tag(const mpi_link *link, uint32_t bucket, int level)
{
    return (int)bucket * link->shard.partials + level;
}

static lks_status mpi_link_allocate(mpi_link *link)
{
    const lks_link_spec *spec = &link->shard.spec;
    size_t segments = link->shard.segment_count;
    size_t foreign = (size_t)(link->shard.leaf_count - link->own_leaves);
    /* Owners are consecutive: each further owner and each further bucket adds one part at most. */
    size_t parts = (size_t)spec->buckets->count + (size_t)link->size;
    link->receive_capacity = segments * foreign;
    link->send_capacity = parts * (size_t)link->own_leaves;
    link->array_bytes = lks_round_up(spec->layout->flat_elements * sizeof(float), LKS_ALIGNMENT);
    link->inbox_bytes = foreign * link->shard.elements * sizeof(float);
    LKS_TRY(LKS_NEW_ARRAY(&link->receives, link->receive_capacity));
    LKS_TRY(LKS_NEW_ARRAY(&link->sends, link->send_capacity));
    LKS_TRY(LKS_NEW_ARRAY(&link->missing, segments));
    LKS_TRY(LKS_NEW_ARRAY(&link->ready, segments));
    LKS_TRY(lks_device_allocate(spec->device, link->array_bytes, (void **)&link->parameters));
    LKS_TRY(lks_device_allocate(spec->device, link->array_bytes * (size_t)link->levels,
                                (void **)&link->gradients));
    if (link->inbox_bytes > 0)
        LKS_TRY(lks_device_allocate(spec->device, link->inbox_bytes, (void **)&link->inbox));
    return LKS_OK;
}

/* All messages of a step at once, and some for who else rides along. */
static lks_status mpi_link_reserve(const mpi_link *link)
{
    size_t messages = link->receive_capacity + link->send_capacity + 8;
    uint64_t largest = 0;
    for (int r = 0; r < link->size; ++r) {
        uint64_t offset = 0, elements = 0;
        lks_shard_owned(&link->shard.spec, r, &offset, &elements);
        largest = elements > largest ? elements : largest;
    }
    return lks_comm_reserve(link->shard.spec.comm, messages, largest * sizeof(float));
}

static float *mpi_link_gradient(void *instance, int level)
{
    mpi_link *link = instance;
    return link->gradients + link->array_bytes / sizeof(float) * (size_t)level;
}

static void mpi_link_point_leaves(mpi_link *link)
{
    size_t foreign = 0;
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        lks_leaf *leaf = &link->shard.leaves[i];
        if (leaf->rank == link->rank) {
            leaf->data = mpi_link_gradient(link, leaf->level);
            leaf->origin = 0;
        } else {
            leaf->data = link->inbox + foreign++ * link->shard.elements;
            leaf->origin = link->shard.offset;
        }
    }
}

static lks_status mpi_link_prepare(mpi_link *link, const lks_link_spec *spec)
{
    link->rank = lks_comm_rank(spec->comm);
    link->size = lks_comm_size(spec->comm);
    LKS_TRY(lks_shard_open(&link->shard, spec));
    lks_lanes_of(spec->lanes, link->rank, link->size, &link->first_lane, &link->end_lane);
    link->levels = lks_lane_levels(spec->lanes, link->first_lane, link->end_lane);
    for (int i = 0; i < link->shard.leaf_count; ++i)
        link->own_leaves += link->shard.leaves[i].rank == link->rank;
    LKS_TRY(mpi_link_allocate(link));
    LKS_TRY(mpi_link_reserve(link));
    mpi_link_point_leaves(link);
    return LKS_OK;
}

/* After a failure in mid-step messages may still be under way. */
static void mpi_link_give_up(mpi_link *link, mpi_message *messages, uint32_t count)
{
    for (uint32_t i = 0; i < count; ++i)
        if (!lks_comm_cancel(link->shard.spec.comm, &messages[i].request))
            link->poisoned = true;
}

static void mpi_link_free_arrays(mpi_link *link)
{
    lks_device *device = link->shard.spec.device;
    if (link->parameters)
        lks_device_free(device, link->parameters, link->array_bytes);
    if (link->gradients)
        lks_device_free(device, link->gradients, link->array_bytes * (size_t)link->levels);
    if (link->inbox)
        lks_device_free(device, link->inbox, link->inbox_bytes);
}

static void mpi_link_close(void *instance)
{
    mpi_link *link = instance;
    if (!link)
        return;
    mpi_link_give_up(link, link->receives, link->receive_count);
    mpi_link_give_up(link, link->sends, link->send_count);
    if (!link->poisoned)
        mpi_link_free_arrays(link);
    lks_memory_free(link->receives);
    lks_memory_free(link->sends);
    lks_memory_free(link->missing);
    lks_memory_free(link->ready);
    lks_shard_close(&link->shard);
    lks_memory_free(link);
}

static lks_status mpi_link_open(void **instance, const lks_link_spec *spec)
{
    mpi_link *link = NULL;
    lks_status status = LKS_NEW(&link);
    if (status == LKS_OK)
        status = mpi_link_prepare(link, spec);
    status = lks_comm_agree(spec->comm, status);
    if (status != LKS_OK) {
        mpi_link_close(link);
        return status;
    }
    *instance = link;
    return LKS_OK;
}

static float *mpi_link_parameters(void *instance)
{
    return ((mpi_link *)instance)->parameters;
}

static lks_status mpi_link_post(mpi_link *link, uint32_t index)
{
    const lks_segment *segment = &link->shard.segments[index];
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        const lks_leaf *leaf = &link->shard.leaves[i];
        if (leaf->rank == link->rank)
            continue;
        float *place = (float *)leaf->data + (segment->offset - leaf->origin);
        mpi_message *message = &link->receives[link->receive_count];
        message->segment = index;
        LKS_TRY(lks_comm_receive(link->shard.spec.comm, leaf->rank,
                                 mpi_tag(link, segment->bucket, leaf->level), place,
                                 segment->elements * sizeof(float), &message->request));
        ++link->receive_count;
    }
    return LKS_OK;
}

static lks_status mpi_link_begin(void *instance)
{
    mpi_link *link = instance;
    link->cursor = link->ready_count = link->summed_count = 0;
    for (uint32_t i = 0; i < link->shard.segment_count; ++i) {
        link->missing[i] = 1 + (uint32_t)(link->shard.leaf_count - link->own_leaves);
        LKS_TRY(mpi_link_post(link, i));
    }
    return LKS_OK;
}

static void mpi_link_arrived(mpi_link *link, uint32_t segment)
{
    if (--link->missing[segment] == 0)
        link->ready[link->ready_count++] = segment;
}

static lks_status mpi_link_send_part(mpi_link *link, uint32_t bucket, int owner)
{
    uint64_t offset = 0, elements = 0;
    lks_shard_part(&link->shard.spec, bucket, owner, &offset, &elements);
    for (int level = 0; elements > 0 && level < link->own_leaves; ++level) {
        LKS_TRY(lks_comm_send(link->shard.spec.comm, owner, mpi_tag(link, bucket, level),
                              mpi_link_gradient(link, level) + offset, elements * sizeof(float),
                              &link->sends[link->send_count].request));
        ++link->send_count;
    }
    return LKS_OK;
}

static lks_status mpi_link_offer(void *instance, uint32_t bucket)
{
    mpi_link *link = instance;
    const lks_link_spec *spec = &link->shard.spec;
    uint32_t first = spec->buckets->first_block[bucket];
    uint32_t last = spec->buckets->first_block[bucket + 1] - 1;
    int end = lks_layout_owner(spec->layout, last, link->size);
    for (int o = lks_layout_owner(spec->layout, first, link->size); o <= end; ++o)
        if (o != link->rank)
            LKS_TRY(mpi_link_send_part(link, bucket, o));
    for (uint32_t i = 0; i < link->shard.segment_count; ++i)
        if (link->shard.segments[i].bucket == bucket)
            mpi_link_arrived(link, i);
    return LKS_OK;
}

/* Looks at the messages, round and round, until `misses` of them were not done; those that are
 * leave the list. */
static lks_status mpi_link_look(mpi_link *link, mpi_message *messages, uint32_t *count,
                                uint32_t misses, bool receiving)
{
    while (misses > 0 && *count > 0) {
        uint32_t at = link->cursor % *count;
        bool done = false;
        LKS_TRY(lks_comm_test(link->shard.spec.comm, &messages[at].request, &done, NULL));
        if (!done) {
            --misses;
            ++link->cursor;
            continue;
        }
        uint32_t segment = messages[at].segment;
        messages[at] = messages[--*count];
        if (receiving)
            mpi_link_arrived(link, segment);
    }
    return LKS_OK;
}

static lks_status mpi_link_sum_ready(mpi_link *link)
{
    if (link->ready_count == 0)
        return LKS_OK;
    const lks_segment *segment = &link->shard.segments[link->ready[--link->ready_count]];
    ++link->summed_count;
    return lks_shard_sum(&link->shard, segment->first_block, segment->end_block);
}

static lks_status mpi_link_progress(void *instance)
{
    mpi_link *link = instance;
    LKS_TRY(mpi_link_look(link, link->receives, &link->receive_count, 1, true));
    LKS_TRY(mpi_link_look(link, link->sends, &link->send_count, 1, false));
    return mpi_link_sum_ready(link);
}

static bool mpi_link_has_all(const mpi_link *link)
{
    return link->summed_count == link->shard.segment_count && link->send_count == 0;
}

static lks_status mpi_link_sum(void *instance, double *wait_seconds)
{
    mpi_link *link = instance;
    uint64_t start = lks_clock_ns();
    unsigned spins = 0;
    while (!mpi_link_has_all(link)) {
        if (link->ready_count > 0) {
            *wait_seconds += lks_clock_seconds_since(start);
            LKS_TRY(mpi_link_sum_ready(link));
            start = lks_clock_ns();
            spins = 0;
            continue;
        }
        uint32_t before = link->receive_count + link->send_count;
        LKS_TRY(mpi_link_look(link, link->receives, &link->receive_count, 8, true));
        LKS_TRY(mpi_link_look(link, link->sends, &link->send_count, 8, false));
        if (link->receive_count + link->send_count == before)
            lks_comm_relax(link->shard.spec.comm, ++spins);
    }
    *wait_seconds += lks_clock_seconds_since(start);
    return LKS_OK;
}

static const float *mpi_link_sums(void *instance)
{
    return lks_shard_sums(&((mpi_link *)instance)->shard);
}

static const double *mpi_link_square_sums(void *instance)
{
    return ((mpi_link *)instance)->shard.square_sums;
}

/* One hop: rank `passing`'s blocks go on to the right, the next ones come from the left. */
static lks_status mpi_link_hop(mpi_link *link, int passing)
{
    lks_comm *comm = link->shard.spec.comm;
    lks_comm_request *send = NULL, *receive = NULL;
    int right = (link->rank + 1) % link->size, left = (link->rank + link->size - 1) % link->size;
    uint64_t out = 0, out_elements = 0, in = 0, in_elements = 0;
    lks_shard_owned(&link->shard.spec, passing, &out, &out_elements);
    lks_shard_owned(&link->shard.spec, (passing + link->size - 1) % link->size, &in, &in_elements);
    LKS_TRY(lks_comm_receive(comm, left, LKS_TAG_PARAMETERS, link->parameters + in,
                             in_elements * sizeof(float), &receive));
    LKS_TRY(lks_comm_send(comm, right, LKS_TAG_PARAMETERS, link->parameters + out,
                          out_elements * sizeof(float), &send));
    LKS_TRY(lks_comm_wait(comm, &receive, NULL));
    return lks_comm_wait(comm, &send, NULL);
}

static lks_status mpi_link_gather(void *instance, double *wait_seconds)
{
    mpi_link *link = instance;
    uint64_t start = lks_clock_ns();
    for (int hop = 0; hop + 1 < link->size; ++hop)
        LKS_TRY(mpi_link_hop(link, (link->rank + link->size - hop) % link->size));
    *wait_seconds += lks_clock_seconds_since(start);
    return LKS_OK;
}

static void mpi_link_memory(void *instance, uint64_t *shared_bytes, uint64_t *private_bytes)
{
    const mpi_link *link = instance;
    (void)shared_bytes;
    *private_bytes += link->array_bytes * (1 + (uint64_t)link->levels) + link->inbox_bytes;
}

const lks_link_driver lks_mpi_link = {
    .name = "mpi",
    .about = "ranks anywhere send their gradients to the owners",
    .overlaps = true,
    .usable = mpi_link_usable,
    .open = mpi_link_open,
    .close = mpi_link_close,
    .parameters = mpi_link_parameters,
    .gradient = mpi_link_gradient,
    .begin = mpi_link_begin,
    .offer = mpi_link_offer,
    .progress = mpi_link_progress,
    .sum = mpi_link_sum,
    .sums = mpi_link_sums,
    .square_sums = mpi_link_square_sums,
    .gather = mpi_link_gather,
    .memory = mpi_link_memory,
};
