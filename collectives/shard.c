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

void lks_shard_owners(const lks_link_spec *spec, uint32_t bucket, int *first, int *end)
{
    int size = lks_comm_size(spec->comm);
    const uint32_t *bounds = &spec->buckets->first_block[bucket];
    *first = lks_layout_owner(spec->layout, bounds[0], size);
    *end = lks_layout_owner(spec->layout, bounds[1] - 1, size) + 1;
}

void lks_shard_blocks(const lks_link_spec *spec, uint32_t bucket, int owner, uint32_t *first,
                      uint32_t *end)
{
    const uint32_t *bounds = &spec->buckets->first_block[bucket];
    lks_layout_owned(spec->layout, owner, lks_comm_size(spec->comm), first, end);
    *first = *first > bounds[0] ? *first : bounds[0];
    *end = *end < bounds[1] ? *end : bounds[1];
}

void lks_shard_part(const lks_link_spec *spec, uint32_t bucket, int owner, uint64_t *offset,
                    uint64_t *elements)
{
    uint32_t first = 0, end = 0;
    lks_shard_blocks(spec, bucket, owner, &first, &end);
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
        uint32_t first = 0, end = 0;
        lks_shard_blocks(&shard->spec, i, shard->rank, &first, &end);
        if (first >= end)
            continue;
        lks_segment *segment = &shard->segments[shard->segment_count++];
        *segment = (lks_segment){.bucket = i, .first_block = first, .end_block = end};
        lks_layout_range(shard->spec.layout, first, end, &segment->offset, &segment->elements);
    }
    return LKS_NEW_ARRAY(&shard->ready, shard->segment_count);
}

static lks_status list_leaves(lks_shard *shard)
{
    size_t capacity = 0;
    for (int r = 0; r < shard->size; ++r) {
        int first = 0, end = 0;
        lks_lane_stack stack;
        lks_lanes_of(shard->spec.lanes, r, shard->size, &first, &end);
        lks_lane_partials(shard->spec.lanes, first, end, &stack);
        int count = shard->leaf_count + stack.count;
        LKS_TRY(LKS_GROW(&shard->leaves, &capacity, (size_t)count));
        if (r == shard->rank) {
            shard->own_leaf = shard->leaf_count;
            shard->own_leaves = stack.count;
            shard->levels = lks_lane_levels(shard->spec.lanes, first, end);
        }
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
    LKS_TRY(lks_device_allocate(device, count * sizeof *shard->arrays.square_sums,
                                (void **)&shard->arrays.square_sums));
    return lks_device_copy_in(device, shard->blocks,
                              shard->spec.layout->blocks + shard->first_block,
                              count * sizeof *shard->blocks);
}

lks_status lks_shard_open(lks_shard *shard, const lks_link_spec *spec)
{
    *shard = (lks_shard){
        .spec = *spec, .rank = lks_comm_rank(spec->comm), .size = lks_comm_size(spec->comm)};
    lks_layout_owned(spec->layout, shard->rank, shard->size, &shard->first_block,
                     &shard->end_block);
    lks_layout_range(spec->layout, shard->first_block, shard->end_block, &shard->offset,
                     &shard->elements);
    LKS_TRY(list_segments(shard));
    LKS_TRY(list_leaves(shard));
    return place_blocks(shard);
}

static void free_arrays(lks_shard *shard)
{
    lks_device *device = shard->spec.device;
    const lks_link_arrays *arrays = &shard->arrays;
    if (arrays->parameters)
        lks_device_free(device, arrays->parameters, arrays->array_bytes);
    if (arrays->gradients)
        lks_device_free(device, arrays->gradients, arrays->array_bytes * (size_t)shard->levels);
    if (shard->inbox)
        lks_device_free(device, shard->inbox, shard->inbox_bytes);
}

void lks_shard_close(lks_shard *shard)
{
    size_t count = shard->end_block - shard->first_block;
    lks_memory_free(shard->segments);
    lks_memory_free(shard->leaves);
    lks_memory_free(shard->scratch);
    lks_memory_free(shard->ready);
    if (!shard->spec.device)
        return;
    if (!shard->keep_arrays)
        free_arrays(shard);
    lks_device_free(shard->spec.device, shard->blocks, count * sizeof *shard->blocks);
    lks_device_free(shard->spec.device, shard->arrays.square_sums,
                    count * sizeof *shard->arrays.square_sums);
}

void lks_shard_read_at(lks_shard *shard, int rank, float *gradients)
{
    size_t stride = shard->arrays.array_bytes / sizeof(float);
    for (int i = 0; i < shard->leaf_count; ++i)
        if (shard->leaves[i].rank == rank)
            shard->leaves[i].data = gradients + stride * (size_t)shard->leaves[i].level;
}

lks_status lks_shard_allocate(lks_shard *shard, size_t unit_bytes)
{
    lks_device *device = shard->spec.device;
    lks_link_arrays *arrays = &shard->arrays;
    size_t flat_bytes = shard->spec.layout->flat_elements * sizeof(float);
    arrays->array_bytes = lks_round_up(flat_bytes, unit_bytes);
    size_t gradient_bytes = arrays->array_bytes * (size_t)shard->levels;
    LKS_TRY(lks_device_allocate(device, arrays->array_bytes, (void **)&arrays->parameters));
    LKS_TRY(lks_device_allocate(device, gradient_bytes, (void **)&arrays->gradients));
    arrays->private_bytes += arrays->array_bytes + gradient_bytes;
    lks_shard_read_at(shard, shard->rank, arrays->gradients);
    return LKS_OK;
}

lks_status lks_shard_allocate_inbox(lks_shard *shard)
{
    size_t foreign = (size_t)(shard->leaf_count - shard->own_leaves);
    shard->inbox_bytes = foreign * shard->elements * sizeof(float);
    if (shard->inbox_bytes == 0)
        return LKS_OK;
    LKS_TRY(lks_device_allocate(shard->spec.device, shard->inbox_bytes, (void **)&shard->inbox));
    shard->arrays.private_bytes += shard->inbox_bytes;
    float *place = shard->inbox;
    for (int i = 0; i < shard->leaf_count; ++i) {
        lks_leaf *leaf = &shard->leaves[i];
        if (leaf->rank == shard->rank)
            continue;
        leaf->data = place;
        leaf->origin = shard->offset;
        place += shard->elements;
    }
    return LKS_OK;
}

uint32_t lks_shard_segment(const lks_shard *shard, uint32_t bucket)
{
    /* Own blocks follow each other, and so do the buckets of their segments. */
    uint32_t first = shard->segment_count > 0 ? shard->segments[0].bucket : 0;
    bool within = bucket >= first && bucket - first < shard->segment_count;
    return within ? bucket - first : shard->segment_count;
}

lks_status lks_shard_sum(lks_shard *shard, uint32_t first_block, uint32_t end_block)
{
    if (first_block >= end_block)
        return LKS_OK;
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
                   .out = shard->arrays.gradients,
                   .square_sums = shard->arrays.square_sums + at};
    return lks_device_sum_blocks(shard->spec.device, &sum);
}

void lks_shard_begin(lks_shard *shard)
{
    shard->ready_count = shard->summed_count = 0;
}

void lks_shard_ready(lks_shard *shard, uint32_t segment)
{
    shard->ready[shard->ready_count++] = segment;
}

lks_status lks_shard_sum_ready(lks_shard *shard)
{
    if (shard->ready_count == 0)
        return LKS_OK;
    const lks_segment *segment = &shard->segments[shard->ready[--shard->ready_count]];
    ++shard->summed_count;
    return lks_shard_sum(shard, segment->first_block, segment->end_block);
}

lks_status lks_shard_on_host(const lks_link_spec *spec, const char *name)
{
    if (lks_device_is_host(spec->device))
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_USAGE,
                    "link %s needs a device that computes in the host's memory, not %s: set "
                    "collectives.link=auto",
                    name, lks_device_name(spec->device));
}
