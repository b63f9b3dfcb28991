#include "collectives/shard.h"

#include "runtime/base/memory.h"

void lks_layout_range(const lks_layout *layout, uint32_t first_block, uint32_t end_block,
                      uint64_t *offset, uint64_t *elements)
{
    *offset = *elements = 0;
    if (first_block >= end_block)
        return;
    const lks_layout_block *last = &layout->blocks[end_block - 1];
    *offset = layout->blocks[first_block].offset;
    *elements = last->offset + last->elements - *offset;
}

static lks_status list_segments(lks_shard *shard)
{
    const lks_buckets *buckets = shard->spec.buckets;
    LKS_TRY(LKS_NEW_ARRAY(&shard->segments, buckets->count));
    for (uint32_t i = 0; i < buckets->count; ++i) {
        uint32_t first = buckets->first_block[i], end = buckets->first_block[i + 1];
        first = first > shard->first_block ? first : shard->first_block;
        end = end < shard->end_block ? end : shard->end_block;
        if (first >= end)
            continue;
        lks_segment *segment = &shard->segments[shard->segment_count++];
        *segment = (lks_segment){.bucket = i, .first_block = first, .end_block = end};
        lks_layout_range(shard->spec.layout, first, end, &segment->offset, &segment->elements);
    }
    return LKS_OK;
}

static lks_status list_leaves(lks_shard *shard)
{
    int rank = lks_comm_rank(shard->spec.comm), size = lks_comm_size(shard->spec.comm);
    size_t capacity = 0;
    for (int r = 0; r < size; ++r) {
        int first = 0, end = 0;
        lks_lane_stack stack;
        lks_lanes_of(shard->spec.lanes, r, size, &first, &end);
        lks_lane_partials(shard->spec.lanes, first, end, &stack);
        int count = shard->leaf_count + stack.count;
        LKS_TRY(LKS_GROW(&shard->leaves, &capacity, (size_t)count));
        if (r == rank)
            shard->own_leaf = shard->leaf_count;
        if (stack.count > shard->partials)
            shard->partials = stack.count;
        for (int i = 0; i < stack.count; ++i)
            shard->leaves[shard->leaf_count++] =
                (lks_leaf){.rank = r, .level = i, .lanes = stack.spans[i]};
    }
    return LKS_OK;
}

lks_status lks_shard_open(lks_shard *shard, const lks_link_spec *spec)
{
    *shard = (lks_shard){.spec = *spec};
    lks_layout_owned(spec->layout, lks_comm_rank(spec->comm), lks_comm_size(spec->comm),
                     &shard->first_block, &shard->end_block);
    lks_layout_range(spec->layout, shard->first_block, shard->end_block, &shard->offset,
                     &shard->elements);
    LKS_TRY(list_segments(shard));
    LKS_TRY(list_leaves(shard));
    LKS_TRY(LKS_NEW_ARRAY(&shard->scratch, (size_t)shard->leaf_count));
    return LKS_NEW_ARRAY(&shard->square_sums, shard->end_block - shard->first_block);
}

void lks_shard_close(lks_shard *shard)
{
    lks_memory_free(shard->segments);
    lks_memory_free(shard->leaves);
    lks_memory_free(shard->scratch);
    lks_memory_free(shard->square_sums);
}

static const float *leaf_at(const lks_leaf *leaf, uint64_t offset)
{
    return leaf->data + (offset - leaf->origin);
}

static lks_status sum_block(lks_shard *shard, uint32_t index)
{
    const lks_layout *layout = shard->spec.layout;
    const lks_layout_block *block = &layout->blocks[index];
    for (int i = 0; i < shard->leaf_count; ++i) {
        const lks_leaf *leaf = &shard->leaves[i];
        shard->scratch[i] =
            (lks_partial){leaf->lanes.first, leaf->lanes.end, leaf_at(leaf, block->offset)};
    }
    bool is_buffer = layout->tensors[block->tensor].role == LKS_ROLE_BUFFER;
    double *square_sum = &shard->square_sums[index - shard->first_block];
    float *out = (float *)shard->scratch[shard->own_leaf].data;
    return lks_device_sum_partials(shard->spec.device, shard->scratch, shard->leaf_count,
                                   shard->spec.lanes, block->elements, out,
                                   is_buffer ? NULL : square_sum);
}

lks_status lks_shard_sum(lks_shard *shard, uint32_t first_block, uint32_t end_block)
{
    for (uint32_t i = first_block; i < end_block; ++i)
        LKS_TRY(sum_block(shard, i));
    return LKS_OK;
}

const float *lks_shard_block(const lks_shard *shard, uint32_t block, double *square_sum)
{
    *square_sum = shard->square_sums[block - shard->first_block];
    return leaf_at(&shard->leaves[shard->own_leaf], shard->spec.layout->blocks[block].offset);
}
