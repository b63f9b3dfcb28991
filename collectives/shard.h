/* A rank's own blocks and the partials that make up their sum: what links have in common.
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
    const float *data; /* set by the link: where element `origin` of a flat array is */
    uint64_t origin;
} lks_leaf;

typedef struct lks_shard {
    lks_link_spec spec;
    uint32_t first_block, end_block;
    uint64_t offset, elements; /* from the first own block's first element to the last one's last */
    lks_segment *segments;     /* ascending */
    uint32_t segment_count;
    lks_leaf *leaves;
    int leaf_count;
    int own_leaf;             /* this rank's first */
    int partials;             /* the most that any rank has */
    lks_partial *scratch;     /* [leaf_count] */
    lks_layout_block *blocks; /* [own blocks] of the layout, in device memory */
    double *square_sums;      /* [own blocks] in device memory */
} lks_shard;

/* The blocks [first, end) of a flat array, as a range of elements; 0 elements when empty. */
void lks_layout_range(const lks_layout *layout, uint32_t first_block, uint32_t end_block,
                      uint64_t *offset, uint64_t *elements);

/* What rank `owner` owns of a bucket, and in all, in a flat array; 0 elements when it is nothing. */
void lks_shard_part(const lks_link_spec *spec, uint32_t bucket, int owner, uint64_t *offset,
                    uint64_t *elements);
void lks_shard_owned(const lks_link_spec *spec, int owner, uint64_t *offset, uint64_t *elements);

/* The spec's parts are borrowed. */
lks_status lks_shard_open(lks_shard *shard, const lks_link_spec *spec) LKS_MUST_CHECK;
void lks_shard_close(lks_shard *shard);

/* The partials of blocks [first, end) of all ranks are where the leaves say. */
lks_status lks_shard_sum(lks_shard *shard, uint32_t first_block, uint32_t end_block) LKS_MUST_CHECK;
/* The flat array that the sums of own blocks are in. */
const float *lks_shard_sums(const lks_shard *shard);

#endif
