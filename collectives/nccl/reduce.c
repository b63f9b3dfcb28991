/* A bucket's way to its owners, and its sum there. */
#include "collectives/nccl/link_private.h"

lks_status nccl_send_part(nccl_link *link, uint32_t bucket, int owner, int to, int count)
{
    uint64_t offset = 0, elements = 0;
    lks_shard_part(&link->shard.spec, bucket, owner, &offset, &elements);
    for (int level = 0; elements > 0 && level < count; ++level)
        LKS_TRY(lks_nccl_send(link->nccl, to,
                              lks_link_gradient(&link->shard.arrays, level) + offset, elements,
                              link->stream));
    return LKS_OK;
}

static lks_status receive_partials(nccl_link *link, const lks_segment *segment)
{
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        const lks_leaf *leaf = &link->shard.leaves[i];
        if (leaf->rank != link->shard.rank)
            LKS_TRY(lks_nccl_receive(link->nccl, leaf->rank,
                                     leaf->data + (segment->offset - leaf->origin),
                                     segment->elements, link->stream));
    }
    return LKS_OK;
}

static lks_status reduce_at_once(nccl_link *link, uint32_t bucket)
{
    lks_shard *shard = &link->shard;
    uint32_t own = lks_shard_segment(shard, bucket);
    const lks_segment *segment = own < shard->segment_count ? &shard->segments[own] : NULL;
    int owner = 0, end = 0;
    lks_shard_owners(&shard->spec, bucket, &owner, &end);
    LKS_TRY(lks_nccl_group_begin(link->nccl, "bringing partial gradients to their owners"));
    for (; owner < end; ++owner)
        if (owner != shard->rank)
            LKS_TRY(nccl_send_part(link, bucket, owner, owner, shard->own_leaves));
    if (segment)
        LKS_TRY(receive_partials(link, segment));
    LKS_TRY(lks_nccl_group_end(link->nccl));
    return segment ? lks_shard_sum(shard, segment->first_block, segment->end_block) : LKS_OK;
}

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

lks_status nccl_reduce(nccl_link *link, uint32_t bucket)
{
    if (link->shard.spec.any_order)
        return reduce_in_any_order(link, bucket);
    if (lks_nodes_apart(&link->by_node.nodes))
        return nccl_by_node_reduce(link, bucket);
    return reduce_at_once(link, bucket);
}
