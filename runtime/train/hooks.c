#include "runtime/train/hooks.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"
#include "runtime/train/saves.h"
#include "runtime/train/state.h"

#include <math.h>
#include <stdlib.h>

/* What hooks tell each other about one step. */
typedef struct hook_context {
    lks_job *job;
    const lks_step_result *step;
    bool last, leaving;     /* the goal is reached; a notice came */
    double validation_loss; /* NaN: not taken */
    double checkpoint_stall_seconds;
} hook_context;

/* A newer start may own the run directory by now: then nothing more is written to it. */
static lks_status fence_hook(hook_context *c)
{
    return c->job->report ? lks_run_directory_guard(&c->job->run) : LKS_OK;
}

static lks_status chain_hook(hook_context *c)
{
    lks_job *job = c->job;
    if (!job->ledger.known)
        return LKS_OK;
    return lks_ledger_advance(&job->ledger, c->step->step, lks_exchange_ids(job->exchange),
                              job->geometry.lanes);
}

static bool is_due(uint64_t step, int64_t every)
{
    return every > 0 && step % (uint64_t)every == 0;
}

static lks_status validation_hook(hook_context *c)
{
    lks_job *job = c->job;
    bool due =
        c->last || is_due(c->step->step, job->experiment.settings.train.validate_every_steps);
    if (!job->validation || !due)
        return LKS_OK;
    lks_evaluation evaluation;
    lks_parameters parameters = {lks_reducer_parameters(job->reducer), job->rounded};
    LKS_TRY(lks_evaluator_run(job->validation, &parameters, &evaluation));
    c->validation_loss = evaluation.loss;
    lks_validation_metrics metrics = {.step = c->step->step,
                                      .loss = evaluation.loss,
                                      .accuracy = evaluation.accuracy,
                                      .samples = evaluation.samples,
                                      .seconds = evaluation.seconds};
    return job->report ? lks_report_validation(job->report, &metrics) : LKS_OK;
}

/* After a notice there may be no time for one that only waits. */
static lks_checkpoint_when_busy when_busy(const hook_context *c)
{
    bool skips = c->job->experiment.settings.checkpoint.busy == LKS_BUSY_SKIP;
    if (c->leaving)
        return LKS_CHECKPOINT_REPLACE;
    return c->last || !skips ? LKS_CHECKPOINT_WAIT : LKS_CHECKPOINT_SKIP;
}

static lks_status checkpoint_hook(hook_context *c)
{
    lks_job *job = c->job;
    bool due = is_due(c->step->step, job->experiment.settings.checkpoint.every_steps);
    if (c->leaving && job->report)
        lks_saves_announce(job, c->step->step, c->step->notice_seconds);
    if (!c->last && !c->leaving && !due)
        return LKS_OK;
    return lks_saves_start(job, c->step->step, c->validation_loss, when_busy(c),
                           &c->checkpoint_stall_seconds);
}

/* After the lines of this step: a checkpoint is committed only when those up to its step are on disk. */
static lks_status commit_hook(hook_context *c)
{
    return lks_checkpoints_progress(c->job->checkpoints);
}

static lks_status memory_hook(hook_context *c)
{
    lks_job *job = c->job;
    char chain[65] = "";
    double seconds = 0;
    bool due = is_due(c->step->step, job->experiment.settings.checkpoint.memory_every_steps);
    if (job->ledger.known)
        lks_ledger_hex(&job->ledger, chain);
    if (due && !c->last && !c->leaving) {
        LKS_TRY(lks_state_fetch(job));
        LKS_TRY(lks_memory_copies_take(job->memory, job->arrays, c->step->step, chain, &seconds));
    }
    c->checkpoint_stall_seconds += seconds;
    return lks_memory_copies_progress(job->memory, c->step->step);
}

static lks_status metrics_hook(hook_context *c)
{
    const lks_job *job = c->job;
    const lks_step_result *step = c->step;
    if (!job->report)
        return LKS_OK;
    const lks_schema *schema = lks_dataset_schema(job->data);
    uint64_t samples = step->step * (uint64_t)job->geometry.global_batch;
    lks_step_metrics metrics = {
        .step = step->step,
        .epoch = (double)samples / (double)lks_dataset_samples(job->data),
        .loss = step->loss,
        .lr = step->lr,
        .grad_norm = step->grad_norm,
        .accuracy = step->accuracy,
        .samples = samples,
        .tokens = schema->kind == LKS_DATA_TEXT ? samples * (uint64_t)schema->context : 0,
        .world_size = lks_comm_size(job->comm),
        .step_seconds = step->seconds,
        .loader_wait_seconds = step->loader_wait_seconds,
        .reduce_wait_seconds = step->reduce_wait_seconds,
        .checkpoint_stall_seconds = c->checkpoint_stall_seconds,
        .checkpoint_running_seconds = lks_checkpoints_get_stats(job->checkpoints).running_seconds,
        .gradient_bytes = step->gradient_bytes,
        .gradient_bytes_early = step->gradient_bytes_early,
        .samples_per_second = (double)job->geometry.global_batch / step->seconds,
    };
    bool write =
        c->last || c->leaving || is_due(step->step, job->experiment.settings.report.every_steps);
    return lks_report_step(job->report, &metrics, write);
}

/* `samples`: [global batch], NULL: the chain alone. */
static lks_status ledger_write(lks_job *job, uint64_t step, const uint64_t *samples)
{
    char chain[65];
    lks_text line = {0};
    lks_text_append(&line, "{\"step\": %llu, \"chain\": \"%s\"", (unsigned long long)step,
                    lks_ledger_hex(&job->ledger, chain));
    for (int64_t i = 0; samples && i < job->geometry.global_batch; ++i)
        lks_text_append(&line, "%s%llu", i ? ", " : ", \"samples\": [",
                        (unsigned long long)samples[i]);
    lks_text_append(&line, samples ? "]}" : "}");
    lks_status status = line.failed ? LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the ledger's line")
                                    : lks_report_line(job->report, "ledger", line.data);
    lks_text_release(&line);
    return status;
}

/* (collective) The line with the sample ids of the step, as the loader delivered them, in lane order. */
static lks_status ledger_write_ids(hook_context *c)
{
    lks_job *job = c->job;
    const lks_geometry *geometry = &job->geometry;
    int world_size = lks_comm_size(job->comm);
    uint64_t *all = malloc((size_t)geometry->global_batch * sizeof *all);
    size_t *bytes = malloc((size_t)world_size * sizeof *bytes);
    lks_status status = LKS_OK;
    if (!all || !bytes)
        status = LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the ledger");
    for (int rank = 0; rank < world_size && status == LKS_OK; ++rank) {
        int first, end;
        lks_lanes_of(geometry->lanes, rank, world_size, &first, &end);
        bytes[rank] =
            (size_t)((end - first) * geometry->micro_batches * geometry->micro_batch) * sizeof *all;
    }
    if (status == LKS_OK)
        status = lks_comm_all_gather(job->comm, job->sample_ids, all, bytes);
    if (status == LKS_OK && job->report)
        status = ledger_write(job, c->step->step, all);
    free(all);
    free(bytes);
    return status;
}

static lks_status ledger_hook(hook_context *c)
{
    lks_job *job = c->job;
    int lines = job->experiment.settings.report.ledger;
    if (!job->ledger.known || lines == LKS_LEDGER_NONE)
        return LKS_OK;
    if (lines == LKS_LEDGER_IDS)
        return ledger_write_ids(c);
    return job->report ? ledger_write(job, c->step->step, NULL) : LKS_OK;
}

static lks_status (*const hooks[])(hook_context *) = {fence_hook,      chain_hook,  validation_hook,
                                                      checkpoint_hook, memory_hook, metrics_hook,
                                                      ledger_hook,     commit_hook};

/* A notice is obeyed only when the state is on disk. */
static lks_status leave(lks_job *job, bool *stop)
{
    bool saved;
    LKS_TRY(lks_checkpoints_finish(job->checkpoints, &saved));
    lks_status status = LKS_OK;
    if (!saved)
        status = LKS_FAIL(LKS_ERR_IO,
                          "a notice to stop came at step %llu, and the checkpoint could not be "
                          "saved: free space or mend the directory, then run again",
                          (unsigned long long)job->step);
    LKS_TRY(lks_comm_agree(job->comm, status));
    lks_log_root("stopped by a notice after step %llu; the checkpoint is saved",
                 (unsigned long long)job->step);
    *stop = true;
    return lks_memory_copies_discard(job->memory);
}

lks_status lks_hooks_run(lks_job *job, const lks_step_result *step, bool *stop)
{
    bool last = step->step == job->steps;
    hook_context context = {.job = job,
                            .step = step,
                            .last = last,
                            .leaving = step->notice && !last,
                            .validation_loss = NAN};
    for (size_t i = 0; i < sizeof hooks / sizeof hooks[0]; ++i)
        LKS_TRY(hooks[i](&context));
    return context.leaving ? leave(job, stop) : LKS_OK;
}

static void log_memory(const lks_job *job)
{
    lks_memory_stats stats = lks_memory_copies_get_stats(job->memory);
    char size[32];
    if (stats.whole + stats.failed + stats.skipped > 0)
        lks_log_root("node memory: %llu copies, %llu skipped, %llu failed; %s for this rank, the "
                     "last took it %.4f s",
                     (unsigned long long)stats.whole, (unsigned long long)stats.skipped,
                     (unsigned long long)stats.failed,
                     lks_text_bytes(size, sizeof size, stats.bytes), stats.copy_seconds);
}

lks_status lks_hooks_finish(lks_job *job)
{
    bool saved;
    LKS_TRY(lks_checkpoints_finish(job->checkpoints, &saved));
    lks_status status = LKS_OK;
    if (job->step == job->steps &&
        lks_checkpoints_get_stats(job->checkpoints).last_step != job->step)
        status = LKS_FAIL(LKS_ERR_IO,
                          "all %llu steps are done, but the last checkpoint could not be saved: "
                          "free space or mend the directory, then run again",
                          (unsigned long long)job->steps);
    LKS_TRY(lks_comm_agree(job->comm, status));
    lks_saves_log(job);
    log_memory(job);
    return lks_memory_copies_discard(job->memory);
}
