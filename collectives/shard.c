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

void lks_shard_part(const lks_link_spec *spec, uint32_t bucket, int owner, uint64_t *offset,
                    uint64_t *elements)
{
    uint32_t first = spec->buckets->first_block[bucket];
    uint32_t end = spec->buckets->first_block[bucket + 1], owned_first = 0, owned_end = 0;
    lks_layout_owned(spec->layout, owner, lks_comm_size(spec->comm), &owned_first, &owned_end);
    first = first > owned_first ? first : owned_first;
    end = end < owned_end ? end : owned_end;
    lks_layout_range(spec->layout, first, end, offset, elements);
}

void lks_shard_owned(const lks_link_spec *spec, int owner, uint64_t *offset, uint64_t *elements)
{
    uint32_t first = 0, end = 0;
    lks_layout_owned(spec->layout, owner, lks_comm_size(spec->comm), &first, &end);
    lks_layout_range(spec->layout, first, end, offset, elements);
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

static lks_status place_blocks(lks_shard *shard)
{
    lks_device *device = shard->spec.device;
    size_t count = shard->end_block - shard->first_block;
    LKS_TRY(LKS_NEW_ARRAY(&shard->scratch, (size_t)shard->leaf_count));
    LKS_TRY(lks_device_allocate(device, count * sizeof *shard->blocks, (void **)&shard->blocks));
    LKS_TRY(lks_device_allocate(device, count * sizeof *shard->square_sums,
                                (void **)&shard->square_sums));
    return lks_device_copy_in(device, shard->blocks,
                              shard->spec.layout->blocks + shard->first_block,
                              count * sizeof *shard->blocks);
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
    return place_blocks(shard);
}

void lks_shard_close(lks_shard *shard)
{
    size_t count = shard->end_block - shard->first_block;
    lks_memory_free(shard->segments);
    lks_memory_free(shard->leaves);
    lks_memory_free(shard->scratch);
    if (!shard->spec.device)
        return;
    lks_device_free(shard->spec.device, shard->blocks, count * sizeof *shard->blocks);
    lks_device_free(shard->spec.device, shard->square_sums, count * sizeof *shard->square_sums);
}

lks_status lks_shard_sum(lks_shard *shard, uint32_t first_block, uint32_t end_block)
{
    const lks_leaf *own = &shard->leaves[shard->own_leaf];
    for (int i = 0; i < shard->leaf_count; ++i) {
        const lks_leaf *leaf = &shard->leaves[i];
        shard->scratch[i] =
            (lks_partial){leaf->lanes.first, leaf->lanes.end, leaf->data, leaf->origin};
    }
    uint32_t at = first_block - shard->first_block;
    lks_sum sum = {.blocks = shard->blocks + at,
                   .host_blocks = shard->spec.layout->blocks + first_block,
                   .count = end_block - first_block,
                   .partials = shard->scratch,
                   .partial_count = shard->leaf_count,
                   .lanes = shard->spec.lanes,
                   .out = (float *)own->data,
                   .square_sums = shard->square_sums + at};
    return lks_device_sum_blocks(shard->spec.device, &sum);
}

const float *lks_shard_sums(const lks_shard *shard)
{
    return shard->leaves[shard->own_leaf].data;
}
