#include "runtime/base/memory.h"
#include "checkpoints/directory.h"
#include "checkpoints/memory_state.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* --- Open ------------------------------------------------------------------------- */

static lks_status exchange_blocks(lks_memory_copies *c, const lks_memory_spec *spec)
{
    size_t size = (size_t)lks_comm_size(c->comm), *counts;
    LKS_TRY(LKS_NEW_ARRAY(&counts, size));
    for (size_t r = 0; r < size; ++r)
        counts[r] = sizeof *c->first_blocks;
    lks_status status = lks_comm_all_gather(c->comm, &spec->first_block, c->first_blocks, counts);
    c->first_blocks[size] = spec->layout->block_count;
    lks_memory_free(counts);
    return status;
}

static lks_status prepare(lks_memory_copies *c, const lks_memory_spec *spec)
{
    LKS_TRY(LKS_NEW_ARRAY(&c->first_blocks, (size_t)lks_comm_size(c->comm) + 1));
    c->directory = strdup(spec->directory);
    c->run_directory = strdup(spec->run_directory);
    if (c->directory == NULL || c->run_directory == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    lks_memory_identity_init(&c->identity, spec);
    snprintf(c->prefix, sizeof c->prefix, "lockstep-%.16s-%016llx-", spec->run_id,
             (unsigned long long)c->identity.common.run_hash);
    return LKS_OK;
}

/* What rank 0 knows for all. */
typedef struct memory_root {
    uint64_t start, disk_step;
    const char *run_directory;
} memory_root;

static lks_status look_on_root(void *user)
{
    memory_root *root = user;
    root->start = lks_step_nonce();
    root->disk_step = lks_memory_disk_step(root->run_directory);
    return LKS_OK;
}

static lks_status memory_open(lks_memory_copies *c, const lks_memory_spec *spec)
{
    memory_root root = {.run_directory = spec->run_directory};
    LKS_TRY(lks_comm_agree(c->comm, prepare(c, spec)));
    LKS_TRY(exchange_blocks(c, spec));
    LKS_TRY(lks_comm_on_root(c->comm, look_on_root, &root));
    LKS_TRY(lks_comm_broadcast(c->comm, 0, &root.start, sizeof root.start));
    LKS_TRY(lks_comm_broadcast(c->comm, 0, &root.disk_step, sizeof root.disk_step));
    c->start = root.start;
    c->disk_step = root.disk_step;
    if (lks_memory_lock(c) != LKS_OK)
        lks_log_verbose("node memory: %s", lks_status_message());
    if (lks_memory_leads(c) && lks_memory_clean_others(c) != LKS_OK)
        lks_log_verbose("node memory: %s", lks_status_message());
    return lks_memory_search(c);
}

lks_status lks_memory_copies_open(lks_memory_copies **out, const lks_memory_spec *spec)
{
    lks_memory_copies *c;
    LKS_TRY(lks_comm_agree(spec->comm, LKS_NEW(&c)));
    c->comm = spec->comm;
    c->lock = -1;
    c->whole = c->to = -1;
    lks_status status = memory_open(c, spec);
    if (status != LKS_OK) {
        lks_memory_copies_close(c);
        return status;
    }
    *out = c;
    return LKS_OK;
}

lks_memory_found lks_memory_copies_find(const lks_memory_copies *copies)
{
    lks_memory_found found = {.there = copies->found != NULL};
    if (!found.there)
        return found;
    found.step = copies->found->step;
    found.disk_is_newer = copies->disk_step > found.step;
    found.note = copies->found->note;
    found.arithmetic = copies->found->arithmetic;
    found.files = copies->found_count;
    for (int i = 0; i < copies->found_count; ++i) {
        bool seen = false;
        for (int j = 0; j < i; ++j)
            seen = seen || lks_comm_node_of(copies->comm, copies->found[j].holder) ==
                               lks_comm_node_of(copies->comm, copies->found[i].holder);
        found.nodes += !seen;
    }
    return found;
}

/* --- Begin -------------------------------------------------------------------------- */

/* The `index`-th rank, counted around, of a node. */
static int rank_on_node(const lks_memory_copies *c, int node, int index)
{
    int size = lks_comm_size(c->comm), count = 0;
    for (int r = 0; r < size; ++r)
        count += lks_comm_node_of(c->comm, r) == node;
    for (int r = 0, seen = 0; r < size; ++r) {
        if (lks_comm_node_of(c->comm, r) == node && seen++ == index % count)
            return r;
    }
    return -1;
}

/* The rank on the next node that keeps rank r's blocks too; -1 on one node. */
static int neighbour_of(const lks_memory_copies *c, int rank)
{
    int nodes = lks_comm_node_count(c->comm), index = 0;
    int node = lks_comm_node_of(c->comm, rank);
    if (nodes < 2)
        return -1;
    for (int r = 0; r < rank; ++r)
        index += lks_comm_node_of(c->comm, r) == node;
    return rank_on_node(c, (node + 1) % nodes, index);
}

static void add_series(lks_memory_copies *c, int rank)
{
    c->series[c->series_count++] =
        (lks_memory_series){.rank = rank,
                            .shape = lks_memory_shape_of(&c->identity, c->first_blocks[rank],
                                                         c->first_blocks[rank + 1])};
}

static lks_status plan_series(lks_memory_copies *c)
{
    int size = lks_comm_size(c->comm), me = lks_comm_rank(c->comm);
    size_t largest = 0;
    LKS_TRY(LKS_NEW_ARRAY(&c->series, (size_t)size));
    add_series(c, me);
    c->to = neighbour_of(c, me);
    for (int r = 0; r < size; ++r)
        if (r != me && neighbour_of(c, r) == me)
            add_series(c, r);
    for (int i = 0; i < c->series_count; ++i)
        if (c->series[i].shape.bytes > largest)
            largest = c->series[i].shape.bytes;
    return size > 1 ? lks_comm_reserve(c->comm, (size_t)c->series_count, largest) : LKS_OK;
}

/* Two generations of all that the node's ranks keep. */
static uint64_t node_bytes(const lks_memory_copies *c)
{
    uint64_t bytes = 0;
    int node = lks_comm_node(c->comm);
    for (int r = 0; r < lks_comm_size(c->comm); ++r) {
        int to = neighbour_of(c, r);
        int kept = (lks_comm_node_of(c->comm, r) == node) +
                   (to >= 0 && lks_comm_node_of(c->comm, to) == node);
        bytes +=
            (uint64_t)kept * LKS_MEMORY_SLOTS *
            lks_memory_shape_of(&c->identity, c->first_blocks[r], c->first_blocks[r + 1]).bytes;
    }
    return bytes;
}

static lks_status make_room(lks_memory_copies *c)
{
    if (c->lock < 0)
        LKS_TRY(lks_memory_lock(c));
    /* What the job was resumed from is one of the two generations. */
    LKS_TRY(lks_memory_check_room(c, node_bytes(c) / (c->keeps_former ? 2 : 1)));
    LKS_TRY(plan_series(c));
    LKS_TRY(lks_worker_open(&c->worker));
    LKS_TRY(lks_memory_slots_make(c, 0));
    return c->keeps_former ? LKS_OK : lks_memory_slots_make(c, 1);
}

lks_status lks_memory_copies_begin(lks_memory_copies *copies, bool resumed)
{
    lks_memory_copies *c = copies;
    const lks_memory_entry *keep = resumed ? c->found : NULL;
    c->keeps_former = keep != NULL;
    /* Only now: until all ranks have read, the files are needed. */
    LKS_TRY(lks_comm_barrier(c->comm));
    if (lks_memory_leads(c) && lks_memory_clean_own(c, keep) != LKS_OK)
        lks_log_verbose("node memory: %s", lks_status_message());
    LKS_TRY(lks_comm_barrier(c->comm));
    return LKS_OK;
}

lks_status lks_memory_copies_reserve(lks_memory_copies *copies)
{
    lks_memory_copies *c = copies;
    LKS_TRY(lks_memory_all_well(c, make_room(c), &c->on));
    if (!c->on) {
        lks_memory_slots_close(c);
        return LKS_OK;
    }
    lks_memory_slots_start(c);
    return LKS_OK;
}

/* --- End ------------------------------------------------------------------------------ */

lks_status lks_memory_copies_discard(lks_memory_copies *copies)
{
    lks_memory_copies *c = copies;
    LKS_TRY(lks_memory_drain(c));
    LKS_TRY(lks_comm_barrier(c->comm));
    c->on = false;
    if (c->lock >= 0 && lks_memory_leads(c) && lks_memory_remove_run(c) != LKS_OK)
        lks_log_warn("cannot remove the job's copies from node memory: %s", lks_status_message());
    return LKS_OK;
}

void lks_memory_copies_close(lks_memory_copies *copies)
{
    if (copies == NULL)
        return;
    lks_memory_copies *c = copies;
    bool quiet = lks_memory_drain(c) == LKS_OK;
    lks_worker_close(c->worker);
    if (!quiet) {
        quiet = c->send == NULL || lks_comm_cancel(c->comm, &c->send);
        for (int i = 0; i < c->series_count; ++i)
            quiet =
                (c->series[i].receive == NULL || lks_comm_cancel(c->comm, &c->series[i].receive)) &&
                quiet;
    }
    if (quiet)
        lks_memory_slots_close(c);
    if (c->lock >= 0) {
        lks_memory_leave(c);
        close(c->lock);
    }
    lks_memory_free(c->series);
    lks_memory_free(c->found);
    lks_memory_free(c->first_blocks);
    free(c->run_directory);
    free(c->directory);
    lks_memory_free(c);
}

lks_memory_stats lks_memory_copies_get_stats(const lks_memory_copies *copies)
{
    return copies->stats;
}
