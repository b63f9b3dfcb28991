#include "runtime/graph/offsets.h"
#include "runtime/base/memory.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void include(const lks_storage *storage, size_t *arena_bytes)
{
    if (storage->offset + storage->bytes > *arena_bytes)
        *arena_bytes = storage->offset + storage->bytes;
}

typedef struct ranking {
    const lks_storage *storages;
    int (*compare)(const lks_storage *, const lks_storage *);
} ranking;

static int ranking_compare(const void *a, const void *b, void *context)
{
    const ranking *by = context;
    size_t x = *(const size_t *)a, y = *(const size_t *)b;
    int order = by->compare(&by->storages[x], &by->storages[y]);
    return order != 0 ? order : x < y ? -1 : x > y;
}

static void sort(size_t *order, const lks_storage *storages, size_t count,
                 int (*compare)(const lks_storage *, const lks_storage *))
{
    ranking by = {storages, compare};
    for (size_t i = 0; i < count; ++i)
        order[i] = i;
    qsort_r(order, count, sizeof *order, ranking_compare, &by);
}

/* --- The largest first, each into the best gap ------------------------------------- */

typedef struct shelf {
    lks_storage *storages;
    size_t *order;  /* by size */
    size_t *placed; /* those that have an offset, by offset */
} shelf;

static int compare_sizes(const lks_storage *x, const lks_storage *y)
{
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return x->first < y->first ? -1 : x->first > y->first;
}

/* The smallest gap that fits between those placed storages that live at the same time. */
static size_t find_offset(const shelf *s, size_t placed_count, const lks_storage *wanted)
{
    size_t best = SIZE_MAX, best_gap = SIZE_MAX, end = 0;
    for (size_t i = 0; i < placed_count; ++i) {
        const lks_storage *other = &s->storages[s->placed[i]];
        if (other->last < wanted->first || other->first > wanted->last)
            continue;
        if (other->offset > end && other->offset - end >= wanted->bytes &&
            other->offset - end < best_gap) {
            best = end;
            best_gap = other->offset - end;
        }
        if (other->offset + other->bytes > end)
            end = other->offset + other->bytes;
    }
    return best != SIZE_MAX ? best : end;
}

static void insert_placed(const shelf *s, size_t placed_count, size_t index)
{
    size_t at = placed_count;
    while (at > 0 && s->storages[s->placed[at - 1]].offset > s->storages[index].offset) {
        s->placed[at] = s->placed[at - 1];
        --at;
    }
    s->placed[at] = index;
}

static lks_status place_largest_first(lks_storage *storages, size_t count, size_t *arena_bytes)
{
    shelf s = {.storages = storages};
    lks_status status;
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&s.order, count), done);
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&s.placed, count), done);
    sort(s.order, storages, count, compare_sizes);
    for (size_t i = 0; i < count; ++i) {
        lks_storage *wanted = &storages[s.order[i]];
        wanted->offset = find_offset(&s, i, wanted);
        insert_placed(&s, i, s.order[i]);
        include(wanted, arena_bytes);
    }
done:
    lks_memory_free(s.order);
    lks_memory_free(s.placed);
    return status;
}

/* --- In the order of steps, as a heap would ------------------------------------------ */

typedef struct gap {
    size_t start, end;
} gap;

/* By offset, none touching the next; the last has no end. */
typedef struct gaps {
    gap *items;
    size_t count, capacity;
} gaps;

/* The start of the smallest gap that fits. */
static size_t gaps_take(gaps *g, size_t bytes)
{
    size_t best = g->count - 1;
    for (size_t i = 0; i < g->count; ++i) {
        size_t room = g->items[i].end - g->items[i].start;
        if (room >= bytes && room < g->items[best].end - g->items[best].start)
            best = i;
    }
    gap *taken = &g->items[best];
    size_t start = taken->start;
    taken->start += bytes;
    if (taken->start == taken->end)
        memmove(taken, taken + 1, (--g->count - best) * sizeof *taken);
    return start;
}

static size_t gaps_after(const gaps *g, size_t offset)
{
    size_t low = 0, high = g->count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (g->items[middle].start < offset)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static lks_status gaps_give(gaps *g, size_t start, size_t end)
{
    size_t at = gaps_after(g, start);
    bool joins_before = at > 0 && g->items[at - 1].end == start;
    bool joins_after = g->items[at].start == end;
    if (joins_before && joins_after) {
        g->items[at - 1].end = g->items[at].end;
        memmove(&g->items[at], &g->items[at + 1], (--g->count - at) * sizeof *g->items);
    } else if (joins_before) {
        g->items[at - 1].end = end;
    } else if (joins_after) {
        g->items[at].start = start;
    } else {
        LKS_TRY(LKS_GROW(&g->items, &g->capacity, g->count + 1));
        memmove(&g->items[at + 1], &g->items[at], (g->count++ - at) * sizeof *g->items);
        g->items[at] = (gap){start, end};
    }
    return LKS_OK;
}

static int compare_births(const lks_storage *x, const lks_storage *y)
{
    if (x->first != y->first)
        return x->first < y->first ? -1 : 1;
    return compare_sizes(x, y);
}

static int compare_deaths(const lks_storage *x, const lks_storage *y)
{
    return x->last < y->last ? -1 : x->last > y->last;
}

/* One pass over births and deaths; as long as few gaps are open at once, in time n log n. */
static lks_status place_in_time(lks_storage *storages, size_t count, size_t *arena_bytes)
{
    gaps g = {0};
    size_t *births = NULL, *deaths = NULL;
    lks_status status;
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&births, count), done);
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&deaths, count), done);
    LKS_TRY_GOTO(status, LKS_GROW(&g.items, &g.capacity, 1), done);
    g.items[g.count++] = (gap){0, SIZE_MAX};
    sort(births, storages, count, compare_births);
    sort(deaths, storages, count, compare_deaths);
    for (size_t b = 0, d = 0; b < count; ++b) {
        lks_storage *born = &storages[births[b]];
        for (; storages[deaths[d]].last < born->first; ++d) {
            const lks_storage *dead = &storages[deaths[d]];
            LKS_TRY_GOTO(status, gaps_give(&g, dead->offset, dead->offset + dead->bytes), done);
        }
        born->offset = gaps_take(&g, born->bytes);
        include(born, arena_bytes);
    }
done:
    lks_memory_free(g.items);
    lks_memory_free(births);
    lks_memory_free(deaths);
    return status;
}

lks_status lks_offsets_place(lks_storage *storages, size_t count, size_t *arena_bytes)
{
    *arena_bytes = 0;
    if (count <= LKS_OFFSETS_LARGEST_FIRST_MAX)
        return place_largest_first(storages, count, arena_bytes);
    return place_in_time(storages, count, arena_bytes);
}
