/* Memory: aligned blocks, and an arena for things that die together. */
#ifndef LKS_BASE_MEMORY_H
#define LKS_BASE_MEMORY_H

#include "runtime/base/status.h"

#include <stddef.h>
#include <stdint.h>

enum { LKS_ALIGNMENT = 64 }; /* bytes: one cache line, one AVX-512 register */

/* Zeroed memory, or LKS_ERR_INTERNAL with the size in the message. count 0 is
 * allowed and gives a pointer that may be freed. */
lks_status lks_memory_allocate(void **out, size_t count, size_t element_bytes) LKS_MUST_CHECK;
void lks_memory_free(void *block);

/* Grows `*array` (capacity `*capacity` elements) to hold at least `count`. */
lks_status lks_memory_grow(void **array, size_t *capacity, size_t count,
                           size_t element_bytes) LKS_MUST_CHECK;

/* Typed forms: LKS_NEW(&pointer), LKS_NEW_ARRAY(&pointer, count). */
#define LKS_NEW(out) lks_memory_allocate((void **)(out), 1, sizeof **(out))
#define LKS_NEW_ARRAY(out, count) lks_memory_allocate((void **)(out), (count), sizeof **(out))
#define LKS_GROW(array, capacity, count)                                                           \
    lks_memory_grow((void **)(array), (capacity), (count), sizeof **(array))

/* Page-aligned zero memory for large arrays, advised to use huge pages. The
 * size is rounded up by the callee. Freed with lks_memory_unmap(same bytes). */
lks_status lks_memory_map(void **out, size_t bytes) LKS_MUST_CHECK;
void lks_memory_unmap(void *block, size_t bytes);

/* A count of calls of the above (allocate, grow that grew, map) by the calling thread: a
 * step checks with it that it allocates nothing. */
uint64_t lks_memory_allocation_count(void);

typedef struct lks_arena lks_arena;
lks_status lks_arena_create(lks_arena **out) LKS_MUST_CHECK;
void lks_arena_destroy(lks_arena *arena); /* NULL is fine */
/* Zeroed, 16-byte aligned, lives as long as the arena. NULL only without memory. */
void *lks_arena_allocate(lks_arena *arena, size_t bytes);
char *lks_arena_copy(lks_arena *arena, const char *text);
char *lks_arena_format(lks_arena *arena, const char *format, ...) LKS_PRINTF(2, 3);

static inline size_t lks_round_up(size_t value, size_t multiple)
{
    return (value + multiple - 1) / multiple * multiple;
}

#endif
