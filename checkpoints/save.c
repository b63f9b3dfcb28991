#include "checkpoints/save.h"

#include "checkpoints/directory.h"
#include "checkpoints/manifest.h"
#include "checkpoints/state_file.h"
#include "runtime/base/clock.h"
#include "runtime/base/files.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { TAG_PLAN = LKS_TAG_FREE, TAG_REPORT, TAG_RESULT };

/* --- Messages ------------------------------------------------------------------- */

static lks_status poll_messages(lks_checkpoints *c, lks_save_messages *messages, bool *done)
{
    *done = true;
    for (int i = 0; i < messages->count; ++i) {
        bool one = true;
        if (messages->requests[i] != NULL)
            LKS_TRY(lks_comm_test(c->comm, &messages->requests[i], &one, NULL));
        *done = *done && one;
    }
    return LKS_OK;
}

/* To every other rank from the root. */
static lks_status send_to_all(lks_checkpoints *c, lks_save_messages *messages, int tag,
                              const void *data, size_t bytes)
{
    for (int i = 0; i < messages->count; ++i)
        LKS_TRY(lks_comm_send(c->comm, i + 1, tag, data, bytes, &messages->requests[i]));
    return LKS_OK;
}

static size_t report_bytes(const lks_checkpoints *c, int rank)
{
    size_t blocks = c->first_blocks[rank + 1] - c->first_blocks[rank];
    return sizeof(lks_save_report) + (size_t)c->map.group_count * blocks * sizeof(uint64_t);
}

/* --- Start ---------------------------------------------------------------------- */

static lks_status set_partial(lks_checkpoints *c)
{
    lks_step_partial_name(c->partial, c->plan->step, c->plan->nonce);
    free(c->partial_path);
    c->partial_path = lks_files_join(c->directory, c->partial);
    if (c->partial_path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    return LKS_OK;
}

/* Whether this run's checkpoint of that step is there already, whole. One that was committed by this
 * process is not read again. */
static bool is_saved_already(const lks_checkpoints *c, const lks_checkpoint_info *info)
{
    char name[LKS_STEP_NAME];
    char *path = lks_files_join(c->directory, lks_step_name(name, info->step));
    bool own = c->stats.saved > 0 && c->stats.last_step == info->step;
    lks_checkpoint *there = NULL;
    if (path == NULL || !lks_files_exists(path) ||
        lks_checkpoint_open(&there, path, own ? LKS_CHECK_MANIFEST : LKS_CHECK_ALL) != LKS_OK) {
        free(path);
        return false;
    }
    const json_t *run = json_object_get(lks_checkpoint_manifest(there), "run_id");
    bool same = strcmp(json_string_value(run), info->run_id) == 0;
    lks_checkpoint_close(there);
    free(path);
    return same;
}

/* The file at its full size, so that every rank finds it. Its bytes are the workers' to write. */
static lks_status create_state(const lks_checkpoints *c)
{
    char *path = lks_files_join(c->partial_path, LKS_STATE_NAME);
    if (path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    lks_status status = LKS_OK;
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0 || ftruncate(file, (off_t)c->map.file_bytes) != 0)
        status = LKS_FAIL(LKS_ERR_IO, "cannot create %s with %llu bytes: %s", path,
                          (unsigned long long)c->map.file_bytes, strerror(errno));
    if (file >= 0)
        close(file);
    free(path);
    return status;
}

/* All of a state file's metadata but step and position. */
static void write_identity(lks_text *out, const lks_checkpoint_info *info)
{
    lks_text_append(out, "%s\n%s\n%s\n%s\n%s\n%llu", info->run_id, info->config_yaml,
                    info->model_fingerprint, info->dataset_digest, info->arithmetic,
                    (unsigned long long)info->seed);
}

/* Saves of one run differ in their step alone: the image is made for the first. */
static lks_status prepare_image(lks_checkpoints *c, const lks_checkpoint_info *info)
{
    lks_text identity = {0};
    write_identity(&identity, info);
    bool same = c->image >= 0 && !identity.failed && !c->identity.failed &&
                strcmp(identity.data, c->identity.data) == 0;
    lks_status status = same ? lks_state_image_update(c->image, info, &c->map) : LKS_OK;
    if (!same || status != LKS_OK) {
        if (c->image >= 0)
            close(c->image);
        lks_text_release(&c->identity);
        status = lks_state_image_create(&c->image, info, &c->map);
        c->identity = identity;
        identity = (lks_text){0};
    }
    lks_text_release(&identity);
    return status;
}

static lks_status create_files(lks_checkpoints *c, const lks_checkpoint_info *info)
{
    LKS_TRY(set_partial(c));
    LKS_TRY(lks_checkpoint_manifest_begin(&c->manifest, info, c->layout, lks_comm_size(c->comm)));
    LKS_TRY(prepare_image(c, info));
    if (mkdir(c->partial_path, 0777) != 0)
        return LKS_FAIL(LKS_ERR_IO, "cannot make %s: %s", c->partial_path, strerror(errno));
    return create_state(c);
}

static void remember_failure(lks_checkpoints *c, lks_status status, int rank, const char *message)
{
    if (c->result != LKS_OK)
        return;
    c->result = status;
    snprintf(c->failure, sizeof c->failure, "%s: %s", lks_comm_host(c->comm, rank), message);
}

/* Root: what everybody shall do. */
static void make_plan(lks_checkpoints *c, const lks_checkpoint_info *info)
{
    c->plan->step = info->step;
    c->plan->nonce = lks_step_nonce();
    if (is_saved_already(c, info)) {
        c->plan->verdict = LKS_SAVE_SKIP;
        return;
    }
    c->plan->verdict = LKS_SAVE_WRITE;
    lks_status status = create_files(c, info);
    if (status != LKS_OK) {
        c->plan->verdict = LKS_SAVE_FAIL;
        remember_failure(c, status, 0, lks_status_message());
        lks_status discarded = c->partial_path == NULL ? LKS_OK : lks_save_discard(c);
        (void)discarded; /* the first failure is told; the next open removes what is left */
    }
    c->plan->file_bytes = c->map.file_bytes;
    for (int g = 0; g < c->map.group_count; ++g)
        memcpy(c->plan->offsets + (size_t)g * c->layout->tensor_count, c->map.groups[g].offsets,
               c->layout->tensor_count * sizeof(uint64_t));
}

static lks_status exchange_plan(lks_checkpoints *c)
{
    if (!c->root)
        return lks_comm_receive(c->comm, 0, TAG_PLAN, c->plan, c->plan_bytes,
                                &c->plans.requests[0]);
    for (int i = 0; c->plan->verdict == LKS_SAVE_WRITE && i < c->report_messages.count; ++i)
        LKS_TRY(lks_comm_receive(c->comm, i + 1, TAG_REPORT, c->reports[i + 1],
                                 report_bytes(c, i + 1), &c->report_messages.requests[i]));
    return send_to_all(c, &c->plans, TAG_PLAN, c->plan, c->plan_bytes);
}

static void copy_to_staging(lks_checkpoints *c, const lks_state_array *arrays)
{
    for (int g = 0; g < c->map.group_count; ++g) {
        for (uint32_t b = c->first_block; b < c->end_block; ++b) {
            const lks_layout_block *block = &c->layout->blocks[b];
            if (!lks_state_map_has(&c->map, g, block->tensor))
                continue;
            uint64_t within = block->offset - c->layout->blocks[c->first_block].offset;
            memcpy(c->staging + (uint64_t)g * c->span_bytes + within * sizeof(float),
                   arrays[g].data + (block->offset - arrays[g].base_offset),
                   block->elements * sizeof(float));
        }
    }
}

static lks_status start(lks_checkpoints *c, const lks_state_array *arrays,
                        const lks_checkpoint_info *info)
{
    c->start_ns = lks_clock_ns();
    c->saved = false;
    c->result = LKS_OK;
    if (c->root)
        make_plan(c, info);
    LKS_TRY(exchange_plan(c));
    copy_to_staging(c, arrays);
    c->phase = LKS_SAVE_PLANNING;
    return LKS_OK;
}

/* --- End ------------------------------------------------------------------------ */

static void warn(lks_checkpoints *c)
{
    if (c->root && c->result != LKS_OK)
        lks_log_warn("the checkpoint of step %llu is given up: %s; training goes on",
                     (unsigned long long)c->plan->step, c->failure);
    if (c->root && c->afterwards.length > 0)
        lks_log_warn("the checkpoint of step %llu is saved, but: %s",
                     (unsigned long long)c->plan->step, c->afterwards.data);
    lks_text_clear(&c->afterwards);
}

static void conclude(lks_checkpoints *c)
{
    c->phase = LKS_SAVE_IDLE;
    bool written = c->plan->verdict == LKS_SAVE_WRITE && c->result == LKS_OK;
    c->saved = written || c->plan->verdict == LKS_SAVE_SKIP;
    warn(c);
    json_decref(c->manifest);
    c->manifest = NULL;
    if (!c->saved)
        ++c->stats.failed;
    if (c->saved)
        c->stats.last_step = c->plan->step;
    if (!written)
        return;
    ++c->stats.saved;
    c->stats.last_write_seconds = lks_clock_seconds_since(c->start_ns);
    c->stats.last_bytes = c->map.file_bytes;
}

/* --- The phases: each moves on when it can --------------------------------------- */

static lks_status follow_plan(lks_checkpoints *c, uint64_t step)
{
    if (c->plan->step != step)
        return LKS_FAIL(LKS_ERR_INTERNAL, "rank 0 saves step %llu, rank %d step %llu",
                        (unsigned long long)c->plan->step, lks_comm_rank(c->comm),
                        (unsigned long long)step);
    c->map.file_bytes = c->plan->file_bytes;
    for (int g = 0; g < c->map.group_count; ++g)
        memcpy(c->map.groups[g].offsets, c->plan->offsets + (size_t)g * c->layout->tensor_count,
               c->layout->tensor_count * sizeof(uint64_t));
    return set_partial(c);
}

static lks_status advance_planning(lks_checkpoints *c)
{
    bool done = true;
    if (!c->root)
        LKS_TRY(poll_messages(c, &c->plans, &done));
    if (!done)
        return LKS_OK;
    if (c->plan->verdict != LKS_SAVE_WRITE) {
        c->phase = LKS_SAVE_TELLING;
        return LKS_OK;
    }
    if (!c->root)
        LKS_TRY(follow_plan(c, c->step));
    lks_worker_start(c->worker, lks_save_write, c);
    c->phase = LKS_SAVE_WRITING;
    return LKS_OK;
}

static lks_status advance_writing(lks_checkpoints *c)
{
    lks_save_report *report = lks_save_own_report(c);
    lks_status status;
    if (!lks_worker_collect(c->worker, &status, report->message))
        return LKS_OK;
    report->status = status;
    if (!c->root) {
        LKS_TRY(lks_comm_receive(c->comm, 0, TAG_RESULT, &c->result, sizeof c->result,
                                 &c->results.requests[0]));
        LKS_TRY(lks_comm_send(c->comm, 0, TAG_REPORT, report,
                              report_bytes(c, lks_comm_rank(c->comm)),
                              &c->report_messages.requests[0]));
    }
    c->phase = LKS_SAVE_REPORTING;
    return LKS_OK;
}

/* Root: every rank has written, or has failed. */
static void take_reports(lks_checkpoints *c)
{
    for (int r = 0; r < lks_comm_size(c->comm); ++r) {
        const lks_save_report *report = c->reports[r];
        size_t own = c->first_blocks[r + 1] - c->first_blocks[r];
        for (int g = 0; g < c->map.group_count; ++g)
            memcpy(c->map.groups[g].hashes + c->first_blocks[r], report->hashes + (size_t)g * own,
                   own * sizeof(uint64_t));
        if (report->status != LKS_OK)
            remember_failure(c, (lks_status)report->status, r, report->message);
    }
}

static lks_status advance_reporting(lks_checkpoints *c)
{
    bool done;
    LKS_TRY(poll_messages(c, &c->report_messages, &done));
    if (!done)
        return LKS_OK;
    if (c->root) {
        take_reports(c);
        lks_worker_start(c->worker, c->result == LKS_OK ? lks_save_commit : lks_save_discard, c);
    }
    c->phase = LKS_SAVE_ENDING;
    return LKS_OK;
}

static lks_status end_root(lks_checkpoints *c)
{
    char message[LKS_WORKER_MESSAGE];
    lks_status status;
    if (!lks_worker_collect(c->worker, &status, message))
        return LKS_OK;
    if (status != LKS_OK)
        remember_failure(c, status, 0, message);
    LKS_TRY(send_to_all(c, &c->results, TAG_RESULT, &c->result, sizeof c->result));
    c->phase = LKS_SAVE_TELLING;
    return LKS_OK;
}

static lks_status advance_ending(lks_checkpoints *c)
{
    bool done;
    if (c->root)
        return end_root(c);
    LKS_TRY(poll_messages(c, &c->results, &done));
    if (done)
        c->phase = LKS_SAVE_TELLING;
    return LKS_OK;
}

static lks_status advance_telling(lks_checkpoints *c)
{
    bool plans, results;
    LKS_TRY(poll_messages(c, &c->plans, &plans));
    LKS_TRY(poll_messages(c, &c->results, &results));
    if (plans && results)
        conclude(c);
    return LKS_OK;
}

/* The staging's pages are there. */
static lks_status advance_warming(lks_checkpoints *c)
{
    char message[LKS_WORKER_MESSAGE];
    lks_status status;
    if (lks_worker_collect(c->worker, &status, message))
        c->phase = LKS_SAVE_IDLE;
    return LKS_OK;
}

static lks_status advance(lks_checkpoints *c)
{
    switch (c->phase) {
    case LKS_SAVE_WARMING:
        return advance_warming(c);
    case LKS_SAVE_PLANNING:
        return advance_planning(c);
    case LKS_SAVE_WRITING:
        return advance_writing(c);
    case LKS_SAVE_REPORTING:
        return advance_reporting(c);
    case LKS_SAVE_ENDING:
        return advance_ending(c);
    case LKS_SAVE_TELLING:
        return advance_telling(c);
    case LKS_SAVE_IDLE:
        break;
    }
    return LKS_OK;
}

/* --- Public --------------------------------------------------------------------- */

lks_status lks_checkpoints_progress(lks_checkpoints *checkpoints)
{
    if (checkpoints->broken)
        return LKS_FAIL(LKS_ERR_INTERNAL, "the checkpoints' messages have failed before");
    for (lks_save_phase before = LKS_SAVE_IDLE; checkpoints->phase != before;) {
        before = checkpoints->phase;
        lks_status status = advance(checkpoints);
        checkpoints->broken = status != LKS_OK;
        LKS_TRY(status);
    }
    return LKS_OK;
}

lks_status lks_checkpoints_finish(lks_checkpoints *checkpoints, bool *saved)
{
    *saved = false;
    for (unsigned spins = 0;; ++spins) {
        LKS_TRY(lks_checkpoints_progress(checkpoints));
        if (checkpoints->phase == LKS_SAVE_IDLE)
            break;
        lks_worker_rest(checkpoints->worker);
        lks_comm_relax(checkpoints->comm, spins);
    }
    *saved = checkpoints->saved;
    return LKS_OK;
}

lks_status lks_checkpoints_save(lks_checkpoints *checkpoints, const lks_state_array *arrays,
                                const lks_checkpoint_info *info, double *stall_seconds)
{
    uint64_t start_ns = lks_clock_ns();
    bool saved;
    LKS_TRY(lks_checkpoints_finish(checkpoints, &saved));
    checkpoints->step = info->step;
    lks_status status = start(checkpoints, arrays, info);
    checkpoints->broken = status != LKS_OK;
    LKS_TRY(status);
    status = lks_checkpoints_progress(checkpoints);
    *stall_seconds = lks_clock_seconds_since(start_ns);
    return status;
}
