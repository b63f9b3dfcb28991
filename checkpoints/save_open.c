#include "checkpoints/directory.h"
#include "checkpoints/save.h"

#include "runtime/base/clock.h"
#include "runtime/base/files.h"
#include "runtime/base/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- The directory -------------------------------------------------------------- */

static lks_status probe_path(const lks_checkpoints *c, uint64_t nonce, char **out)
{
    char name[LKS_STEP_NAME];
    snprintf(name, sizeof name, "probe.partial-%016llx", (unsigned long long)nonce);
    *out = lks_files_join(c->directory, name);
    return *out != NULL ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
}

/* Root: the directory is there, clean, and a new directory can be made in it. */
static lks_status prepare_directory(lks_checkpoints *c, const char *probe)
{
    LKS_TRY(lks_files_make_directories(c->directory));
    LKS_TRY(lks_directory_clean(c->directory));
    if (mkdir(probe, 0777) != 0)
        return LKS_FAIL(LKS_ERR_IO,
                        "cannot write to %s: %s; give a run directory that can be written",
                        c->directory, strerror(errno));
    return LKS_OK;
}

static lks_status see_probe(const lks_checkpoints *c, const char *probe)
{
    if (lks_files_is_directory(probe))
        return LKS_OK;
    return LKS_FAIL(
        LKS_ERR_IO,
        "%s does not see what %s made in %s: the run directory must lie on a file system "
        "that all hosts share",
        lks_comm_host(c->comm, lks_comm_rank(c->comm)), lks_comm_host(c->comm, 0), c->directory);
}

/* (collective) */
static lks_status share_directory(lks_checkpoints *c)
{
    uint64_t nonce = lks_step_nonce();
    char *probe;
    LKS_TRY(lks_comm_broadcast(c->comm, 0, &nonce, sizeof nonce));
    LKS_TRY(probe_path(c, nonce, &probe));
    lks_status status = lks_comm_agree(c->comm, c->root ? prepare_directory(c, probe) : LKS_OK);
    if (status == LKS_OK)
        status = lks_comm_agree(c->comm, see_probe(c, probe));
    if (c->root)
        rmdir(probe);
    free(probe);
    return status;
}

/* --- Memory --------------------------------------------------------------------- */

static lks_status make_messages(lks_save_messages *messages, int count)
{
    messages->count = count;
    return LKS_NEW_ARRAY(&messages->requests, (size_t)count);
}

static lks_status make_report(lks_checkpoints *c, int rank)
{
    size_t blocks = c->first_blocks[rank + 1] - c->first_blocks[rank];
    void *report;
    LKS_TRY(lks_memory_allocate(&report, 1,
                                sizeof(lks_save_report) +
                                    (size_t)c->map.group_count * blocks * sizeof(uint64_t)));
    c->reports[rank] = report;
    return LKS_OK;
}

static lks_status make_message_buffers(lks_checkpoints *c)
{
    int size = lks_comm_size(c->comm), own = lks_comm_rank(c->comm);
    void *plan;
    c->plan_bytes = sizeof(lks_save_plan) +
                    (size_t)c->map.group_count * c->layout->tensor_count * sizeof(uint64_t);
    LKS_TRY(lks_memory_allocate(&plan, 1, c->plan_bytes));
    c->plan = plan;
    LKS_TRY(LKS_NEW_ARRAY(&c->reports, (size_t)size));
    for (int r = 0; r < size; ++r) {
        if (c->root || r == own)
            LKS_TRY(make_report(c, r));
    }
    int count = c->root ? size - 1 : 1;
    LKS_TRY(make_messages(&c->plans, count));
    LKS_TRY(make_messages(&c->report_messages, count));
    return make_messages(&c->results, count);
}

static lks_status make_staging(lks_checkpoints *c)
{
    if (c->first_block < c->end_block) {
        const lks_layout_block *first = &c->layout->blocks[c->first_block];
        const lks_layout_block *last = &c->layout->blocks[c->end_block - 1];
        c->span_bytes = (last->offset + last->elements - first->offset) * sizeof(float);
    }
    uint64_t bytes = c->span_bytes * (uint64_t)c->map.group_count;
    for (int i = 0; bytes > 0 && i < c->stats.buffers; ++i) {
        void *staging;
        LKS_TRY(lks_memory_map(&staging, bytes));
        c->snapshots[i].staging = staging;
        c->stats.staging_bytes += bytes;
    }
    return LKS_OK;
}

/* (collective) Who owns what; the blocks of all ranks follow each other and are all there are. */
static lks_status gather_blocks(lks_checkpoints *c)
{
    int size = lks_comm_size(c->comm);
    uint32_t mine[2] = {c->first_block, c->end_block};
    uint32_t(*all)[2];
    size_t *counts = NULL;
    LKS_TRY(LKS_NEW_ARRAY(&c->first_blocks, (size_t)size + 1));
    LKS_TRY(LKS_NEW_ARRAY(&all, (size_t)size));
    lks_status status;
    LKS_TRY_GOTO(status, LKS_NEW_ARRAY(&counts, (size_t)size), free_all);
    for (int r = 0; r < size; ++r)
        counts[r] = sizeof mine;
    LKS_TRY_GOTO(status, lks_comm_all_gather(c->comm, mine, all, counts), free_counts);
    for (int r = 0; status == LKS_OK && r < size; ++r) {
        if (all[r][0] != c->first_blocks[r] || all[r][1] < all[r][0])
            status =
                LKS_FAIL(LKS_ERR_INTERNAL, "rank %d would save blocks %u to %u, rank %d ends at %u",
                         r, all[r][0], all[r][1], r - 1, c->first_blocks[r]);
        c->first_blocks[r + 1] = all[r][1];
    }
    if (status == LKS_OK && c->first_blocks[size] != c->layout->block_count)
        status = LKS_FAIL(LKS_ERR_INTERNAL, "the ranks would save %u of %u blocks",
                          c->first_blocks[size], c->layout->block_count);
free_counts:
    lks_memory_free(counts);
free_all:
    lks_memory_free(all);
    return status;
}

static lks_status make_own(lks_checkpoints *c, const lks_checkpoints_spec *spec)
{
    c->directory = lks_files_join(spec->run_directory, "checkpoints");
    if (c->directory == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    LKS_TRY(lks_state_map_init(&c->map, c->layout, spec->array_count));
    for (int g = 0; g < spec->array_count; ++g)
        LKS_TRY(
            lks_state_map_name(&c->map, g, spec->arrays[g].group, spec->arrays[g].parameters_only));
    LKS_TRY(lks_state_map_check_names(&c->map));
    LKS_TRY(make_staging(c));
    return lks_worker_open(&c->worker);
}

/* --- Open and close --------------------------------------------------------------- */

static void free_messages(lks_save_messages *messages)
{
    lks_memory_free(messages->requests);
}

static void release(lks_checkpoints *c)
{
    lks_worker_close(c->worker);
    if (c->reports != NULL) {
        for (int r = 0; r < lks_comm_size(c->comm); ++r)
            lks_memory_free(c->reports[r]);
    }
    lks_memory_free(c->reports);
    lks_memory_free(c->plan);
    free_messages(&c->plans);
    free_messages(&c->report_messages);
    free_messages(&c->results);
    for (int i = 0; i < c->stats.buffers; ++i) {
        if (c->snapshots[i].staging != NULL)
            lks_memory_unmap(c->snapshots[i].staging, c->span_bytes * (uint64_t)c->map.group_count);
        lks_save_forget(&c->snapshots[i]);
    }
    lks_state_map_release(&c->map);
    lks_memory_free(c->first_blocks);
    json_decref(c->manifest);
    if (c->image >= 0)
        close(c->image);
    lks_text_release(&c->identity);
    lks_text_release(&c->afterwards);
    free(c->partial_path);
    free(c->directory);
    lks_memory_free(c);
}

/* (collective) */
static lks_status open_all(lks_checkpoints *c, const lks_checkpoints_spec *spec)
{
    LKS_TRY(lks_comm_agree(c->comm, make_own(c, spec)));
    LKS_TRY(gather_blocks(c));
    LKS_TRY(lks_comm_agree(c->comm, make_message_buffers(c)));
    size_t messages = 3 * (size_t)lks_comm_size(c->comm); /* plans, reports, results */
    LKS_TRY(lks_comm_agree(c->comm, lks_comm_reserve(c->comm, messages, 1)));
    return share_directory(c);
}

lks_status lks_checkpoints_open(lks_checkpoints **out, const lks_checkpoints_spec *spec)
{
    lks_checkpoints *c;
    LKS_TRY(lks_comm_agree(spec->comm, LKS_NEW(&c)));
    c->comm = spec->comm;
    c->image = -1;
    c->root = lks_comm_rank(spec->comm) == 0;
    c->stats.buffers = spec->buffers == 1 ? 1 : LKS_SAVE_BUFFERS;
    c->keep = spec->keep < 1 ? 1 : spec->keep;
    c->keep_best = spec->keep_best;
    c->may_commit = spec->may_commit;
    c->user = spec->user;
    c->layout = spec->layout;
    c->first_block = spec->first_block;
    c->end_block = spec->end_block;
    lks_status status = open_all(c, spec);
    if (status != LKS_OK) {
        release(c);
        return status;
    }
    lks_worker_start(c->worker, lks_save_warm, c);
    *out = c;
    return LKS_OK;
}

void lks_checkpoints_close(lks_checkpoints *checkpoints)
{
    if (checkpoints == NULL)
        return;
    bool saved;
    lks_status status = lks_checkpoints_finish(checkpoints, &saved);
    /* Before all else: its task reads the layout and calls may_commit, which the caller closes next. */
    lks_worker_close(checkpoints->worker);
    checkpoints->worker = NULL;
    /* A message that could not be given up may still be written into this memory: then it is left
     * to the end of the process, which is near. */
    if (status == LKS_OK || lks_save_cancel(checkpoints))
        release(checkpoints);
}

lks_checkpoints_stats lks_checkpoints_get_stats(const lks_checkpoints *checkpoints)
{
    lks_checkpoints_stats stats = checkpoints->stats;
    if (lks_save_is_under_way(checkpoints))
        stats.running_seconds = lks_clock_seconds_since(checkpoints->start_ns);
    return stats;
}
