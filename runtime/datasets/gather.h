/* Sharing what each rank found: agreement first, then one gather of JSON. */
#ifndef LKS_DATASETS_GATHER_H
#define LKS_DATASETS_GATHER_H

#include "runtime/datasets/parallel.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Work is shared out by number: item i falls to rank i mod size, what there is once to that of
 * item 0. */
static inline bool lks_gather_is_mine(const lks_parallel *parallel, uint64_t item)
{
    return item % (uint64_t)parallel->size == (uint64_t)parallel->rank;
}

/* Collective. When all ranks pass LKS_OK, *out is an array of every rank's `mine` in
 * rank order (json_decref). Else every rank gets the worst status. `mine` may be NULL on
 * a rank that failed; the reference stays the caller's. */
lks_status lks_gather_json(const lks_parallel *parallel, lks_status status, const json_t *mine,
                           json_t **out) LKS_MUST_CHECK;

/* Collective. As above, for bytes: *out is what the ranks passed, end to end (free()). */
lks_status lks_gather_bytes(const lks_parallel *parallel, lks_status status, const void *mine,
                            size_t bytes, void **out, size_t *total) LKS_MUST_CHECK;

#endif
