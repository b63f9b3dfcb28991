/* A bucket's way to its sum.
 *
 * A bucket belongs to one or two ranks, and one rank that receives all partials of it would be as slow as all others
 * together are fast. So each bucket is dealt out: piece r of it goes to rank r, is summed there, and the sum goes to the
 * owner. On the way to rank r the partials of a node are first added by the rank of that node that is in r's column
 * (nodes.h), so that one of them leaves it. With all ranks on one node that is the whole sum.
 */
#include "collectives/nccl/cuda_call.h"
#include "collectives/nccl/link_private.h"

/* --- Pieces ------------------------------------------------------------------------------ */

typedef struct nccl_piece {
    uint32_t first_block, end_block;
    uint64_t offset, elements; /* in a flat array; 0 elements: none */
} nccl_piece;

static nccl_piece piece_of(const lks_link_spec *spec, uint32_t first_block, uint32_t end_block)
{
    nccl_piece piece = {.first_block = first_block, .end_block = end_block};
    lks_layout_range(spec->layout, first_block, end_block, &piece.offset, &piece.elements);
    return piece;
}

/* What rank `rank` adds up of the bucket. */
static nccl_piece dealt(const nccl_link *link, uint32_t bucket, int rank)
{
    const uint32_t *bounds = &link->shard.spec.buckets->first_block[bucket];
    uint64_t blocks = bounds[1] - bounds[0], size = (uint64_t)link->shard.size;
    uint64_t turn =
        ((uint64_t)rank + bucket) % size; /* not always the same rank has the short ones */
    return piece_of(&link->shard.spec, bounds[0] + (uint32_t)(blocks * turn / size),
                    bounds[0] + (uint32_t)(blocks * (turn + 1) / size));
}

/* What of the piece that `rank` adds up `owner` owns. */
static nccl_piece owned(const nccl_link *link, uint32_t bucket, int rank, int owner)
{
    nccl_piece piece = dealt(link, bucket, rank);
    uint32_t first = 0, end = 0;
    lks_shard_blocks(&link->shard.spec, bucket, owner, &first, &end);
    first = first > piece.first_block ? first : piece.first_block;
    end = end < piece.end_block ? end : piece.end_block;
    return piece_of(&link->shard.spec, first, end > first ? end : first);
}

static bool is_local(const nccl_link *link, int rank)
{
    return rank / link->nodes.ranks == link->nodes.node;
}

static int rank_at(const nccl_link *link, int node, int index)
{
    return node * link->nodes.ranks + index;
}

/* Where partial number `number` of this node's other ranks is, of the piece of this column's rank on `node`. */
static float *column_place(const nccl_link *link, size_t number, int node)
{
    size_t at = number * (size_t)link->nodes.count + (size_t)node;
    return link->column_inbox + at * link->piece_elements;
}

/* The place of another node's sum of this rank's piece. */
static float *node_place(const nccl_link *link, int node)
{
    return link->node_inbox + (size_t)(node - (node > link->nodes.node)) * link->piece_elements;
}

/* --- Opening ----------------------------------------------------------------------------- */

static lks_status allocate_some(nccl_link *link, size_t bytes, void **out)
{
    if (bytes == 0)
        return LKS_OK;
    link->shard.arrays.private_bytes += bytes;
    return lks_device_allocate(link->shard.spec.device, bytes, out);
}

static size_t blocks_bytes(const nccl_link *link)
{
    return link->shard.spec.layout->block_count * sizeof *link->blocks;
}

static void measure(nccl_link *link)
{
    size_t local = 0; /* partials of this node's other ranks */
    for (uint32_t bucket = 0; bucket < link->shard.spec.buckets->count; ++bucket)
        for (int rank = 0; rank < link->shard.size; ++rank) {
            uint64_t elements = dealt(link, bucket, rank).elements;
            if (elements > link->piece_elements)
                link->piece_elements = elements;
        }
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        int rank = link->shard.leaves[i].rank;
        local += rank != link->shard.rank && is_local(link, rank);
    }
    size_t piece = link->piece_elements * sizeof(float), nodes = (size_t)link->nodes.count;
    link->column_bytes = local * nodes * piece;
    link->node_bytes = (nodes - 1) * piece;
}

lks_status nccl_reduce_open(nccl_link *link)
{
    const lks_link_spec *spec = &link->shard.spec;
    if (spec->any_order)
        return LKS_OK;
    measure(link);
    LKS_TRY(allocate_some(link, link->column_bytes, (void **)&link->column_inbox));
    LKS_TRY(allocate_some(link, link->node_bytes, (void **)&link->node_inbox));
    LKS_TRY(allocate_some(link, blocks_bytes(link), (void **)&link->blocks));
    return lks_device_copy_in(spec->device, link->blocks, spec->layout->blocks, blocks_bytes(link));
}

void nccl_reduce_close(nccl_link *link)
{
    lks_device *device = link->shard.spec.device;
    if (link->column_inbox)
        lks_device_free(device, link->column_inbox, link->column_bytes);
    if (link->node_inbox)
        lks_device_free(device, link->node_inbox, link->node_bytes);
    if (link->blocks)
        lks_device_free(device, link->blocks, blocks_bytes(link));
}

/* --- Within a node ----------------------------------------------------------------------- */

static lks_status send(nccl_link *link, int to, const nccl_piece *piece, int partials)
{
    for (int level = 0; piece->elements > 0 && level < partials; ++level)
        LKS_TRY(lks_nccl_send(link->nccl, to,
                              lks_link_gradient(&link->shard.arrays, level) + piece->offset,
                              piece->elements, link->stream));
    return LKS_OK;
}

static lks_status send_columns(nccl_link *link, uint32_t bucket)
{
    for (int index = 0; index < link->nodes.ranks; ++index)
        for (int node = 0; index != link->nodes.index && node < link->nodes.count; ++node) {
            nccl_piece piece = dealt(link, bucket, rank_at(link, node, index));
            LKS_TRY(
                send(link, rank_at(link, link->nodes.node, index), &piece, link->shard.own_leaves));
        }
    return LKS_OK;
}

/* As its sender gives them: by node, then by partial. */
static lks_status receive_column(nccl_link *link, uint32_t bucket, int node)
{
    nccl_piece piece = dealt(link, bucket, rank_at(link, node, link->nodes.index));
    size_t number = 0;
    for (int i = 0; piece.elements > 0 && i < link->shard.leaf_count; ++i) {
        int rank = link->shard.leaves[i].rank;
        if (rank != link->shard.rank && is_local(link, rank))
            LKS_TRY(lks_nccl_receive(link->nccl, rank, column_place(link, number++, node),
                                     piece.elements, link->stream));
    }
    return LKS_OK;
}

/* What is in the shard's scratch, which has room for a partial of each rank, over this rank's first partial. */
static lks_status sum_scratch(nccl_link *link, const nccl_piece *piece, int count, int lanes)
{
    const lks_link_spec *spec = &link->shard.spec;
    lks_sum sum = {.blocks = link->blocks + piece->first_block,
                   .host_blocks = spec->layout->blocks + piece->first_block,
                   .count = piece->end_block - piece->first_block,
                   .partials = link->shard.scratch,
                   .partial_count = count,
                   .lanes = lanes,
                   .out = link->shard.arrays.gradients};
    return count > 1 ? lks_device_sum_blocks(spec->device, &sum) : LKS_OK;
}

/* This node's sum of the piece of the column's rank on `node`. */
static lks_status sum_within_node(nccl_link *link, uint32_t bucket, int node)
{
    nccl_piece piece = dealt(link, bucket, rank_at(link, node, link->nodes.index));
    lks_lane_span span = lks_nodes_lanes(&link->nodes, &link->shard.spec, link->nodes.node);
    size_t number = 0;
    int count = 0;
    if (piece.elements == 0)
        return LKS_OK;
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        const lks_leaf *leaf = &link->shard.leaves[i];
        bool own = leaf->rank == link->shard.rank;
        if (!is_local(link, leaf->rank))
            continue;
        link->shard.scratch[count++] = (lks_partial){
            leaf->lanes.first - span.first, leaf->lanes.end - span.first,
            own ? leaf->data : column_place(link, number++, node), own ? 0 : piece.offset};
    }
    return sum_scratch(link, &piece, count, span.end - span.first);
}

static lks_status reduce_within_node(nccl_link *link, uint32_t bucket)
{
    if (link->nodes.ranks > 1) {
        LKS_TRY(lks_nccl_group_begin(link->nccl, "bringing partial gradients together"));
        LKS_TRY(send_columns(link, bucket));
        for (int node = 0; node < link->nodes.count; ++node)
            LKS_TRY(receive_column(link, bucket, node));
        LKS_TRY(lks_nccl_group_end(link->nccl));
    }
    for (int node = 0; node < link->nodes.count; ++node)
        LKS_TRY(sum_within_node(link, bucket, node));
    return LKS_OK;
}

/* --- Between nodes, and home ------------------------------------------------------------- */

static lks_status exchange_nodes(nccl_link *link, uint32_t bucket)
{
    nccl_piece mine = dealt(link, bucket, link->shard.rank);
    LKS_TRY(lks_nccl_group_begin(link->nccl, "bringing sums of nodes together"));
    for (int node = 0; node < link->nodes.count; ++node) {
        int peer = rank_at(link, node, link->nodes.index);
        nccl_piece piece = dealt(link, bucket, peer);
        if (node == link->nodes.node)
            continue;
        LKS_TRY(send(link, peer, &piece, 1));
        if (mine.elements > 0)
            LKS_TRY(lks_nccl_receive(link->nccl, peer, node_place(link, node), mine.elements,
                                     link->stream));
    }
    return lks_nccl_group_end(link->nccl);
}

static lks_status sum_nodes(nccl_link *link, uint32_t bucket)
{
    nccl_piece mine = dealt(link, bucket, link->shard.rank);
    if (mine.elements == 0)
        return LKS_OK;
    for (int node = 0; node < link->nodes.count; ++node) {
        lks_lane_span span = lks_nodes_lanes(&link->nodes, &link->shard.spec, node);
        bool own = node == link->nodes.node;
        link->shard.scratch[node] = (lks_partial){
            span.first, span.end, own ? link->shard.arrays.gradients : node_place(link, node),
            own ? 0 : mine.offset};
    }
    return sum_scratch(link, &mine, link->nodes.count, link->shard.spec.lanes);
}

/* Sums to the owners of their blocks. */
static lks_status send_home(nccl_link *link, uint32_t bucket)
{
    int rank = link->shard.rank;
    LKS_TRY(lks_nccl_group_begin(link->nccl, "bringing sums to their owners"));
    for (int peer = 0; peer < link->shard.size; ++peer) {
        nccl_piece theirs = owned(link, bucket, rank, peer);
        nccl_piece mine = owned(link, bucket, peer, rank);
        if (peer == rank)
            continue;
        LKS_TRY(send(link, peer, &theirs, 1));
        if (mine.elements > 0)
            LKS_TRY(lks_nccl_receive(link->nccl, peer, link->shard.arrays.gradients + mine.offset,
                                     mine.elements, link->stream));
    }
    return lks_nccl_group_end(link->nccl);
}

static lks_status reduce_in_fixed_order(nccl_link *link, uint32_t bucket)
{
    LKS_TRY(reduce_within_node(link, bucket));
    if (link->nodes.count > 1) {
        LKS_TRY(exchange_nodes(link, bucket));
        LKS_TRY(sum_nodes(link, bucket));
    }
    return send_home(link, bucket);
}

/* --- In any order ------------------------------------------------------------------------ */

static lks_status reduce_in_any_order(nccl_link *link, uint32_t bucket)
{
    const lks_link_spec *spec = &link->shard.spec;
    const lks_link_arrays *arrays = &link->shard.arrays;
    uint64_t offset = 0, elements = 0;
    lks_layout_range(spec->layout, spec->buckets->first_block[bucket],
                     spec->buckets->first_block[bucket + 1], &offset, &elements);
    for (int level = 1; level < link->shard.own_leaves; ++level)
        LKS_TRY(lks_device_add(spec->device, elements, lks_link_gradient(arrays, level) + offset,
                               arrays->gradients + offset));
    LKS_TRY(lks_nccl_group_begin(link->nccl, "adding gradients"));
    LKS_TRY(lks_nccl_all_reduce(link->nccl, arrays->gradients + offset, elements, link->stream));
    return lks_nccl_group_end(link->nccl);
}

lks_status nccl_reduce(nccl_link *link, uint32_t bucket)
{
    return link->shard.spec.any_order ? reduce_in_any_order(link, bucket)
                                      : reduce_in_fixed_order(link, bucket);
}

lks_status nccl_square_sums(nccl_link *link)
{
    lks_shard *shard = &link->shard;
    const lks_partial whole = {0, shard->spec.lanes, shard->arrays.gradients, 0};
    lks_sum sum = {.blocks = shard->blocks,
                   .host_blocks = shard->spec.layout->blocks + shard->first_block,
                   .count = shard->end_block - shard->first_block,
                   .partials = &whole,
                   .partial_count = 1,
                   .lanes = shard->spec.lanes,
                   .out = shard->arrays.gradients,
                   .square_sums = shard->arrays.square_sums};
    return sum.count > 0 ? lks_device_sum_blocks(shard->spec.device, &sum) : LKS_OK;
}
