/* A bucket's sums node by node: partials to the rank of the own node that is in their owner's column, there their sum,
 * and that to the owner. See nodes.h.
 */
#include "collectives/nccl/link_private.h"
#include "runtime/base/memory.h"

static bool is_local(const nccl_by_node *it, int rank)
{
    return rank / it->nodes.ranks == it->nodes.node;
}

static int rank_at(const nccl_by_node *it, int node, int index)
{
    return node * it->nodes.ranks + index;
}

static lks_status lay_out_column(nccl_link *link)
{
    nccl_by_node *it = &link->by_node;
    size_t local = 0; /* partials of this node's other ranks */
    LKS_TRY(LKS_NEW_ARRAY(&it->column_base, (size_t)it->nodes.count));
    for (int node = 0; node < it->nodes.count; ++node) {
        uint64_t offset = 0, elements = 0;
        lks_shard_owned(&link->shard.spec, rank_at(it, node, it->nodes.index), &offset, &elements);
        it->column_base[node] = it->column_elements;
        it->column_elements += elements;
    }
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        int rank = link->shard.leaves[i].rank;
        local += rank != link->shard.rank && is_local(it, rank);
    }
    it->column_bytes = local * it->column_elements * sizeof(float);
    return LKS_OK;
}

static lks_status place_blocks(nccl_link *link)
{
    const lks_link_spec *spec = &link->shard.spec;
    size_t bytes = spec->layout->block_count * sizeof *spec->layout->blocks;
    LKS_TRY(lks_device_allocate(spec->device, bytes, (void **)&link->by_node.blocks));
    return lks_device_copy_in(spec->device, link->by_node.blocks, spec->layout->blocks, bytes);
}

static lks_status allocate_some(nccl_link *link, size_t bytes, float **out)
{
    if (bytes == 0)
        return LKS_OK;
    link->shard.arrays.private_bytes += bytes;
    return lks_device_allocate(link->shard.spec.device, bytes, (void **)out);
}

lks_status nccl_by_node_open(nccl_link *link)
{
    nccl_by_node *it = &link->by_node;
    int leaves = link->shard.leaf_count, nodes = it->nodes.count;
    LKS_TRY(lay_out_column(link));
    LKS_TRY(place_blocks(link));
    LKS_TRY(LKS_NEW_ARRAY(&it->scratch, (size_t)(leaves > nodes ? leaves : nodes)));
    it->inbox_bytes = (size_t)(nodes - 1) * link->shard.elements * sizeof(float);
    LKS_TRY(allocate_some(link, it->inbox_bytes, &it->inbox));
    return allocate_some(link, it->column_bytes, &it->column_inbox);
}

void nccl_by_node_close(nccl_link *link)
{
    nccl_by_node *it = &link->by_node;
    const lks_link_spec *spec = &link->shard.spec;
    if (it->inbox)
        lks_device_free(spec->device, it->inbox, it->inbox_bytes);
    if (it->column_inbox)
        lks_device_free(spec->device, it->column_inbox, it->column_bytes);
    if (it->blocks)
        lks_device_free(spec->device, it->blocks, spec->layout->block_count * sizeof *it->blocks);
    lks_memory_free(it->column_base);
    lks_memory_free(it->scratch);
}

/* Where partial number `number` of this node's other ranks is, of the own blocks of the column's rank on `node`. */
static float *column_place(const nccl_by_node *it, size_t number, int node)
{
    return it->column_inbox + number * it->column_elements + it->column_base[node];
}

static lks_status send_columns(nccl_link *link, uint32_t bucket)
{
    const nccl_by_node *it = &link->by_node;
    for (int index = 0; index < it->nodes.ranks; ++index)
        for (int node = 0; index != it->nodes.index && node < it->nodes.count; ++node)
            LKS_TRY(nccl_send_part(link, bucket, rank_at(it, node, index),
                                   rank_at(it, it->nodes.node, index), link->shard.own_leaves));
    return LKS_OK;
}

/* As its sender gives them: by node, then by partial. */
static lks_status receive_columns(nccl_link *link, uint32_t bucket)
{
    const nccl_by_node *it = &link->by_node;
    const lks_shard *shard = &link->shard;
    for (int node = 0; node < it->nodes.count; ++node) {
        int owner = rank_at(it, node, it->nodes.index);
        uint64_t offset = 0, elements = 0, owned = 0, unused = 0;
        size_t number = 0;
        lks_shard_owned(&shard->spec, owner, &owned, &unused);
        lks_shard_part(&shard->spec, bucket, owner, &offset, &elements);
        for (int i = 0; elements > 0 && i < shard->leaf_count; ++i) {
            int rank = shard->leaves[i].rank;
            if (rank == shard->rank || !is_local(it, rank))
                continue;
            LKS_TRY(lks_nccl_receive(link->nccl, rank,
                                     column_place(it, number++, node) + (offset - owned), elements,
                                     link->stream));
        }
    }
    return LKS_OK;
}

/* Of blocks [first, end): what is in the scratch, over this rank's first partial. */
static lks_status sum_scratch(nccl_link *link, uint32_t first, uint32_t end, int count, int lanes,
                              double *square_sums)
{
    const lks_link_spec *spec = &link->shard.spec;
    lks_sum sum = {.blocks = link->by_node.blocks + first,
                   .host_blocks = spec->layout->blocks + first,
                   .count = end - first,
                   .partials = link->by_node.scratch,
                   .partial_count = count,
                   .lanes = lanes,
                   .out = link->shard.arrays.gradients,
                   .square_sums = square_sums};
    return lks_device_sum_blocks(spec->device, &sum);
}

/* This node's sum of the blocks that the column's rank on `node` owns. */
static lks_status sum_within_node(nccl_link *link, uint32_t bucket, int node)
{
    const nccl_by_node *it = &link->by_node;
    const lks_shard *shard = &link->shard;
    int owner = rank_at(it, node, it->nodes.index), count = 0;
    lks_lane_span span = lks_nodes_lanes(&it->nodes, &shard->spec, it->nodes.node);
    uint64_t owned = 0, unused = 0;
    uint32_t first = 0, end = 0;
    size_t number = 0;
    lks_shard_blocks(&shard->spec, bucket, owner, &first, &end);
    if (first >= end)
        return LKS_OK;
    lks_shard_owned(&shard->spec, owner, &owned, &unused);
    for (int i = 0; i < shard->leaf_count; ++i) {
        const lks_leaf *leaf = &shard->leaves[i];
        if (!is_local(it, leaf->rank))
            continue;
        bool own = leaf->rank == shard->rank;
        const float *data = own ? leaf->data : column_place(it, number++, node);
        it->scratch[count++] = (lks_partial){leaf->lanes.first - span.first,
                                             leaf->lanes.end - span.first, data, own ? 0 : owned};
    }
    return sum_scratch(link, first, end, count, span.end - span.first, NULL);
}

/* The place of another node's sums of own blocks. */
static float *node_place(const nccl_link *link, int node)
{
    const nccl_by_node *it = &link->by_node;
    return it->inbox + (uint64_t)(node - (node > it->nodes.node)) * link->shard.elements;
}

static lks_status exchange_nodes(nccl_link *link, uint32_t bucket)
{
    const nccl_by_node *it = &link->by_node;
    uint64_t offset = 0, elements = 0;
    lks_shard_part(&link->shard.spec, bucket, link->shard.rank, &offset, &elements);
    LKS_TRY(lks_nccl_group_begin(link->nccl, "bringing sums of nodes to their owners"));
    for (int node = 0; node < it->nodes.count; ++node) {
        int peer = rank_at(it, node, it->nodes.index);
        if (node == it->nodes.node)
            continue;
        LKS_TRY(nccl_send_part(link, bucket, peer, peer, 1));
        if (elements > 0)
            LKS_TRY(lks_nccl_receive(link->nccl, peer,
                                     node_place(link, node) + (offset - link->shard.offset),
                                     elements, link->stream));
    }
    return lks_nccl_group_end(link->nccl);
}

static lks_status sum_nodes(nccl_link *link, uint32_t bucket)
{
    const nccl_by_node *it = &link->by_node;
    const lks_shard *shard = &link->shard;
    uint32_t first = 0, end = 0;
    lks_shard_blocks(&shard->spec, bucket, shard->rank, &first, &end);
    if (first >= end)
        return LKS_OK;
    for (int node = 0; node < it->nodes.count; ++node) {
        lks_lane_span span = lks_nodes_lanes(&it->nodes, &shard->spec, node);
        bool own = node == it->nodes.node;
        it->scratch[node] = (lks_partial){span.first, span.end,
                                          own ? shard->arrays.gradients : node_place(link, node),
                                          own ? 0 : shard->offset};
    }
    return sum_scratch(link, first, end, it->nodes.count, shard->spec.lanes,
                       shard->arrays.square_sums + (first - shard->first_block));
}

lks_status nccl_by_node_reduce(nccl_link *link, uint32_t bucket)
{
    LKS_TRY(lks_nccl_group_begin(link->nccl, "bringing partial gradients together within nodes"));
    LKS_TRY(send_columns(link, bucket));
    LKS_TRY(receive_columns(link, bucket));
    LKS_TRY(lks_nccl_group_end(link->nccl));
    for (int node = 0; node < link->by_node.nodes.count; ++node)
        LKS_TRY(sum_within_node(link, bucket, node));
    LKS_TRY(exchange_nodes(link, bucket));
    return sum_nodes(link, bucket);
}
