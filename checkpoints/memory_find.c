/* What the nodes hold of this run, and the newest step that it covers. */
#include "checkpoints/memory_state.h"
#include "runtime/base/files.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

#include <stdlib.h>
#include <string.h>

/* All ranks' entries, in rank order; `mine` are this rank's among them. */
typedef struct inventory {
    lks_memory_entry *all;
    size_t count, first_mine, mine;
} inventory;

typedef struct entries {
    lks_memory_entry *items;
    size_t count, capacity;
} entries;

static lks_status check_entry(const lks_memory_copies *c, const char *name, bool data,
                              lks_memory_entry *entry)
{
    void *map;
    size_t bytes;
    char *path = lks_files_join(c->directory, name);
    if (path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    lks_status status = lks_memory_map_file(path, &map, &bytes);
    if (status == LKS_OK)
        status = lks_memory_check_header(&c->identity, map, bytes, path);
    if (status == LKS_OK && data)
        status = lks_memory_check_data(&c->identity, map, path);
    if (status == LKS_OK && !data) {
        const lks_memory_header *h = map;
        *entry = (lks_memory_entry){.step = h->step,
                                    .start = h->start,
                                    .world_size = h->world_size,
                                    .rank = h->rank,
                                    .first_block = h->first_block,
                                    .end_block = h->end_block,
                                    .holder = lks_comm_rank(c->comm),
                                    .valid = 1};
        snprintf(entry->name, sizeof entry->name, "%s", name);
        snprintf(entry->note, sizeof entry->note, "%s", h->note);
        snprintf(entry->arithmetic, sizeof entry->arithmetic, "%s", h->arithmetic);
    }
    lks_memory_unmap_file(map, bytes);
    free(path);
    return status;
}

/* The node's ranks share the work: each looks at every so many-th file. */
static lks_status list_mine(const lks_memory_copies *c, entries *out)
{
    lks_file_list list;
    size_t turn = 0;
    LKS_TRY(lks_files_list(c->directory, &list));
    lks_status status = LKS_OK;
    for (size_t i = 0; i < list.count && status == LKS_OK; ++i) {
        const char *name = list.names[i];
        if (strncmp(name, c->prefix, LKS_MEMORY_PREFIX) != 0 ||
            strncmp(name + LKS_MEMORY_PREFIX, "step-", 5) != 0 || strlen(name) >= LKS_MEMORY_NAME ||
            turn++ % (size_t)lks_comm_local_size(c->comm) != (size_t)lks_comm_local_rank(c->comm))
            continue;
        status = LKS_GROW(&out->items, &out->capacity, out->count + 1);
        if (status != LKS_OK)
            break;
        if (check_entry(c, name, false, &out->items[out->count]) == LKS_OK)
            ++out->count;
        else
            lks_log_warn("passed over a copy in node memory: %s", lks_status_message());
    }
    lks_file_list_release(&list);
    return status;
}

static lks_status gather(const lks_memory_copies *c, const lks_memory_entry *mine, inventory *all)
{
    size_t size = (size_t)lks_comm_size(c->comm);
    size_t *bytes;
    LKS_TRY(LKS_NEW_ARRAY(&bytes, size));
    for (size_t r = 0; r < size; ++r)
        bytes[r] = all->mine * sizeof *mine * (r == (size_t)lks_comm_rank(c->comm));
    size_t own = bytes[lks_comm_rank(c->comm)], *widths;
    lks_status status = LKS_NEW_ARRAY(&widths, size);
    for (size_t r = 0; r < size && status == LKS_OK; ++r)
        widths[r] = sizeof own;
    if (status == LKS_OK)
        status = lks_comm_all_gather(c->comm, &own, bytes, widths);
    lks_memory_free(widths);
    all->count = 0;
    for (size_t r = 0; r < size && status == LKS_OK; ++r) {
        if (r == (size_t)lks_comm_rank(c->comm))
            all->first_mine = all->count;
        all->count += bytes[r] / sizeof *mine;
    }
    if (status == LKS_OK)
        status = lks_comm_agree(c->comm, LKS_NEW_ARRAY(&all->all, all->count));
    if (status == LKS_OK)
        status = lks_comm_all_gather(c->comm, mine, all->all, bytes);
    lks_memory_free(bytes);
    return status;
}

/* --- Sets: entries of one start and one step -------------------------------------- */

static bool same_set(const lks_memory_entry *a, const lks_memory_entry *b)
{
    return a->step == b->step && a->start == b->start && a->world_size == b->world_size;
}

static int by_set(const void *left, const void *right)
{
    const lks_memory_entry *a = left, *b = right;
    if (a->step != b->step)
        return a->step < b->step ? 1 : -1;
    if (a->start != b->start)
        return a->start < b->start ? 1 : -1;
    if (a->world_size != b->world_size)
        return a->world_size < b->world_size ? 1 : -1;
    if (a->rank != b->rank)
        return a->rank < b->rank ? -1 : 1;
    return a->holder < b->holder ? -1 : a->holder > b->holder;
}

/* set[0..count) is sorted by rank. Whether blocks follow each other to the end; else *missing rank. */
static bool covers(const lks_memory_copies *c, const lks_memory_entry *set, size_t count,
                   uint32_t *missing)
{
    uint32_t rank = 0, block = 0;
    for (size_t i = 0; i < count && rank < set->world_size; ++i) {
        if (set[i].rank != rank || !set[i].valid || set[i].first_block != block)
            continue;
        block = set[i].end_block;
        ++rank;
    }
    *missing = rank;
    return rank == set->world_size && block == c->identity.layout->block_count;
}

/* Reads what this rank holds of the set. A block that does not hold makes its file useless. */
static void verify_mine(const lks_memory_copies *c, lks_memory_entry *set, size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        if (set[i].holder != lks_comm_rank(c->comm) ||
            check_entry(c, set[i].name, true, NULL) == LKS_OK)
            continue;
        lks_log_warn("passed over a copy in node memory: %s", lks_status_message());
        set[i].valid = 0;
    }
}

/* Everybody learns what everybody found. */
static lks_status share_verdicts(lks_memory_copies *c, lks_memory_entry *set, size_t count)
{
    size_t size = (size_t)lks_comm_size(c->comm);
    size_t *counts;
    unsigned char *mine, *all;
    LKS_TRY(LKS_NEW_ARRAY(&counts, size));
    LKS_TRY(LKS_NEW_ARRAY(&mine, count));
    LKS_TRY(LKS_NEW_ARRAY(&all, count * size));
    for (size_t r = 0; r < size; ++r)
        counts[r] = count;
    for (size_t i = 0; i < count; ++i)
        mine[i] = (unsigned char)set[i].valid;
    lks_status status = lks_comm_all_gather(c->comm, mine, all, counts);
    for (size_t i = 0; i < count && status == LKS_OK; ++i)
        set[i].valid = all[(size_t)set[i].holder * count + i];
    lks_memory_free(all);
    lks_memory_free(mine);
    lks_memory_free(counts);
    return status;
}

static lks_status try_set(lks_memory_copies *c, lks_memory_entry *set, size_t count)
{
    uint32_t missing;
    bool whole = covers(c, set, count, &missing);
    if (whole) {
        verify_mine(c, set, count);
        LKS_TRY(share_verdicts(c, set, count));
        whole = covers(c, set, count, &missing);
    }
    if (!whole) {
        lks_log_root("node memory: the copy of step %llu is not whole: rank %u's of %u is missing",
                     (unsigned long long)set->step, missing, set->world_size);
        return LKS_OK;
    }
    LKS_TRY(lks_comm_agree(c->comm, LKS_NEW_ARRAY(&c->found, count)));
    for (size_t i = 0; i < count; ++i)
        if (set[i].valid)
            c->found[c->found_count++] = set[i];
    return LKS_OK;
}

static lks_status choose(lks_memory_copies *c, inventory *all)
{
    if (all->count > 0)
        qsort(all->all, all->count, sizeof *all->all, by_set);
    for (size_t i = 0, end; i < all->count && c->found == NULL; i = end) {
        for (end = i + 1; end < all->count && same_set(&all->all[i], &all->all[end]); ++end)
            ;
        LKS_TRY(try_set(c, all->all + i, end - i));
    }
    return LKS_OK;
}

lks_status lks_memory_search(lks_memory_copies *c)
{
    entries mine = {0};
    inventory all = {0};
    lks_status status = list_mine(c, &mine);
    if (status != LKS_OK) {
        lks_log_verbose("node memory is not looked at: %s", lks_status_message());
        mine.count = 0;
    }
    all.mine = mine.count;
    status = gather(c, mine.items, &all);
    if (status == LKS_OK)
        status = choose(c, &all);
    lks_memory_free(all.all);
    lks_memory_free(mine.items);
    return status;
}
