#include "collectives/reducer.h"

#include "collectives/comm_private.h"
#include "collectives/lane_tree.h"
#include "collectives/link.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"

#include <string.h>

static const uint64_t default_bucket_bytes = (uint64_t)4 << 20;

struct lks_reducer {
    lks_link_spec spec;
    lks_buckets buckets;
    uint64_t *bucket_bytes; /* [buckets] of this rank's partials, padding not counted */
    uint32_t *bucket_of;    /* [blocks] */
    uint32_t *blocks_left;  /* [buckets] of this step, not yet final */
    bool *tensor_final;     /* [tensors] of this step */
    uint32_t tensors_left;  /* of this step, not yet final */
    const lks_link_driver *link;
    void *instance;
    lks_link_arrays arrays;
    int first_lane, end_lane;
    int partials;         /* that this rank's lanes end in */
    lks_lane_stack stack; /* this step's finished lanes */
    unsigned quiet_calls; /* of progress, with no message under way */
    uint32_t next_bucket; /* of this step: those from here on are offered */
    lks_status failure;   /* of an offer made where no status could be returned */
    lks_reducer_stats stats;
};

static lks_status check_spec(const lks_reducer_spec *spec)
{
    int size = lks_comm_size(spec->comm);
    if (spec->lanes < 1)
        return LKS_FAIL(LKS_ERR_USAGE, "train.lanes is %d: set it to 1 or more", spec->lanes);
    if (size <= spec->lanes)
        return LKS_OK;
    char lanes[32], ranks[32];
    return LKS_FAIL(LKS_ERR_USAGE,
                    "%d ranks, but the job has %s: start at most %s, or a new job with "
                    "train.lanes=%d",
                    size, lks_text_count(lanes, sizeof lanes, (uint64_t)spec->lanes, "lane"),
                    lks_text_count(ranks, sizeof ranks, (uint64_t)spec->lanes, "rank"), size);
}

/* Cuts at `target` bytes or just above; returns the count. `reducer` NULL: only counts. */
static uint32_t cut_buckets(const lks_layout *layout, uint64_t target, lks_reducer *reducer)
{
    uint32_t count = 0;
    uint64_t bytes = 0;
    for (uint32_t i = 0; i < layout->block_count; ++i) {
        if (bytes == 0 && reducer)
            reducer->buckets.first_block[count] = i;
        if (reducer)
            reducer->bucket_of[i] = count;
        bytes += layout->blocks[i].elements * sizeof(float);
        if (bytes >= target || i + 1 == layout->block_count) {
            if (reducer)
                reducer->bucket_bytes[count] = bytes * (uint64_t)reducer->partials;
            ++count;
            bytes = 0;
        }
    }
    return count;
}

/* The most partials that any rank of this world has. */
static uint32_t most_partials(const lks_link_spec *spec)
{
    int most = 1, size = lks_comm_size(spec->comm);
    for (int r = 0; r < size; ++r) {
        int first = 0, end = 0;
        lks_lane_stack stack;
        lks_lanes_of(spec->lanes, r, size, &first, &end);
        lks_lane_partials(spec->lanes, first, end, &stack);
        most = stack.count > most ? stack.count : most;
    }
    return (uint32_t)most;
}

/* Buckets grow until each partial of each has a tag of its own. */
static lks_status make_buckets(lks_reducer *reducer, uint64_t target)
{
    const lks_layout *layout = reducer->spec.layout;
    uint32_t most = LKS_TAG_PARAMETERS / most_partials(&reducer->spec);
    target = target ? target : default_bucket_bytes;
    uint32_t count = cut_buckets(layout, target, NULL);
    for (; count > most; count = cut_buckets(layout, target, NULL))
        target *= 2;
    LKS_TRY(LKS_NEW_ARRAY(&reducer->buckets.first_block, (size_t)count + 1));
    LKS_TRY(LKS_NEW_ARRAY(&reducer->bucket_bytes, count));
    LKS_TRY(LKS_NEW_ARRAY(&reducer->bucket_of, layout->block_count));
    LKS_TRY(LKS_NEW_ARRAY(&reducer->blocks_left, count));
    LKS_TRY(LKS_NEW_ARRAY(&reducer->tensor_final, layout->tensor_count));
    reducer->buckets.count = cut_buckets(layout, target, reducer);
    reducer->buckets.first_block[count] = layout->block_count;
    return LKS_OK;
}

static lks_status prepare(lks_reducer *reducer, const lks_reducer_spec *spec)
{
    LKS_TRY(check_spec(spec));
    reducer->spec =
        (lks_link_spec){.comm = spec->comm,
                        .device = spec->device,
                        .layout = spec->layout,
                        .lanes = spec->lanes,
                        .buckets = &reducer->buckets,
                        .any_order = spec->any_order,
                        .timeout_seconds = spec->timeout_seconds > 0 ? spec->timeout_seconds : 300,
                        .verbs = spec->verbs};
    lks_lanes_of(spec->lanes, lks_comm_rank(spec->comm), lks_comm_size(spec->comm),
                 &reducer->first_lane, &reducer->end_lane);
    lks_lane_stack stack;
    lks_lane_partials(spec->lanes, reducer->first_lane, reducer->end_lane, &stack);
    reducer->partials = stack.count;
    return make_buckets(reducer, spec->bucket_bytes);
}

lks_status lks_reducer_open(lks_reducer **out, const lks_reducer_spec *spec)
{
    lks_reducer *reducer = NULL;
    lks_status status = LKS_NEW(&reducer);
    if (status == LKS_OK)
        status = prepare(reducer, spec);
    status = lks_comm_agree(spec->comm, status);
    if (status == LKS_OK)
        status = lks_link_open(&reducer->link, &reducer->instance, &reducer->arrays, spec->link,
                               &reducer->spec);
    if (status != LKS_OK) {
        lks_reducer_close(reducer);
        return status;
    }
    reducer->stats.shared_bytes = reducer->arrays.shared_bytes;
    reducer->stats.private_bytes = reducer->arrays.private_bytes;
    *out = reducer;
    return LKS_OK;
}

void lks_reducer_close(lks_reducer *reducer)
{
    if (!reducer)
        return;
    if (reducer->instance)
        reducer->link->close(reducer->instance);
    lks_memory_free(reducer->buckets.first_block);
    lks_memory_free(reducer->bucket_bytes);
    lks_memory_free(reducer->bucket_of);
    lks_memory_free(reducer->blocks_left);
    lks_memory_free(reducer->tensor_final);
    lks_memory_free(reducer);
}

const char *lks_reducer_link(const lks_reducer *reducer)
{
    return reducer->link->name;
}

bool lks_reducer_overlaps(const lks_reducer *reducer)
{
    return reducer->link->offer != NULL;
}

float *lks_reducer_parameters(lks_reducer *reducer)
{
    return reducer->arrays.parameters;
}

void lks_reducer_owned(const lks_reducer *reducer, uint32_t *first_block, uint32_t *end_block)
{
    lks_layout_owned(reducer->spec.layout, lks_comm_rank(reducer->spec.comm),
                     lks_comm_size(reducer->spec.comm), first_block, end_block);
}

/* After a failure no step goes on: what the device was given for a lost peer would never end, and whoever waits for the
 * device, or closes the link, neither. */
static lks_status abandon(lks_reducer *reducer, lks_status status)
{
    if (status != LKS_OK && reducer->link->abandon)
        reducer->link->abandon(reducer->instance);
    return status;
}

lks_status lks_reducer_begin(lks_reducer *reducer)
{
    const lks_buckets *buckets = &reducer->buckets;
    for (uint32_t i = 0; i < buckets->count; ++i)
        reducer->blocks_left[i] = buckets->first_block[i + 1] - buckets->first_block[i];
    memset(reducer->tensor_final, 0, reducer->spec.layout->tensor_count * sizeof(bool));
    reducer->tensors_left = reducer->spec.layout->tensor_count;
    reducer->stack.count = 0;
    reducer->next_bucket = buckets->count;
    reducer->failure = LKS_OK;
    reducer->stats.bytes_early = reducer->stats.bytes_total = 0;
    reducer->stats.wait_seconds = 0;
    if (!reducer->link->begin)
        return LKS_OK;
    return abandon(reducer, reducer->link->begin(reducer->instance));
}

float *lks_reducer_lane(lks_reducer *reducer, int lane)
{
    (void)lane; /* lanes come in order: the next array of the stack is this one's */
    return lks_link_gradient(&reducer->arrays, reducer->stack.count);
}

/* Offers are made from the last bucket to the first, as backward passes mostly go: in one order on all ranks, whatever
 * each of them has done, since some links match messages by their order. */
static void offer_buckets(lks_reducer *reducer)
{
    while (reducer->next_bucket > 0 && reducer->blocks_left[reducer->next_bucket - 1] == 0) {
        uint32_t bucket = --reducer->next_bucket;
        if (reducer->failure == LKS_OK && reducer->link->offer)
            reducer->failure = abandon(reducer, reducer->link->offer(reducer->instance, bucket));
        reducer->stats.bytes_total += reducer->bucket_bytes[bucket];
    }
}

static void finish_tensor(lks_reducer *reducer, uint32_t tensor)
{
    if (reducer->tensor_final[tensor])
        return;
    reducer->tensor_final[tensor] = true;
    --reducer->tensors_left;
    const lks_layout_tensor *it = &reducer->spec.layout->tensors[tensor];
    for (uint32_t b = it->first_block; b < it->first_block + it->block_count; ++b)
        --reducer->blocks_left[reducer->bucket_of[b]];
    offer_buckets(reducer);
}

void lks_reducer_final(lks_reducer *reducer, uint32_t layout_tensor)
{
    finish_tensor(reducer, layout_tensor);
    if (reducer->tensors_left > 0)
        reducer->stats.bytes_early = reducer->stats.bytes_total;
}

lks_status lks_reducer_progress(lks_reducer *reducer)
{
    LKS_TRY(reducer->failure);
    if (reducer->link->progress)
        LKS_TRY(abandon(reducer, reducer->link->progress(reducer->instance)));
    /* With no message of ours under way it is only about what MPI has kept to itself: rarely. */
    if (reducer->spec.comm->under_way == 0 && ++reducer->quiet_calls % 16 != 0)
        return LKS_OK;
    return abandon(reducer, lks_comm_progress(reducer->spec.comm));
}

/* Adds up what is a node of the tree already, so that the next lane finds its array free. */
static lks_status fold(lks_reducer *reducer)
{
    while (lks_lane_fold(&reducer->stack, reducer->spec.lanes)) {
        int into = reducer->stack.count - 1;
        LKS_TRY(lks_device_add(reducer->spec.device, reducer->spec.layout->flat_elements,
                               lks_link_gradient(&reducer->arrays, into + 1),
                               lks_link_gradient(&reducer->arrays, into)));
    }
    return LKS_OK;
}

lks_status lks_reducer_lane_done(lks_reducer *reducer, int lane)
{
    lks_lane_push(&reducer->stack, lane);
    if (lane + 1 < reducer->end_lane)
        return fold(reducer);
    for (uint32_t t = reducer->spec.layout->tensor_count; t-- > 0;)
        finish_tensor(reducer, t);
    return reducer->failure;
}

lks_status lks_reducer_sum(lks_reducer *reducer)
{
    return abandon(reducer, reducer->link->sum(reducer->instance, &reducer->stats.wait_seconds));
}

const float *lks_reducer_sums(const lks_reducer *reducer)
{
    return reducer->arrays.gradients;
}

const double *lks_reducer_square_sums(const lks_reducer *reducer)
{
    return reducer->arrays.square_sums;
}

lks_status lks_reducer_gather(lks_reducer *reducer)
{
    return abandon(reducer, reducer->link->gather(reducer->instance, &reducer->stats.wait_seconds));
}

bool lks_reducer_can_share(const lks_reducer *reducer)
{
    return reducer->link->share || lks_comm_size(reducer->spec.comm) == 1;
}

lks_status lks_reducer_share(lks_reducer *reducer, double *numbers, const uint64_t *first)
{
    if (lks_comm_size(reducer->spec.comm) == 1)
        return LKS_OK;
    return abandon(reducer, reducer->link->share(reducer->instance, numbers, first));
}

lks_status lks_reducer_settle(lks_reducer *reducer)
{
    if (!reducer->link->settle)
        return LKS_OK;
    return abandon(reducer, reducer->link->settle(reducer->instance, &reducer->stats.wait_seconds));
}

void lks_reducer_abandon(lks_reducer *reducer)
{
    if (reducer->link->abandon)
        reducer->link->abandon(reducer->instance);
}

lks_reducer_stats lks_reducer_get_stats(const lks_reducer *reducer)
{
    return reducer->stats;
}
