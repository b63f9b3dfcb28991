/* Where in one arena each piece of memory lies, given when it is alive. */
#ifndef LKS_GRAPH_OFFSETS_H
#define LKS_GRAPH_OFFSETS_H

#include "runtime/base/status.h"

#include <stddef.h>

/* Memory that lives from step `first` to step `last`, both included: of one tensor, or of several
 * that take it over from each other. */
typedef struct lks_storage {
    size_t first, last;
    size_t bytes;  /* a multiple of LKS_ALIGNMENT, not 0 */
    size_t offset; /* given here: bytes from the arena's start */
} lks_storage;

/* Up to this many storages are placed the largest first: the smallest arenas, in quadratic time. */
enum { LKS_OFFSETS_LARGEST_FIRST_MAX = 8192 };

/* Gives every storage an offset such that those alive at one step do not overlap; a pure function
 * of its arguments. */
lks_status lks_offsets_place(lks_storage *storages, size_t count,
                             size_t *arena_bytes) LKS_MUST_CHECK;

#endif
