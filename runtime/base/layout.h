/* The layout of a model's state in flat memory: tensors in declaration order,
 * cut into blocks.
 *
 * Parameters, their gradients and each optimizer state are flat arrays of f32
 * with this one layout. A block is LKS_BLOCK_ELEMENTS consecutive elements of
 * one tensor (its last may be short; none crosses tensors): the unit of
 * reduction, optimizer sharding and hashing. Each tensor starts at a multiple of
 * 16 elements; the padding between is zero and belongs to no block.
 *
 * A buffer (running statistics) has a "gradient" too: the sum of its
 * per-micro-batch statistics, reduced in the same tree; see optimizer.h.
 */
#ifndef LKS_BASE_LAYOUT_H
#define LKS_BASE_LAYOUT_H

#include "runtime/base/status.h"
#include "runtime/base/tensor.h"

#include <stdbool.h>
#include <stdint.h>

enum { LKS_BLOCK_ELEMENTS = 65536 };
/* Of a whole layout: 4 TiB in f32, more than a node holds in each of the arrays that a job needs,
 * and a table of blocks that is still quickly made. */
#define LKS_LAYOUT_ELEMENTS_MAX ((uint64_t)1 << 40)

typedef enum lks_tensor_role {
    LKS_ROLE_PARAMETER,
    LKS_ROLE_BUFFER, /* running statistic: not differentiated, not decayed */
} lks_tensor_role;

typedef struct lks_layout_tensor {
    const char *name; /* owned by the layout */
    lks_shape shape;
    lks_tensor_role role;
    bool decay; /* weight decay applies (matrices, not norms and biases) */
    uint64_t elements;
    uint64_t offset; /* elements from the start of the flat array */
    uint32_t first_block, block_count;
} lks_layout_tensor;

typedef struct lks_layout_block {
    uint32_t tensor;
    uint64_t offset;   /* elements from the start of the flat array */
    uint32_t elements; /* 1..LKS_BLOCK_ELEMENTS */
} lks_layout_block;

typedef struct lks_layout {
    lks_layout_tensor *tensors;
    uint32_t tensor_count;
    lks_layout_block *blocks;
    uint32_t block_count;
    uint64_t flat_elements; /* length of a flat array, padding included */
    uint64_t elements;      /* without padding */
} lks_layout;

lks_status lks_layout_create(lks_layout **out) LKS_MUST_CHECK;
void lks_layout_destroy(lks_layout *layout); /* NULL is fine */
/* Appends a tensor with at least one element; a name that is taken is LKS_ERR_USAGE, as is a layout of more
 * than LKS_LAYOUT_ELEMENTS_MAX elements. */
lks_status lks_layout_add(lks_layout *layout, const char *name, lks_shape shape,
                          lks_tensor_role role, bool decay,
                          uint32_t *index /* NULL: not wanted */) LKS_MUST_CHECK;

/* Blocks [*first, *end) that rank `rank` of `world_size` owns: consecutive,
 * covering all, balanced by elements; a pure function of its arguments. */
void lks_layout_owned(const lks_layout *layout, int rank, int world_size, uint32_t *first,
                      uint32_t *end);
/* Inverse of the above. */
int lks_layout_owner(const lks_layout *layout, uint32_t block, int world_size);

/* Bytes of a flat array of bf16. */
static inline size_t lks_layout_rounded_bytes(const lks_layout *layout)
{
    return layout->flat_elements * sizeof(uint16_t);
}

/* SHA-256 over names, shapes, roles in declaration order: equal layouts only. */
lks_status lks_layout_fingerprint(const lks_layout *layout, char hex[65]) LKS_MUST_CHECK;

#endif
