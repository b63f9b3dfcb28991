/* A rank's arrays, its own blocks and the partials that make up their sum: what links have in common.
 *
 * The sum of a block overwrites this rank's own first partial of it, which nobody else reads.
 */
#ifndef LKS_COLLECTIVES_SHARD_H
#define LKS_COLLECTIVES_SHARD_H

#include "collectives/lane_tree.h"
#include "collectives/link_driver.h"

/* The part of a bucket that this rank owns. */
typedef struct lks_segment {
    uint32_t bucket, first_block, end_block;
    uint64_t offset, elements; /* in a flat array, padding between tensors included */
} lks_segment;

/* One partial of the whole tree, in lane order. */
typedef struct lks_leaf {
    int rank, level;
    lks_lane_span lanes;
    float *data; /* where element `origin` of a flat array is */
    uint64_t origin;
} lks_leaf;

typedef struct lks_shard {
    lks_link_spec spec;
    lks_link_arrays arrays; /* what open of a link hands out */
    int rank, size;
    uint32_t first_block, end_block;
    uint64_t offset, elements; /* from the first own block's first element to the last one's last */
    lks_segment *segments;     /* ascending */
    uint32_t segment_count;
    lks_leaf *leaves;
    int leaf_count;
    int own_leaf, own_leaves; /* this rank's first; how many it has */
    int levels;               /* this rank's gradient arrays */
    int partials;             /* the most that any rank has */
    lks_partial *scratch;     /* [leaf_count] */
    lks_layout_block *blocks; /* [own blocks] of the layout, in device memory */
    float *inbox;             /* [partials of others] own blocks' range */
    size_t inbox_bytes;
    uint32_t *ready; /* [ready_count] segments whose partials are all here, not yet summed */
    uint32_t ready_count, summed_count;
    bool keep_arrays; /* close frees neither them nor the inbox: others use them */
} lks_shard;

/* The blocks [first, end) of a flat array, as a range of elements; 0 elements when empty. */
void lks_layout_range(const lks_layout *layout, uint32_t first_block, uint32_t end_block,
                      uint64_t *offset, uint64_t *elements);

/* The ranks [first, end) that own the bucket's blocks. */
void lks_shard_owners(const lks_link_spec *spec, uint32_t bucket, int *first, int *end);
/* What rank `owner` owns of a bucket: blocks [first, end), none when first is not below end. */
void lks_shard_blocks(const lks_link_spec *spec, uint32_t bucket, int owner, uint32_t *first,
                      uint32_t *end);
/* The same, and what it owns in all, in a flat array; 0 elements when it is nothing. */
void lks_shard_part(const lks_link_spec *spec, uint32_t bucket, int owner, uint64_t *offset,
                    uint64_t *elements);
void lks_shard_owned(const lks_link_spec *spec, int owner, uint64_t *offset, uint64_t *elements);

/* The spec's parts are borrowed. */
lks_status lks_shard_open(lks_shard *shard, const lks_link_spec *spec) LKS_MUST_CHECK;
void lks_shard_close(lks_shard *shard);
/* Device memory for the arrays, each a multiple of `unit_bytes`; own partials are there. */
lks_status lks_shard_allocate(lks_shard *shard, size_t unit_bytes) LKS_MUST_CHECK;
/* Device memory for the partials of others, which are there. */
lks_status lks_shard_allocate_inbox(lks_shard *shard) LKS_MUST_CHECK;
/* The partials of `rank` are in its gradient arrays, which are here. */
void lks_shard_read_at(lks_shard *shard, int rank, float *gradients);

/* The index of the bucket's segment; segment_count when this rank owns nothing of it. */
uint32_t lks_shard_segment(const lks_shard *shard, uint32_t bucket);
/* The partials of blocks [first, end) of all ranks are where the leaves say. No block: nothing. */
lks_status lks_shard_sum(lks_shard *shard, uint32_t first_block, uint32_t end_block) LKS_MUST_CHECK;
/* Segment by segment, as they become ready. A step begins with none. */
void lks_shard_begin(lks_shard *shard);
void lks_shard_ready(lks_shard *shard, uint32_t segment);
lks_status lks_shard_sum_ready(lks_shard *shard) LKS_MUST_CHECK; /* one, if there is one */
static inline bool lks_shard_is_summed(const lks_shard *shard)
{
    return shard->summed_count == shard->segment_count;
}

/* LKS_ERR_USAGE when the device's memory is not the host's, which link `name` needs. */
lks_status lks_shard_on_host(const lks_link_spec *spec, const char *name) LKS_MUST_CHECK;

#endif
