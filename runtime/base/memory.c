#include "runtime/base/memory.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The one writable global besides the log: a statistic, never a decision. */
static _Thread_local uint64_t memory_allocation_count;

static void memory_count(void)
{
    ++memory_allocation_count;
}

uint64_t lks_memory_allocation_count(void)
{
    return memory_allocation_count;
}

lks_status lks_memory_allocate(void **out, size_t count, size_t element_bytes)
{
    size_t bytes;
    void *block = NULL;
    if (__builtin_mul_overflow(count, element_bytes, &bytes) || bytes > SIZE_MAX / 2 ||
        posix_memalign(&block, LKS_ALIGNMENT, bytes ? bytes : 1) != 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for %zu elements of %zu bytes", count,
                        element_bytes);
    memory_count();
    memset(block, 0, bytes);
    memcpy(out, &block, sizeof block); /* *out may have any pointer type */
    return LKS_OK;
}

void lks_memory_free(void *block)
{
    free(block);
}

lks_status lks_memory_grow(void **array, size_t *capacity, size_t count, size_t element_bytes)
{
    if (count <= *capacity)
        return LKS_OK;
    size_t wanted = *capacity < 8 ? 8 : *capacity + *capacity / 2;
    if (wanted < count)
        wanted = count;
    void *larger = NULL, *old;
    LKS_TRY(lks_memory_allocate(&larger, wanted, element_bytes));
    memcpy(&old, array, sizeof old);
    if (old)
        memcpy(larger, old, *capacity * element_bytes);
    free(old);
    memcpy(array, &larger, sizeof larger);
    *capacity = wanted;
    return LKS_OK;
}

/* --- Mapped memory -------------------------------------------------------- */

enum { MEMORY_HUGE_PAGE = 2 << 20 };

static size_t memory_map_bytes(size_t bytes)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t unit = bytes >= MEMORY_HUGE_PAGE ? MEMORY_HUGE_PAGE : page;
    return lks_round_up(bytes ? bytes : 1, unit);
}

lks_status lks_memory_map(void **out, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for %zu bytes", bytes);
    size_t size = memory_map_bytes(bytes);
    size_t slack = bytes >= MEMORY_HUGE_PAGE ? MEMORY_HUGE_PAGE : 0;
    char *start =
        mmap(NULL, size + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for %zu bytes: %s", bytes, strerror(errno));
    if (slack) {
        size_t before = lks_round_up((uintptr_t)start, slack) - (uintptr_t)start;
        if (before)
            munmap(start, before);
        start += before;
        if (slack - before)
            munmap(start + size, slack - before);
        madvise(start, size, MADV_HUGEPAGE); /* advice: a kernel without them is fine */
    }
    memory_count();
    void *block = start;
    memcpy(out, &block, sizeof block);
    return LKS_OK;
}

void lks_memory_unmap(void *block, size_t bytes)
{
    if (block)
        munmap(block, memory_map_bytes(bytes));
}

/* --- Arena ---------------------------------------------------------------- */

enum { ARENA_ALIGNMENT = 16, ARENA_CHUNK_BYTES = 16384 };

typedef struct arena_chunk {
    struct arena_chunk *next;
    size_t used, size;
    _Alignas(ARENA_ALIGNMENT) char data[];
} arena_chunk;

struct lks_arena {
    arena_chunk *chunks; /* the first has the free space */
};

lks_status lks_arena_create(lks_arena **out)
{
    return LKS_NEW(out);
}

void lks_arena_destroy(lks_arena *arena)
{
    if (!arena)
        return;
    for (arena_chunk *chunk = arena->chunks; chunk;) {
        arena_chunk *next = chunk->next;
        lks_memory_free(chunk);
        chunk = next;
    }
    lks_memory_free(arena);
}

static arena_chunk *arena_add_chunk(lks_arena *arena, size_t bytes)
{
    size_t size = bytes > ARENA_CHUNK_BYTES ? bytes : ARENA_CHUNK_BYTES;
    void *memory;
    if (lks_memory_allocate(&memory, 1, sizeof(arena_chunk) + size) != LKS_OK)
        return NULL;
    arena_chunk *chunk = memory;
    chunk->size = size;
    chunk->next = arena->chunks;
    arena->chunks = chunk;
    return chunk;
}

void *lks_arena_allocate(lks_arena *arena, size_t bytes)
{
    if (bytes > SIZE_MAX / 2)
        return NULL;
    bytes = lks_round_up(bytes ? bytes : 1, ARENA_ALIGNMENT);
    arena_chunk *chunk = arena->chunks;
    if (!chunk || chunk->size - chunk->used < bytes)
        chunk = arena_add_chunk(arena, bytes);
    if (!chunk)
        return NULL;
    void *block = chunk->data + chunk->used;
    chunk->used += bytes;
    return block;
}

char *lks_arena_copy(lks_arena *arena, const char *text)
{
    size_t bytes = strlen(text) + 1;
    char *copy = lks_arena_allocate(arena, bytes);
    if (copy)
        memcpy(copy, text, bytes);
    return copy;
}

char *lks_arena_format(lks_arena *arena, const char *format, ...)
{
    va_list arguments, again;
    va_start(arguments, format);
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    char *text = length < 0 ? NULL : lks_arena_allocate(arena, (size_t)length + 1);
    if (text)
        vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}
