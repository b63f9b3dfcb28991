#include "runtime/train/hooks.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

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
    LKS_TRY(lks_evaluator_run(job->validation, lks_reducer_parameters(job->reducer), &evaluation));
    c->validation_loss = evaluation.loss;
    lks_validation_metrics metrics = {.step = c->step->step,
                                      .loss = evaluation.loss,
                                      .accuracy = evaluation.accuracy,
                                      .samples = evaluation.samples,
                                      .seconds = evaluation.seconds};
    return job->report ? lks_report_validation(job->report, &metrics) : LKS_OK;
}

static lks_status save(hook_context *c)
{
    lks_job *job = c->job;
    lks_text yaml = {0};
    lks_config_print_yaml(job->request->config, false, &yaml);
    json_t *config = lks_config_to_json(job->request->config);
    lks_checkpoint_info info = {
        .step = c->step->step,
        .run_id = job->run.id,
        .config_yaml = yaml.data,
        .config_json = config,
        .model_fingerprint = job->fingerprint,
        .dataset_digest = lks_dataset_digest(job->data),
        .arithmetic = lks_device_arithmetic(job->device),
        .position = c->step->step * (uint64_t)job->geometry.global_batch,
        .seed = (uint64_t)job->experiment.settings.train.seed,
        .validation_loss = c->validation_loss,
    };
    bool may_skip = !c->last && !c->leaving &&
                    job->experiment.settings.checkpoint.busy == LKS_BUSY_SKIP;
    lks_status status = lks_checkpoints_save(job->checkpoints, job->arrays, &info, may_skip,
                                             &c->checkpoint_stall_seconds);
    json_decref(config);
    lks_text_release(&yaml);
    return status;
}

static lks_status checkpoint_hook(hook_context *c)
{
    lks_job *job = c->job;
    bool due = is_due(c->step->step, job->experiment.settings.checkpoint.every_steps);
    if (c->last || c->leaving || due)
        LKS_TRY(save(c));
    return lks_checkpoints_progress(job->checkpoints);
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
        .gradient_bytes = step->gradient_bytes,
        .gradient_bytes_early = step->gradient_bytes_early,
        .samples_per_second = (double)job->geometry.global_batch / step->seconds,
    };
    bool write =
        c->last || c->leaving || is_due(step->step, job->experiment.settings.report.every_steps);
    return lks_report_step(job->report, &metrics, write);
}

static lks_status ledger_write(lks_job *job, uint64_t step, const uint64_t *samples)
{
    lks_text line = {0};
    lks_text_append(&line, "{\"step\": %llu, \"samples\": [", (unsigned long long)step);
    for (int64_t i = 0; i < job->geometry.global_batch; ++i)
        lks_text_append(&line, "%s%llu", i ? ", " : "", (unsigned long long)samples[i]);
    lks_text_append(&line, "]}");
    lks_status status = line.failed ? LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the ledger's line")
                                    : lks_report_line(job->report, "ledger", line.data);
    lks_text_release(&line);
    return status;
}

/* The sample ids of the step, as the loader delivered them, in lane order. */
static lks_status ledger_hook(hook_context *c)
{
    lks_job *job = c->job;
    const lks_geometry *geometry = &job->geometry;
    if (!job->sample_ids)
        return LKS_OK;
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

static lks_status (*const hooks[])(hook_context *) = {validation_hook, checkpoint_hook,
                                                      metrics_hook, ledger_hook};

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
    return LKS_OK;
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
    return lks_comm_agree(job->comm, status);
}
