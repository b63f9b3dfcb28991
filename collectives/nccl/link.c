/* Ranks with a cuda device each: gradients and parameters travel by NCCL, on a stream of their own.
 *
 * What is final is offered bucket by bucket while the backward pass goes on: the bucket's partials go to the owners of
 * their blocks in one group of messages, and one kernel adds them in tree order. Where the lanes of nodes are nodes of
 * the tree (nodes.h) the partials of a node are added within it first, and one sum leaves it.
 * collectives.order any: one all-reduce of NCCL's instead.
 */
#include "collectives/nccl/communicator.h"
#include "collectives/nccl/nodes.h"
#include "kernels/cuda_stream.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

#include <string.h>

typedef struct nccl_link {
    lks_shard shard;
    lks_nodes nodes;
    lks_nccl *nccl;
    cudaStream_t stream;
    cudaEvent_t given, done; /* on the device's stream; on the link's */
    int rank, size, levels, own_leaves;
    float *parameters, *gradients; /* flat; [levels] flat arrays */
    float *inbox;          /* [partials of others] own blocks' range: of ranks, or of nodes */
    float *column_inbox;   /* node by node: [partials of this node's other ranks] the column */
    uint64_t *column_base; /* [nodes] where in it the own blocks of that node's rank begin */
    uint64_t column_elements;
    lks_layout_block *blocks; /* of the whole layout, in device memory */
    lks_partial *scratch;
    size_t array_bytes, inbox_bytes, column_bytes;
} nccl_link;

/* --- Whether it can serve --------------------------------------------------------- */

enum { UUID_BYTES = 64 };

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

static lks_status check_devices(const lks_link_spec *spec)
{
    int size = lks_comm_size(spec->comm), other = 0;
    char mine[UUID_BYTES] = "", (*all)[UUID_BYTES] = NULL;
    size_t *counts = NULL;
    lks_status status;
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&all, (size_t)size), done);
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&counts, (size_t)size), done);
    for (int r = 0; r < size; ++r)
        counts[r] = UUID_BYTES;
    strncpy(mine, lks_cuda_uuid(spec->device), UUID_BYTES - 1);
    LKS_TRY_GOTO(status, lks_comm_all_gather(spec->comm, mine, all, counts), done);
    int first = shared_device((const char(*)[UUID_BYTES])all, size, &other);
    if (first >= 0)
        status = LKS_FAIL(LKS_ERR_USAGE,
                          "link nccl needs a device for each rank, but ranks %d and %d share %s on "
                          "%s: start as many "
                          "ranks as there are devices, or set collectives.link=auto",
                          first, other, all[first], lks_comm_host(spec->comm, first));
done:
    lks_memory_free(all);
    lks_memory_free(counts);
    return status;
}

static lks_status nccl_link_usable(const lks_link_spec *spec)
{
    if (lks_comm_size(spec->comm) == 1)
        return LKS_FAIL(LKS_ERR_USAGE, "link nccl is for two ranks or more: set "
                                       "collectives.link=auto");
    return check_devices(spec);
}

/* --- Opening ------------------------------------------------------------------------ */

static float *nccl_link_gradient(void *instance, int level)
{
    nccl_link *link = instance;
    return link->gradients + link->array_bytes / sizeof(float) * (size_t)level;
}

static bool is_local(const nccl_link *link, int rank)
{
    return rank / link->nodes.ranks == link->nodes.node;
}

/* Leaves of this rank; of other ranks that send theirs here. */
static void count_leaves(nccl_link *link, size_t *foreign, size_t *local)
{
    *foreign = *local = 0;
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        int rank = link->shard.leaves[i].rank;
        link->own_leaves += rank == link->rank;
        *foreign += rank != link->rank;
        *local += rank != link->rank && is_local(link, rank);
    }
}

static lks_status lay_out_column(nccl_link *link)
{
    LKS_TRY(LKS_NEW_ARRAY(&link->column_base, (size_t)link->nodes.count));
    for (int node = 0; node < link->nodes.count; ++node) {
        uint64_t offset, elements;
        lks_shard_owned(&link->shard.spec, node * link->nodes.ranks + link->nodes.index, &offset,
                        &elements);
        link->column_base[node] = link->column_elements;
        link->column_elements += elements;
    }
    return LKS_OK;
}

static lks_status place_blocks(nccl_link *link)
{
    const lks_layout *layout = link->shard.spec.layout;
    size_t bytes = layout->block_count * sizeof *layout->blocks;
    LKS_TRY(lks_device_allocate(link->shard.spec.device, bytes, (void **)&link->blocks));
    return lks_device_copy_in(link->shard.spec.device, link->blocks, layout->blocks, bytes);
}

static lks_status allocate_some(lks_device *device, size_t bytes, float **out)
{
    return bytes > 0 ? lks_device_allocate(device, bytes, (void **)out) : LKS_OK;
}

static lks_status nccl_link_allocate(nccl_link *link)
{
    const lks_link_spec *spec = &link->shard.spec;
    bool apart = lks_nodes_apart(&link->nodes);
    size_t foreign, local;
    count_leaves(link, &foreign, &local);
    LKS_TRY(lay_out_column(link));
    LKS_TRY(place_blocks(link));
    LKS_TRY(LKS_NEW_ARRAY(&link->scratch, (size_t)(link->shard.leaf_count + link->nodes.count)));
    link->array_bytes = lks_round_up(spec->layout->flat_elements * sizeof(float), LKS_ALIGNMENT);
    link->inbox_bytes =
        (apart ? (size_t)link->nodes.count - 1 : foreign) * link->shard.elements * sizeof(float);
    link->column_bytes = apart ? local * link->column_elements * sizeof(float) : 0;
    LKS_TRY(allocate_some(spec->device, link->array_bytes, &link->parameters));
    LKS_TRY(
        allocate_some(spec->device, link->array_bytes * (size_t)link->levels, &link->gradients));
    LKS_TRY(allocate_some(spec->device, link->inbox_bytes, &link->inbox));
    return allocate_some(spec->device, link->column_bytes, &link->column_inbox);
}

static void point_leaves(nccl_link *link)
{
    size_t foreign = 0;
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        lks_leaf *leaf = &link->shard.leaves[i];
        bool own = leaf->rank == link->rank;
        leaf->data = own ? nccl_link_gradient(link, leaf->level)
                         : link->inbox + foreign++ * link->shard.elements;
        leaf->origin = own ? 0 : link->shard.offset;
    }
}

static lks_status nccl_link_prepare(nccl_link *link, const lks_link_spec *spec)
{
    int first = 0, end = 0;
    link->rank = lks_comm_rank(spec->comm);
    link->size = lks_comm_size(spec->comm);
    lks_nodes_find(&link->nodes, spec);
    LKS_TRY(lks_shard_open(&link->shard, spec));
    lks_lanes_of(spec->lanes, link->rank, link->size, &first, &end);
    link->levels = lks_lane_levels(spec->lanes, first, end);
    LKS_TRY(nccl_link_allocate(link));
    if (!lks_nodes_apart(&link->nodes))
        point_leaves(link);
    LKS_NCCL_CUDA(cudaStreamCreateWithFlags(&link->stream, cudaStreamNonBlocking));
    LKS_NCCL_CUDA(cudaEventCreateWithFlags(&link->given, cudaEventDisableTiming));
    LKS_NCCL_CUDA(cudaEventCreateWithFlags(&link->done, cudaEventDisableTiming));
    return LKS_OK;
}

static void nccl_link_free(nccl_link *link)
{
    lks_device *device = link->shard.spec.device;
    if (link->parameters)
        lks_device_free(device, link->parameters, link->array_bytes);
    if (link->gradients)
        lks_device_free(device, link->gradients, link->array_bytes * (size_t)link->levels);
    if (link->inbox)
        lks_device_free(device, link->inbox, link->inbox_bytes);
    if (link->column_inbox)
        lks_device_free(device, link->column_inbox, link->column_bytes);
    if (link->blocks)
        lks_device_free(device, link->blocks,
                        link->shard.spec.layout->block_count * sizeof *link->blocks);
}

static void nccl_link_close(void *instance)
{
    nccl_link *link = instance;
    if (!link)
        return;
    lks_nccl_close(link->nccl);
    if (link->stream)
        (void)cudaStreamDestroy(link->stream);
    if (link->given)
        (void)cudaEventDestroy(link->given);
    if (link->done)
        (void)cudaEventDestroy(link->done);
    nccl_link_free(link);
    lks_memory_free(link->column_base);
    lks_memory_free(link->scratch);
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
    lks_log_root("%s: gradients of %d ranks on %d node%s are added %s",
                 lks_nccl_version(link->nccl), link->size, nodes, nodes == 1 ? "" : "s", how);
}

static lks_status nccl_link_open(void **instance, const lks_link_spec *spec)
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
    *instance = link;
    return LKS_OK;
}

static float *nccl_link_parameters(void *instance)
{
    return ((nccl_link *)instance)->parameters;
}

/* --- A bucket's way ------------------------------------------------------------------ */

/* Sends partials [0, count) of what `owner` owns of the bucket to rank `to`. */
static lks_status send_part(nccl_link *link, uint32_t bucket, int owner, int to, int count)
{
    uint64_t offset = 0, elements = 0;
    lks_shard_part(&link->shard.spec, bucket, owner, &offset, &elements);
    for (int level = 0; elements > 0 && level < count; ++level)
        LKS_TRY(lks_nccl_send(link->nccl, to, nccl_link_gradient(link, level) + offset, elements,
                              link->stream));
    return LKS_OK;
}

static lks_status exchange_partials(nccl_link *link, uint32_t bucket)
{
    uint64_t offset = 0, elements = 0;
    lks_shard_part(&link->shard.spec, bucket, link->rank, &offset, &elements);
    LKS_TRY(lks_nccl_group_begin(link->nccl, "bringing partial gradients to their owners"));
    for (int owner = 0; owner < link->size; ++owner)
        if (owner != link->rank)
            LKS_TRY(send_part(link, bucket, owner, owner, link->own_leaves));
    for (int i = 0; elements > 0 && i < link->shard.leaf_count; ++i) {
        const lks_leaf *leaf = &link->shard.leaves[i];
        if (leaf->rank != link->rank)
            LKS_TRY(lks_nccl_receive(link->nccl, leaf->rank,
                                     (float *)leaf->data + (offset - leaf->origin), elements,
                                     link->stream));
    }
    return lks_nccl_group_end(link->nccl);
}

/* The blocks of a bucket that `owner` owns. */
static void blocks_of(const nccl_link *link, uint32_t bucket, int owner, uint32_t *first,
                      uint32_t *end)
{
    const lks_link_spec *spec = &link->shard.spec;
    lks_layout_owned(spec->layout, owner, link->size, first, end);
    uint32_t from = spec->buckets->first_block[bucket], to = spec->buckets->first_block[bucket + 1];
    *first = *first > from ? *first : from;
    *end = *end < to ? *end : to;
}

static lks_status sum_partials(nccl_link *link, uint32_t bucket)
{
    uint32_t first, end;
    blocks_of(link, bucket, link->rank, &first, &end);
    return first < end ? lks_shard_sum(&link->shard, first, end) : LKS_OK;
}

/* --- Node by node --------------------------------------------------------------------- */

static int rank_at(const nccl_link *link, int node, int index)
{
    return node * link->nodes.ranks + index;
}

/* Where partial number `number` of this node's other ranks is, of the own blocks of the column's rank on `node`. */
static float *column_place(const nccl_link *link, size_t number, int node)
{
    return link->column_inbox + number * link->column_elements + link->column_base[node];
}

static lks_status send_columns(nccl_link *link, uint32_t bucket)
{
    for (int index = 0; index < link->nodes.ranks; ++index)
        for (int node = 0; index != link->nodes.index && node < link->nodes.count; ++node)
            LKS_TRY(send_part(link, bucket, rank_at(link, node, index),
                              rank_at(link, link->nodes.node, index), link->own_leaves));
    return LKS_OK;
}

/* As its sender gives them: by node, then by partial. */
static lks_status receive_columns(nccl_link *link, uint32_t bucket)
{
    for (int node = 0; node < link->nodes.count; ++node) {
        int owner = rank_at(link, node, link->nodes.index);
        uint64_t offset = 0, elements = 0, owned = 0, unused = 0;
        size_t number = 0;
        lks_shard_owned(&link->shard.spec, owner, &owned, &unused);
        lks_shard_part(&link->shard.spec, bucket, owner, &offset, &elements);
        for (int i = 0; elements > 0 && i < link->shard.leaf_count; ++i) {
            int rank = link->shard.leaves[i].rank;
            if (rank == link->rank || !is_local(link, rank))
                continue;
            LKS_TRY(lks_nccl_receive(link->nccl, rank,
                                     column_place(link, number++, node) + (offset - owned),
                                     elements, link->stream));
        }
    }
    return LKS_OK;
}

/* This node's sum of the blocks that the column's rank on `node` owns, over this rank's first partial. */
static lks_status sum_of_node(nccl_link *link, uint32_t bucket, int node)
{
    const lks_link_spec *spec = &link->shard.spec;
    int owner = rank_at(link, node, link->nodes.index), count = 0;
    lks_lane_span span = lks_nodes_lanes(&link->nodes, spec, link->nodes.node);
    uint64_t owned = 0, unused = 0;
    uint32_t first, end;
    size_t number = 0;
    blocks_of(link, bucket, owner, &first, &end);
    if (first >= end)
        return LKS_OK;
    lks_shard_owned(spec, owner, &owned, &unused);
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        const lks_leaf *leaf = &link->shard.leaves[i];
        if (!is_local(link, leaf->rank))
            continue;
        bool own = leaf->rank == link->rank;
        const float *data =
            own ? nccl_link_gradient(link, leaf->level) : column_place(link, number++, node);
        link->scratch[count++] = (lks_partial){leaf->lanes.first - span.first,
                                               leaf->lanes.end - span.first, data, own ? 0 : owned};
    }
    lks_sum sum = {.blocks = link->blocks + first,
                   .host_blocks = spec->layout->blocks + first,
                   .count = end - first,
                   .partials = link->scratch,
                   .partial_count = count,
                   .lanes = span.end - span.first,
                   .out = link->gradients};
    return lks_device_sum_blocks(spec->device, &sum);
}

/* The place of another node's sums of own blocks. */
static float *node_place(const nccl_link *link, int node)
{
    return link->inbox + (uint64_t)(node - (node > link->nodes.node)) * link->shard.elements;
}

static lks_status exchange_nodes(nccl_link *link, uint32_t bucket)
{
    uint64_t offset = 0, elements = 0;
    lks_shard_part(&link->shard.spec, bucket, link->rank, &offset, &elements);
    LKS_TRY(lks_nccl_group_begin(link->nccl, "bringing sums of nodes to their owners"));
    for (int node = 0; node < link->nodes.count; ++node) {
        int peer = rank_at(link, node, link->nodes.index);
        if (node == link->nodes.node)
            continue;
        LKS_TRY(send_part(link, bucket, peer, peer, 1));
        if (elements > 0)
            LKS_TRY(lks_nccl_receive(link->nccl, peer,
                                     node_place(link, node) + (offset - link->shard.offset),
                                     elements, link->stream));
    }
    return lks_nccl_group_end(link->nccl);
}

static lks_status sum_nodes(nccl_link *link, uint32_t bucket)
{
    const lks_link_spec *spec = &link->shard.spec;
    uint32_t first, end;
    blocks_of(link, bucket, link->rank, &first, &end);
    if (first >= end)
        return LKS_OK;
    for (int node = 0; node < link->nodes.count; ++node) {
        lks_lane_span span = lks_nodes_lanes(&link->nodes, spec, node);
        bool own = node == link->nodes.node;
        link->scratch[node] =
            (lks_partial){span.first, span.end, own ? link->gradients : node_place(link, node),
                          own ? 0 : link->shard.offset};
    }
    lks_sum sum = {.blocks = link->blocks + first,
                   .host_blocks = spec->layout->blocks + first,
                   .count = end - first,
                   .partials = link->scratch,
                   .partial_count = link->nodes.count,
                   .lanes = spec->lanes,
                   .out = link->gradients,
                   .square_sums = link->shard.square_sums + (first - link->shard.first_block)};
    return lks_device_sum_blocks(spec->device, &sum);
}

static lks_status reduce_by_node(nccl_link *link, uint32_t bucket)
{
    LKS_TRY(lks_nccl_group_begin(link->nccl, "bringing partial gradients together within nodes"));
    LKS_TRY(send_columns(link, bucket));
    LKS_TRY(receive_columns(link, bucket));
    LKS_TRY(lks_nccl_group_end(link->nccl));
    for (int node = 0; node < link->nodes.count; ++node)
        LKS_TRY(sum_of_node(link, bucket, node));
    LKS_TRY(exchange_nodes(link, bucket));
    return sum_nodes(link, bucket);
}

/* --- In any order ------------------------------------------------------------------------ */

static lks_status reduce_in_any_order(nccl_link *link, uint32_t bucket)
{
    const lks_link_spec *spec = &link->shard.spec;
    uint64_t offset, elements;
    lks_layout_range(spec->layout, spec->buckets->first_block[bucket],
                     spec->buckets->first_block[bucket + 1], &offset, &elements);
    for (int level = 1; level < link->own_leaves; ++level)
        LKS_TRY(lks_device_add(spec->device, elements, nccl_link_gradient(link, level) + offset,
                               link->gradients + offset));
    LKS_TRY(lks_nccl_group_begin(link->nccl, "adding gradients"));
    LKS_TRY(lks_nccl_all_reduce(link->nccl, link->gradients + offset, elements, link->stream));
    return lks_nccl_group_end(link->nccl);
}

/* The sums are there: their squares are still wanted. */
static lks_status square_sums_of_any_order(nccl_link *link)
{
    lks_shard *shard = &link->shard;
    const lks_partial whole = {0, shard->spec.lanes, link->gradients, 0};
    lks_sum sum = {.blocks = shard->blocks,
                   .host_blocks = shard->spec.layout->blocks + shard->first_block,
                   .count = shard->end_block - shard->first_block,
                   .partials = &whole,
                   .partial_count = 1,
                   .lanes = shard->spec.lanes,
                   .out = link->gradients,
                   .square_sums = shard->square_sums};
    return sum.count > 0 ? lks_device_sum_blocks(shard->spec.device, &sum) : LKS_OK;
}

/* --- A step ------------------------------------------------------------------------------ */

static lks_status nccl_link_begin(void *instance)
{
    return lks_nccl_poll(((nccl_link *)instance)->nccl);
}

static lks_status reduce_bucket(nccl_link *link, uint32_t bucket)
{
    if (link->shard.spec.any_order)
        return reduce_in_any_order(link, bucket);
    if (lks_nodes_apart(&link->nodes))
        return reduce_by_node(link, bucket);
    LKS_TRY(exchange_partials(link, bucket));
    return sum_partials(link, bucket);
}

/* The link's stream goes on after what the device was given so far. */
static lks_status follow_device(nccl_link *link)
{
    cudaStream_t device = lks_cuda_stream(link->shard.spec.device);
    LKS_NCCL_CUDA(cudaEventRecord(link->given, device));
    LKS_NCCL_CUDA(cudaStreamWaitEvent(link->stream, link->given, 0));
    return LKS_OK;
}

/* And the other way round. */
static lks_status follow_link(nccl_link *link)
{
    cudaStream_t device = lks_cuda_stream(link->shard.spec.device);
    LKS_NCCL_CUDA(cudaEventRecord(link->done, link->stream));
    LKS_NCCL_CUDA(cudaStreamWaitEvent(device, link->done, 0));
    return LKS_OK;
}

static lks_status nccl_link_offer(void *instance, uint32_t bucket)
{
    nccl_link *link = instance;
    LKS_TRY(follow_device(link));
    void *before = lks_cuda_use_stream(link->shard.spec.device, link->stream);
    lks_status status = reduce_bucket(link, bucket);
    lks_cuda_use_stream(link->shard.spec.device, before);
    return status;
}

static lks_status nccl_link_progress(void *instance)
{
    return lks_nccl_poll(((nccl_link *)instance)->nccl);
}

static void nccl_link_abandon(void *instance)
{
    lks_nccl_abandon(((nccl_link *)instance)->nccl);
}

static lks_status nccl_link_sum(void *instance, double *wait_seconds)
{
    nccl_link *link = instance;
    uint64_t start = lks_clock_ns();
    LKS_TRY(follow_link(link));
    LKS_TRY(lks_nccl_wait(link->nccl, link->done));
    *wait_seconds += lks_clock_seconds_since(start);
    return link->shard.spec.any_order ? square_sums_of_any_order(link) : LKS_OK;
}

static const float *nccl_link_sums(void *instance)
{
    return ((nccl_link *)instance)->gradients;
}

static const double *nccl_link_square_sums(void *instance)
{
    return ((nccl_link *)instance)->shard.square_sums;
}

/* The host waits here, where it can give up a rank that never answers: behind messages, the next wait for
 * the device would be one without an end. */
static lks_status nccl_link_gather(void *instance, double *wait_seconds)
{
    nccl_link *link = instance;
    uint64_t start = lks_clock_ns();
    LKS_TRY(follow_device(link));
    LKS_TRY(lks_nccl_group_begin(link->nccl, "giving out parameters"));
    for (int rank = 0; rank < link->size; ++rank) {
        uint64_t offset = 0, elements = 0;
        lks_shard_owned(&link->shard.spec, rank, &offset, &elements);
        if (elements > 0)
            LKS_TRY(lks_nccl_broadcast(link->nccl, rank, link->parameters + offset, elements,
                                       link->stream));
    }
    LKS_TRY(lks_nccl_group_end(link->nccl));
    LKS_TRY(follow_link(link));
    LKS_TRY(lks_nccl_wait(link->nccl, link->done));
    *wait_seconds += lks_clock_seconds_since(start);
    return LKS_OK;
}

static void nccl_link_memory(void *instance, uint64_t *shared_bytes, uint64_t *private_bytes)
{
    const nccl_link *link = instance;
    (void)shared_bytes;
    *private_bytes +=
        link->array_bytes * (1 + (uint64_t)link->levels) + link->inbox_bytes + link->column_bytes;
}

extern const lks_link_driver lks_nccl_link_driver;
const lks_link_driver lks_nccl_link_driver = {
    .name = "nccl",
    .about = "ranks with a cuda device each, over NVLink, InfiniBand, RoCE or sockets",
    .overlaps = true,
    .usable = nccl_link_usable,
    .open = nccl_link_open,
    .close = nccl_link_close,
    .parameters = nccl_link_parameters,
    .gradient = nccl_link_gradient,
    .begin = nccl_link_begin,
    .offer = nccl_link_offer,
    .progress = nccl_link_progress,
    .abandon = nccl_link_abandon,
    .sum = nccl_link_sum,
    .sums = nccl_link_sums,
    .square_sums = nccl_link_square_sums,
    .gather = nccl_link_gather,
    .memory = nccl_link_memory,
};
