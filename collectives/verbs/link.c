/* Ranks anywhere with RDMA: partials are written to where the owners sum them, parameters to where
 * they belong.
 *
 * The owner has a place of its own blocks' size for each partial of others, so nothing is copied. A
 * place is free again when its sender writes the next step's: the sender has this step's parameters
 * then, which the owner sent after it had summed. A sender may be one step, and one gather, ahead of
 * an owner that still waits for others, so chunks say whether theirs is odd.
 */
#include "collectives/verbs/link_private.h"
#include "runtime/base/clock.h"

/* Of a chunk: the bucket, or parameters; and whether the step, or the gather, is odd. */
enum { TAG_ODD = 1, TAG_PARAMETERS = 2, TAG_BUCKET_SHIFT = 2 };

static uint32_t *verbs_missing(verbs_link *link)
{
    return link->missing[link->step % 2];
}

lks_status verbs_arrived(void *user, int rank, uint32_t tag)
{
    verbs_link *link = user;
    uint32_t odd = tag & TAG_ODD, index = 0, *left = &link->parameters_missing[odd];
    if (!(tag & TAG_PARAMETERS)) {
        index = lks_shard_segment(&link->shard, tag >> TAG_BUCKET_SHIFT);
        left = index < link->shard.segment_count ? &link->missing[odd][index] : NULL;
    }
    if (!left || *left == 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "rank %d wrote a chunk (%x) that nobody expects", rank,
                        tag);
    if (--*left == 0 && !(tag & TAG_PARAMETERS))
        lks_shard_ready(&link->shard, index);
    return LKS_OK;
}

void verbs_expect_partials(verbs_link *link, uint64_t step)
{
    uint32_t foreign = (uint32_t)(link->shard.leaf_count - link->shard.own_leaves);
    for (uint32_t i = 0; i < link->shard.segment_count; ++i) {
        uint64_t bytes = link->shard.segments[i].elements * sizeof(float);
        link->missing[step % 2][i] = 1 + foreign * lks_verbs_chunks(link->mesh, bytes);
    }
}

void verbs_expect_parameters(verbs_link *link, uint64_t gather)
{
    uint32_t *missing = &link->parameters_missing[gather % 2];
    for (int r = 0; r < link->shard.size; ++r)
        if (r != link->shard.rank)
            *missing += lks_verbs_chunks(link->mesh, link->owners[r].elements * sizeof(float));
}

static lks_status verbs_begin(void *instance)
{
    verbs_link *link = instance;
    ++link->step;
    verbs_expect_partials(link, link->step + 1);
    lks_shard_begin(&link->shard);
    return LKS_OK;
}

static lks_status verbs_send_part(verbs_link *link, uint32_t bucket, int to)
{
    const verbs_owner *owner = &link->owners[to];
    uint64_t offset = 0, elements = 0;
    lks_shard_part(&link->shard.spec, bucket, to, &offset, &elements);
    for (int level = 0; elements > 0 && level < link->shard.own_leaves; ++level) {
        uint64_t place = owner->inbox_place + (uint64_t)level * owner->elements;
        lks_verbs_transfer transfer = {
            .from = LKS_VERBS_GRADIENTS,
            .to = LKS_VERBS_INBOX,
            .from_offset =
                (uint64_t)level * link->shard.arrays.array_bytes + offset * sizeof(float),
            .to_offset = (place + offset - owner->offset) * sizeof(float),
            .bytes = elements * sizeof(float),
            .tag = bucket << TAG_BUCKET_SHIFT | (uint32_t)(link->step % 2),
        };
        LKS_TRY(lks_verbs_send(link->mesh, to, &transfer));
    }
    return LKS_OK;
}

static lks_status verbs_offer(void *instance, uint32_t bucket)
{
    verbs_link *link = instance;
    int owner = 0, end = 0;
    uint32_t own = lks_shard_segment(&link->shard, bucket);
    lks_shard_owners(&link->shard.spec, bucket, &owner, &end);
    for (; owner < end; ++owner)
        if (owner != link->shard.rank)
            LKS_TRY(verbs_send_part(link, bucket, owner));
    if (own < link->shard.segment_count && --verbs_missing(link)[own] == 0)
        lks_shard_ready(&link->shard, own);
    return LKS_OK;
}

static lks_status verbs_progress(void *instance)
{
    verbs_link *link = instance;
    bool moved = false;
    LKS_TRY(lks_verbs_poll(link->mesh, &moved));
    LKS_TRY(lks_verbs_watch(link->mesh, false));
    return lks_shard_sum_ready(&link->shard);
}

/* Takes in what has come; when nothing has, lets others have a turn. */
static lks_status verbs_wait(verbs_link *link, unsigned *spins)
{
    bool moved = false;
    lks_comm *comm = link->shard.spec.comm;
    LKS_TRY(lks_verbs_poll(link->mesh, &moved));
    if (moved) {
        *spins = 0;
        return LKS_OK;
    }
    LKS_TRY(lks_verbs_watch(link->mesh, true));
    lks_comm_relax(comm, ++*spins);
    return *spins % 64 == 0 ? lks_comm_progress(comm) : LKS_OK;
}

static lks_status verbs_sum(void *instance, double *wait_seconds)
{
    verbs_link *link = instance;
    unsigned spins = 0;
    lks_verbs_watch_from_now(link->mesh);
    while (!lks_shard_is_summed(&link->shard) || lks_verbs_under_way(link->mesh) > 0) {
        uint64_t start = lks_clock_ns();
        LKS_TRY(verbs_wait(link, &spins));
        *wait_seconds += lks_clock_seconds_since(start);
        LKS_TRY(lks_shard_sum_ready(&link->shard));
    }
    return LKS_OK;
}

static lks_status verbs_gather(void *instance, double *wait_seconds)
{
    verbs_link *link = instance;
    unsigned spins = 0;
    uint64_t start = lks_clock_ns();
    lks_verbs_transfer own = {
        .from = LKS_VERBS_PARAMETERS,
        .to = LKS_VERBS_PARAMETERS,
        .from_offset = link->shard.offset * sizeof(float),
        .to_offset = link->shard.offset * sizeof(float),
        .bytes = link->shard.elements * sizeof(float),
        .tag = TAG_PARAMETERS | (uint32_t)(++link->gather % 2),
    };
    lks_verbs_watch_from_now(link->mesh);
    for (int i = 1; own.bytes > 0 && i < link->shard.size; ++i)
        LKS_TRY(lks_verbs_send(link->mesh, (link->shard.rank + i) % link->shard.size, &own));
    while (link->parameters_missing[link->gather % 2] > 0 || lks_verbs_under_way(link->mesh) > 0)
        LKS_TRY(verbs_wait(link, &spins));
    verbs_expect_parameters(link, link->gather + 2);
    *wait_seconds += lks_clock_seconds_since(start);
    return LKS_OK;
}

const lks_link_driver lks_verbs_link = {
    .name = "verbs",
    .about = "ranks anywhere write into each other's memory over InfiniBand or RoCE",
    .may_give_way = true,
    .usable = verbs_usable,
    .open = verbs_open,
    .close = verbs_close,
    .begin = verbs_begin,
    .offer = verbs_offer,
    .progress = verbs_progress,
    .sum = verbs_sum,
    .gather = verbs_gather,
};
