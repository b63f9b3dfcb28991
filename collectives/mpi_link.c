/* Ranks anywhere: partials travel to the owners of their blocks as messages, parameters come back
 * around a ring.
 *
 * A segment of a bucket goes to its owner as one message per partial, its tag the bucket and the
 * number of the partial. The owner posts all receives of a step in begin; each partial of others
 * has a place of the owner's size.
 */
#include "collectives/ring.h"
#include "collectives/shard.h"
#include "runtime/base/clock.h"
#include "runtime/base/memory.h"

typedef struct mpi_message {
    lks_comm_request *request;
    uint32_t segment; /* of a receive */
} mpi_message;

typedef struct mpi_link {
    lks_shard shard;
    mpi_message *receives, *sends; /* under way */
    size_t receive_capacity, send_capacity;
    uint32_t receive_count, send_count, cursor;
    uint32_t *missing; /* [segments] messages, and own offer, that it still waits for */
} mpi_link;

static lks_status mpi_link_usable(const lks_link_spec *spec)
{
    return lks_shard_on_host(spec, "mpi");
}

static int mpi_tag(const mpi_link *link, uint32_t bucket, int level)
{
    return (int)bucket * link->shard.partials + level;
}

static lks_status mpi_link_allocate(mpi_link *link)
{
    lks_shard *shard = &link->shard;
    size_t foreign = (size_t)(shard->leaf_count - shard->own_leaves);
    /* Owners are consecutive: each further owner and each further bucket adds one part at most. */
    size_t parts = (size_t)shard->spec.buckets->count + (size_t)shard->size;
    link->receive_capacity = shard->segment_count * foreign;
    link->send_capacity = parts * (size_t)shard->own_leaves;
    LKS_TRY(LKS_NEW_ARRAY(&link->receives, link->receive_capacity));
    LKS_TRY(LKS_NEW_ARRAY(&link->sends, link->send_capacity));
    LKS_TRY(LKS_NEW_ARRAY(&link->missing, shard->segment_count));
    LKS_TRY(lks_shard_allocate(shard, LKS_ALIGNMENT));
    return lks_shard_allocate_inbox(shard);
}

/* All messages of a step at once, and some for who else rides along. */
static lks_status mpi_link_reserve(const mpi_link *link)
{
    size_t messages = link->receive_capacity + link->send_capacity + 8;
    uint64_t largest = 0;
    for (int r = 0; r < link->shard.size; ++r) {
        uint64_t offset = 0, elements = 0;
        lks_shard_owned(&link->shard.spec, r, &offset, &elements);
        largest = elements > largest ? elements : largest;
    }
    return lks_comm_reserve(link->shard.spec.comm, messages, largest * sizeof(float));
}

static lks_status mpi_link_prepare(mpi_link *link, const lks_link_spec *spec)
{
    LKS_TRY(lks_shard_open(&link->shard, spec));
    LKS_TRY(mpi_link_allocate(link));
    return mpi_link_reserve(link);
}

/* After a failure in mid-step messages may still be under way, and not all of them can be called back. */
static void mpi_link_give_up(mpi_link *link, mpi_message *messages, uint32_t count)
{
    for (uint32_t i = 0; i < count; ++i)
        if (!lks_comm_cancel(link->shard.spec.comm, &messages[i].request))
            link->shard.keep_arrays = true;
}

static void mpi_link_close(void *instance)
{
    mpi_link *link = instance;
    if (!link)
        return;
    mpi_link_give_up(link, link->receives, link->receive_count);
    mpi_link_give_up(link, link->sends, link->send_count);
    lks_memory_free(link->receives);
    lks_memory_free(link->sends);
    lks_memory_free(link->missing);
    lks_shard_close(&link->shard);
    lks_memory_free(link);
}

static lks_status mpi_link_open(void **instance, const lks_link_spec *spec, lks_link_arrays *arrays)
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
    *arrays = link->shard.arrays;
    return LKS_OK;
}

static lks_status mpi_link_post(mpi_link *link, uint32_t index)
{
    const lks_segment *segment = &link->shard.segments[index];
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        const lks_leaf *leaf = &link->shard.leaves[i];
        if (leaf->rank == link->shard.rank)
            continue;
        float *place = leaf->data + (segment->offset - leaf->origin);
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
    link->cursor = 0;
    lks_shard_begin(&link->shard);
    for (uint32_t i = 0; i < link->shard.segment_count; ++i) {
        link->missing[i] = 1 + (uint32_t)(link->shard.leaf_count - link->shard.own_leaves);
        LKS_TRY(mpi_link_post(link, i));
    }
    return LKS_OK;
}

static void mpi_link_arrived(mpi_link *link, uint32_t segment)
{
    if (--link->missing[segment] == 0)
        lks_shard_ready(&link->shard, segment);
}

static lks_status mpi_link_send_part(mpi_link *link, uint32_t bucket, int owner)
{
    uint64_t offset = 0, elements = 0;
    lks_shard_part(&link->shard.spec, bucket, owner, &offset, &elements);
    for (int level = 0; elements > 0 && level < link->shard.own_leaves; ++level) {
        LKS_TRY(lks_comm_send(link->shard.spec.comm, owner, mpi_tag(link, bucket, level),
                              lks_link_gradient(&link->shard.arrays, level) + offset,
                              elements * sizeof(float), &link->sends[link->send_count].request));
        ++link->send_count;
    }
    return LKS_OK;
}

static lks_status mpi_link_offer(void *instance, uint32_t bucket)
{
    mpi_link *link = instance;
    int owner = 0, end = 0;
    uint32_t own = lks_shard_segment(&link->shard, bucket);
    lks_shard_owners(&link->shard.spec, bucket, &owner, &end);
    for (; owner < end; ++owner)
        if (owner != link->shard.rank)
            LKS_TRY(mpi_link_send_part(link, bucket, owner));
    if (own < link->shard.segment_count)
        mpi_link_arrived(link, own);
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

static lks_status mpi_link_progress(void *instance)
{
    mpi_link *link = instance;
    LKS_TRY(mpi_link_look(link, link->receives, &link->receive_count, 1, true));
    LKS_TRY(mpi_link_look(link, link->sends, &link->send_count, 1, false));
    return lks_shard_sum_ready(&link->shard);
}

static lks_status mpi_link_sum(void *instance, double *wait_seconds)
{
    mpi_link *link = instance;
    uint64_t start = lks_clock_ns();
    unsigned spins = 0;
    while (!lks_shard_is_summed(&link->shard) || link->send_count > 0) {
        if (link->shard.ready_count > 0) {
            *wait_seconds += lks_clock_seconds_since(start);
            LKS_TRY(lks_shard_sum_ready(&link->shard));
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

static lks_status mpi_link_gather(void *instance, double *wait_seconds)
{
    mpi_link *link = instance;
    uint64_t start = lks_clock_ns();
    LKS_TRY(lks_ring_gather(&link->shard, link->shard.arrays.parameters));
    *wait_seconds += lks_clock_seconds_since(start);
    return LKS_OK;
}

const lks_link_driver lks_mpi_link = {
    .name = "mpi",
    .about = "ranks anywhere send their gradients to the owners",
    .usable = mpi_link_usable,
    .open = mpi_link_open,
    .close = mpi_link_close,
    .begin = mpi_link_begin,
    .offer = mpi_link_offer,
    .progress = mpi_link_progress,
    .sum = mpi_link_sum,
    .gather = mpi_link_gather,
};
