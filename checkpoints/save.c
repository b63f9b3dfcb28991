#include "checkpoints/save.h"

#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <string.h>

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
    lks_save_forget(lks_save_first(c));
    c->first = (c->first + 1) % c->stats.buffers;
    --c->taken;
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
    return lks_save_set_partial(c);
}

static lks_status advance_planning(lks_checkpoints *c)
{
    bool done = true;
    if (!c->root)
        LKS_TRY(lks_save_poll(c, &c->plans, &done));
    if (!done)
        return LKS_OK;
    if (c->plan->verdict != LKS_SAVE_WRITE) {
        c->phase = LKS_SAVE_TELLING;
        return LKS_OK;
    }
    if (!c->root)
        LKS_TRY(follow_plan(c, lks_save_first(c)->step));
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
        LKS_TRY(lks_comm_receive(c->comm, 0, LKS_SAVE_TAG_RESULT, &c->result, sizeof c->result,
                                 &c->results.requests[0]));
        LKS_TRY(lks_comm_send(c->comm, 0, LKS_SAVE_TAG_REPORT, report,
                              lks_save_report_bytes(c, lks_comm_rank(c->comm)),
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
            lks_save_remember(c, (lks_status)report->status, r, report->message);
    }
}

static lks_status advance_reporting(lks_checkpoints *c)
{
    bool done;
    LKS_TRY(lks_save_poll(c, &c->report_messages, &done));
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
        lks_save_remember(c, status, 0, message);
    LKS_TRY(
        lks_save_send_to_all(c, &c->results, LKS_SAVE_TAG_RESULT, &c->result, sizeof c->result));
    c->phase = LKS_SAVE_TELLING;
    return LKS_OK;
}

static lks_status advance_ending(lks_checkpoints *c)
{
    bool done;
    if (c->root)
        return end_root(c);
    LKS_TRY(lks_save_poll(c, &c->results, &done));
    if (done)
        c->phase = LKS_SAVE_TELLING;
    return LKS_OK;
}

static lks_status advance_telling(lks_checkpoints *c)
{
    bool plans, results;
    LKS_TRY(lks_save_poll(c, &c->plans, &plans));
    LKS_TRY(lks_save_poll(c, &c->results, &results));
    if (plans && results)
        conclude(c);
    return LKS_OK;
}

/* At once, so that the writer has work; not further: see lks_checkpoints_save. */
static lks_status start_next(lks_checkpoints *c)
{
    if (c->phase != LKS_SAVE_IDLE || c->taken == 0)
        return LKS_OK;
    LKS_TRY(lks_save_begin(c));
    return advance_planning(c);
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
        return start_next(c);
    }
    return LKS_OK;
}

/* --- Public --------------------------------------------------------------------- */

lks_status lks_checkpoints_progress(lks_checkpoints *checkpoints)
{
    if (checkpoints->broken)
        return LKS_FAIL(LKS_ERR_INTERNAL, "the checkpoints' messages have failed before");
    for (bool moved = true; moved;) {
        lks_save_phase before = checkpoints->phase;
        lks_status status = advance(checkpoints);
        checkpoints->broken = status != LKS_OK;
        LKS_TRY(status);
        moved = checkpoints->phase != before;
    }
    return LKS_OK;
}

lks_status lks_checkpoints_finish(lks_checkpoints *checkpoints, bool *saved)
{
    *saved = false;
    for (unsigned spins = 0;; ++spins) {
        LKS_TRY(lks_checkpoints_progress(checkpoints));
        if (checkpoints->phase == LKS_SAVE_IDLE && checkpoints->taken == 0)
            break;
        lks_worker_rest(checkpoints->worker);
        lks_comm_relax(checkpoints->comm, spins);
    }
    *saved = checkpoints->saved;
    return LKS_OK;
}

typedef enum save_turn { SAVE_TAKE, SAVE_REPLACE, SAVE_LEAVE_OUT } save_turn;

/* (collective) Rank 0 says, because ranks come to know of a save's end at different steps. */
static lks_status ask_turn(lks_checkpoints *c, lks_checkpoint_when_busy busy, save_turn *turn)
{
    LKS_TRY(lks_checkpoints_progress(c));
    bool full = c->taken == c->stats.buffers;
    *turn = SAVE_TAKE;
    if (full && busy == LKS_CHECKPOINT_SKIP)
        *turn = SAVE_LEAVE_OUT;
    if (full && busy == LKS_CHECKPOINT_REPLACE && c->taken > 1)
        *turn = SAVE_REPLACE;
    return lks_comm_broadcast(c->comm, 0, turn, sizeof *turn);
}

static void leave_out(lks_checkpoints *c, uint64_t step)
{
    ++c->stats.skipped;
    if (c->root)
        lks_log_warn("the checkpoint of step %llu is skipped: that of step %llu is still being "
                     "written after %.1f s%s; raise checkpoint.every_steps, or wait for it with "
                     "checkpoint.busy: wait",
                     (unsigned long long)step, (unsigned long long)lks_save_first(c)->step,
                     lks_clock_seconds_since(c->start_ns),
                     c->stats.buffers > 1 ? ", and the next one waits" : "");
}

static void replace(lks_checkpoints *c, const lks_save_snapshot *newest, uint64_t step)
{
    ++c->stats.skipped;
    if (c->root)
        lks_log_warn("the checkpoint of step %llu, which waited to be written, is left out: that "
                     "of step %llu takes its place",
                     (unsigned long long)newest->step, (unsigned long long)step);
}

/* Where the snapshot goes. To replace: rank 0's second waits still, so this rank's newest has no plan yet. */
static lks_status find_place(lks_checkpoints *c, save_turn turn, lks_save_snapshot **out)
{
    for (unsigned spins = 0;
         c->phase == LKS_SAVE_WARMING || (turn == SAVE_TAKE && c->taken == c->stats.buffers);
         ++spins) {
        lks_worker_rest(c->worker);
        lks_comm_relax(c->comm, spins);
        LKS_TRY(lks_checkpoints_progress(c));
    }
    if (turn == SAVE_TAKE)
        ++c->taken;
    *out = &c->snapshots[(c->first + c->taken - 1) % c->stats.buffers];
    return LKS_OK;
}

static lks_status save(lks_checkpoints *c, const lks_state_array *arrays,
                       const lks_checkpoint_info *info, save_turn turn)
{
    lks_save_snapshot *place;
    LKS_TRY(find_place(c, turn, &place));
    if (turn == SAVE_REPLACE)
        replace(c, place, info->step);
    uint64_t copy_ns = lks_clock_ns();
    lks_status status = lks_save_take(c, place, arrays, info);
    ++c->stats.taken;
    c->stats.copy_seconds += lks_clock_seconds_since(copy_ns);
    if (status == LKS_OK)
        status = start_next(c);
    c->broken = status != LKS_OK;
    return status;
}

lks_status lks_checkpoints_save(lks_checkpoints *checkpoints, const lks_state_array *arrays,
                                const lks_checkpoint_info *info, lks_checkpoint_when_busy busy,
                                double *stall_seconds)
{
    uint64_t start_ns = lks_clock_ns();
    save_turn turn;
    *stall_seconds = 0;
    LKS_TRY(ask_turn(checkpoints, busy, &turn));
    if (turn == SAVE_LEAVE_OUT)
        leave_out(checkpoints, info->step);
    else
        LKS_TRY(save(checkpoints, arrays, info, turn));
    *stall_seconds = lks_clock_seconds_since(start_ns);
    if (turn != SAVE_LEAVE_OUT)
        checkpoints->stats.stall_seconds += *stall_seconds;
    return LKS_OK;
}
