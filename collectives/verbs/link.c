/* Ranks anywhere with RDMA: partials are written to where the owners sum them, parameters to where
 * they belong.
 *
 * The owner has a place of its own blocks' size for each partial of others, so nothing is copied. A
 * place is free again when its sender writes the next step's: the sender has this step's parameters
 * then, which the owner sent after it had summed. A sender may be one step, and one gather, ahead of
 * an owner that still waits for others, so chunks say whether theirs is odd.
 */
#include "collectives/shard.h"
#include "collectives/verbs/mesh.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

/* Where a rank's partials go in an owner's inbox, and what it owns. */
typedef struct verbs_owner {
    uint64_t offset, elements; /* in a flat array */
    uint64_t inbox_place;      /* elements: of this rank's first partial */
} verbs_owner;

typedef struct verbs_link {
    lks_shard shard;
    lks_verbs_ops ops;
    lks_verbs_mesh *mesh;
    int rank, size;
    int levels, own_leaves;
    float *parameters; /* flat */
    float *gradients;  /* [levels] flat arrays */
    float *inbox;      /* [leaves of others] the own blocks' range */
    size_t array_bytes, inbox_bytes;
    verbs_owner *owners;            /* [size] */
    uint64_t step, gather;          /* their numbers */
    uint32_t *missing[2];           /* [segments] chunks, and own offer, of even and odd steps */
    uint32_t parameters_missing[2]; /* chunks */
    uint32_t *ready;                /* [ready_count] segments to be summed */
    uint32_t ready_count, summed_count;
    bool connected;
} verbs_link;

/* Of a chunk: the bucket, or parameters; and whether the step, or the gather, is odd. */
enum { TAG_ODD = 1, TAG_PARAMETERS = 2, TAG_BUCKET_SHIFT = 2 };

static lks_status verbs_look(const lks_link_spec *spec)
{
    lks_verbs_ops ops;
    lks_verbs_port port;
    if (!spec->verbs)
        return LKS_FAIL(LKS_ERR_USAGE, "link verbs needs its options, and this caller has none");
    if (!lks_device_is_host(spec->device))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "link verbs needs a device that computes in the host's memory, not %s: set "
                        "collectives.link=auto",
                        lks_device_name(spec->device));
    LKS_TRY(lks_verbs_library_open(&ops));
    lks_verbs_wish wish = {.options = spec->verbs,
                           .numa_node = lks_verbs_own_numa_node(),
                           .local_rank = lks_comm_local_rank(spec->comm)};
    return lks_verbs_choose(&ops, &wish, &port, NULL);
}

static lks_status verbs_usable(const lks_link_spec *spec)
{
    return lks_comm_agree(spec->comm, verbs_look(spec));
}

static uint32_t *verbs_missing(verbs_link *link)
{
    return link->missing[link->step % 2];
}

static lks_status verbs_arrived(void *user, int rank, uint32_t tag)
{
    verbs_link *link = user;
    uint32_t odd = tag & TAG_ODD, index = 0, *left = &link->parameters_missing[odd];
    if (!(tag & TAG_PARAMETERS)) {
        uint32_t first = link->shard.segment_count ? link->shard.segments[0].bucket : 0;
        index = (tag >> TAG_BUCKET_SHIFT) - first;
        left = index < link->shard.segment_count ? &link->missing[odd][index] : NULL;
    }
    if (!left || *left == 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "rank %d wrote a chunk (%x) that nobody expects", rank,
                        tag);
    if (--*left == 0 && !(tag & TAG_PARAMETERS))
        link->ready[link->ready_count++] = index;
    return LKS_OK;
}

static void verbs_expect_partials(verbs_link *link, uint64_t step)
{
    uint32_t foreign = (uint32_t)(link->shard.leaf_count - link->own_leaves);
    for (uint32_t i = 0; i < link->shard.segment_count; ++i) {
        uint64_t bytes = link->shard.segments[i].elements * sizeof(float);
        link->missing[step % 2][i] = 1 + foreign * lks_verbs_chunks(link->mesh, bytes);
    }
}

static void verbs_expect_parameters(verbs_link *link, uint64_t gather)
{
    uint32_t *missing = &link->parameters_missing[gather % 2];
    for (int r = 0; r < link->size; ++r)
        if (r != link->rank)
            *missing += lks_verbs_chunks(link->mesh, link->owners[r].elements * sizeof(float));
}

static int verbs_leaves_of(const verbs_link *link, int rank)
{
    int count = 0;
    for (int i = 0; i < link->shard.leaf_count; ++i)
        count += link->shard.leaves[i].rank == rank;
    return count;
}

/* Inboxes hold the leaves of all but their owner, in order. */
static lks_status verbs_find_owners(verbs_link *link)
{
    LKS_TRY(LKS_NEW_ARRAY(&link->owners, (size_t)link->size));
    for (int r = 0; r < link->size; ++r) {
        verbs_owner *owner = &link->owners[r];
        int before = link->shard.own_leaf - (r < link->rank ? verbs_leaves_of(link, r) : 0);
        lks_shard_owned(&link->shard.spec, r, &owner->offset, &owner->elements);
        owner->inbox_place = (uint64_t)before * owner->elements;
    }
    return LKS_OK;
}

static lks_status verbs_allocate(verbs_link *link)
{
    const lks_link_spec *spec = &link->shard.spec;
    size_t segments = link->shard.segment_count;
    size_t foreign = (size_t)(link->shard.leaf_count - link->own_leaves);
    link->array_bytes = lks_round_up(spec->layout->flat_elements * sizeof(float), LKS_ALIGNMENT);
    link->inbox_bytes = foreign * link->shard.elements * sizeof(float);
    LKS_TRY(LKS_NEW_ARRAY(&link->missing[0], segments));
    LKS_TRY(LKS_NEW_ARRAY(&link->missing[1], segments));
    LKS_TRY(LKS_NEW_ARRAY(&link->ready, segments));
    LKS_TRY(lks_device_allocate(spec->device, link->array_bytes, (void **)&link->parameters));
    LKS_TRY(lks_device_allocate(spec->device, link->array_bytes * (size_t)link->levels,
                                (void **)&link->gradients));
    if (link->inbox_bytes > 0)
        LKS_TRY(lks_device_allocate(spec->device, link->inbox_bytes, (void **)&link->inbox));
    return LKS_OK;
}

static float *verbs_gradient(void *instance, int level)
{
    verbs_link *link = instance;
    return link->gradients + link->array_bytes / sizeof(float) * (size_t)level;
}

static void verbs_point_leaves(verbs_link *link)
{
    size_t foreign = 0;
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        lks_leaf *leaf = &link->shard.leaves[i];
        bool own = leaf->rank == link->rank;
        leaf->data = own ? verbs_gradient(link, leaf->level)
                         : link->inbox + foreign++ * link->shard.elements;
        leaf->origin = own ? 0 : link->shard.offset;
    }
}

/* Room for all that a step sends to each owner, should it never give credits back. */
static lks_status verbs_reserve(verbs_link *link)
{
    const lks_link_spec *spec = &link->shard.spec;
    for (int r = 0; r < link->size; ++r) {
        size_t transfers = 1;
        for (uint32_t b = 0; b < spec->buckets->count; ++b) {
            uint64_t offset = 0, elements = 0;
            lks_shard_part(spec, b, r, &offset, &elements);
            transfers += elements > 0 ? (size_t)link->own_leaves : 0;
        }
        LKS_TRY(lks_verbs_mesh_reserve(link->mesh, r, transfers));
    }
    return LKS_OK;
}

static lks_status verbs_prepare(verbs_link *link, const lks_link_spec *spec)
{
    char text[160];
    lks_verbs_mesh_spec mesh = {.comm = spec->comm,
                                .ops = &link->ops,
                                .options = spec->verbs,
                                .arrived = verbs_arrived,
                                .user = link};
    int first_lane = 0, end_lane = 0;
    link->rank = lks_comm_rank(spec->comm);
    link->size = lks_comm_size(spec->comm);
    LKS_TRY(lks_shard_open(&link->shard, spec));
    lks_lanes_of(spec->lanes, link->rank, link->size, &first_lane, &end_lane);
    link->levels = lks_lane_levels(spec->lanes, first_lane, end_lane);
    link->own_leaves = verbs_leaves_of(link, link->rank);
    LKS_TRY(verbs_find_owners(link));
    LKS_TRY(verbs_allocate(link));
    verbs_point_leaves(link);
    LKS_TRY(lks_verbs_library_open(&link->ops));
    LKS_TRY(lks_verbs_mesh_open(&link->mesh, &mesh));
    lks_log_verbose("verbs: %s",
                    lks_verbs_port_text(lks_verbs_mesh_port(link->mesh), text, sizeof text));
    LKS_TRY(verbs_reserve(link));
    LKS_TRY(lks_verbs_mesh_register(link->mesh, LKS_VERBS_GRADIENTS, link->gradients,
                                    link->array_bytes * (size_t)link->levels));
    LKS_TRY(lks_verbs_mesh_register(link->mesh, LKS_VERBS_INBOX, link->inbox, link->inbox_bytes));
    return lks_verbs_mesh_register(link->mesh, LKS_VERBS_PARAMETERS, link->parameters,
                                   link->array_bytes);
}

static void verbs_free_arrays(verbs_link *link)
{
    lks_device *device = link->shard.spec.device;
    if (link->parameters)
        lks_device_free(device, link->parameters, link->array_bytes);
    if (link->gradients)
        lks_device_free(device, link->gradients, link->array_bytes * (size_t)link->levels);
    if (link->inbox)
        lks_device_free(device, link->inbox, link->inbox_bytes);
}

/* A peer whose last confirmation was lost asks for it again: no pair ends before all are done. */
static void verbs_close(void *instance)
{
    verbs_link *link = instance;
    if (!link)
        return;
    if (link->connected) {
        lks_status status = lks_comm_barrier(link->shard.spec.comm);
        (void)status;
    }
    lks_verbs_mesh_close(link->mesh);
    verbs_free_arrays(link);
    lks_memory_free(link->owners);
    lks_memory_free(link->missing[0]);
    lks_memory_free(link->missing[1]);
    lks_memory_free(link->ready);
    lks_shard_close(&link->shard);
    lks_memory_free(link);
}

static lks_status verbs_open(void **instance, const lks_link_spec *spec)
{
    verbs_link *link = NULL;
    lks_status status = LKS_NEW(&link);
    if (status == LKS_OK)
        status = verbs_prepare(link, spec);
    status = lks_comm_agree(spec->comm, status);
    if (status == LKS_OK)
        status = lks_verbs_mesh_connect(link->mesh);
    if (status != LKS_OK) {
        verbs_close(link);
        return status;
    }
    for (uint64_t i = 0; i < 2; ++i) {
        verbs_expect_partials(link, i);
        verbs_expect_parameters(link, i);
    }
    link->connected = true;
    *instance = link;
    return LKS_OK;
}

static float *verbs_parameters(void *instance)
{
    return ((verbs_link *)instance)->parameters;
}

static lks_status verbs_begin(void *instance)
{
    verbs_link *link = instance;
    ++link->step;
    verbs_expect_partials(link, link->step + 1);
    link->ready_count = link->summed_count = 0;
    return LKS_OK;
}

static lks_status verbs_send_part(verbs_link *link, uint32_t bucket, int to)
{
    const verbs_owner *owner = &link->owners[to];
    uint64_t offset = 0, elements = 0;
    lks_shard_part(&link->shard.spec, bucket, to, &offset, &elements);
    for (int level = 0; elements > 0 && level < link->own_leaves; ++level) {
        uint64_t place = owner->inbox_place + (uint64_t)level * owner->elements;
        lks_verbs_transfer transfer = {
            .from = LKS_VERBS_GRADIENTS,
            .to = LKS_VERBS_INBOX,
            .from_offset = (uint64_t)level * link->array_bytes + offset * sizeof(float),
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
    const lks_link_spec *spec = &link->shard.spec;
    uint32_t first = spec->buckets->first_block[bucket];
    uint32_t last = spec->buckets->first_block[bucket + 1] - 1;
    int end = lks_layout_owner(spec->layout, last, link->size);
    for (int o = lks_layout_owner(spec->layout, first, link->size); o <= end; ++o)
        if (o != link->rank)
            LKS_TRY(verbs_send_part(link, bucket, o));
    for (uint32_t i = 0; i < link->shard.segment_count; ++i)
        if (link->shard.segments[i].bucket == bucket && --verbs_missing(link)[i] == 0)
            link->ready[link->ready_count++] = i;
    return LKS_OK;
}

static lks_status verbs_sum_ready(verbs_link *link)
{
    if (link->ready_count == 0)
        return LKS_OK;
    const lks_segment *segment = &link->shard.segments[link->ready[--link->ready_count]];
    ++link->summed_count;
    return lks_shard_sum(&link->shard, segment->first_block, segment->end_block);
}

static lks_status verbs_progress(void *instance)
{
    verbs_link *link = instance;
    bool moved = false;
    LKS_TRY(lks_verbs_poll(link->mesh, &moved));
    LKS_TRY(lks_verbs_watch(link->mesh, false));
    return verbs_sum_ready(link);
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

static bool verbs_has_all(const verbs_link *link)
{
    return link->summed_count == link->shard.segment_count && lks_verbs_under_way(link->mesh) == 0;
}

static lks_status verbs_sum(void *instance, double *wait_seconds)
{
    verbs_link *link = instance;
    unsigned spins = 0;
    lks_verbs_watch_from_now(link->mesh);
    while (!verbs_has_all(link)) {
        uint64_t start = lks_clock_ns();
        LKS_TRY(verbs_wait(link, &spins));
        *wait_seconds += lks_clock_seconds_since(start);
        LKS_TRY(verbs_sum_ready(link));
    }
    return LKS_OK;
}

static const float *verbs_sums(void *instance)
{
    return lks_shard_sums(&((verbs_link *)instance)->shard);
}

static const double *verbs_square_sums(void *instance)
{
    return ((verbs_link *)instance)->shard.square_sums;
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
    for (int i = 1; own.bytes > 0 && i < link->size; ++i)
        LKS_TRY(lks_verbs_send(link->mesh, (link->rank + i) % link->size, &own));
    while (link->parameters_missing[link->gather % 2] > 0 || lks_verbs_under_way(link->mesh) > 0)
        LKS_TRY(verbs_wait(link, &spins));
    verbs_expect_parameters(link, link->gather + 2);
    *wait_seconds += lks_clock_seconds_since(start);
    return LKS_OK;
}

static void verbs_memory(void *instance, uint64_t *shared_bytes, uint64_t *private_bytes)
{
    const verbs_link *link = instance;
    (void)shared_bytes;
    *private_bytes += link->array_bytes * (1 + (uint64_t)link->levels) + link->inbox_bytes;
}

const lks_link_driver lks_verbs_link = {
    .name = "verbs",
    .about = "ranks anywhere write into each other's memory over InfiniBand or RoCE",
    .may_give_way = true,
    .overlaps = true,
    .usable = verbs_usable,
    .open = verbs_open,
    .close = verbs_close,
    .parameters = verbs_parameters,
    .gradient = verbs_gradient,
    .begin = verbs_begin,
    .offer = verbs_offer,
    .progress = verbs_progress,
    .sum = verbs_sum,
    .sums = verbs_sums,
    .square_sums = verbs_square_sums,
    .gather = verbs_gather,
    .memory = verbs_memory,
};
