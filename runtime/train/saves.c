#include "runtime/train/saves.h"
#include "runtime/base/log.h"
#include "runtime/train/state.h"

#include <math.h>

/* What a checkpoint says of the job, and what that stands in. */
typedef struct save_info {
    lks_checkpoint_info info;
    char chain[65];
    lks_text yaml;
    json_t *config;
} save_info;

static void save_info_init(save_info *s, const lks_job *job, uint64_t step, double validation_loss)
{
    *s = (save_info){.config = lks_config_to_json(job->request->config)};
    lks_config_print_yaml(job->request->config, false, &s->yaml);
    s->info = (lks_checkpoint_info){
        .step = step,
        .run_id = job->run.id,
        .config_yaml = s->yaml.data,
        .config_json = s->config,
        .model_fingerprint = job->fingerprint,
        .dataset_digest = lks_dataset_digest(job->data),
        .arithmetic = lks_device_arithmetic(job->device),
        .position = step * (uint64_t)job->geometry.global_batch,
        .seed = (uint64_t)job->experiment.settings.train.seed,
        .validation_loss = validation_loss,
        .ledger = job->ledger.known ? lks_ledger_hex(&job->ledger, s->chain) : NULL,
        .epoch = job->run.epoch,
    };
}

static void save_info_release(save_info *s)
{
    json_decref(s->config);
    lks_text_release(&s->yaml);
}

lks_status lks_saves_start(lks_job *job, uint64_t step, double validation_loss,
                           lks_checkpoint_when_busy busy, double *stall_seconds)
{
    save_info s;
    save_info_init(&s, job, step, validation_loss);
    lks_status status = lks_state_fetch(job);
    if (status == LKS_OK)
        status = lks_checkpoints_save(job->checkpoints, job->arrays, &s.info, busy, stall_seconds);
    save_info_release(&s);
    return status;
}

void lks_saves_prepare(lks_job *job)
{
    save_info s;
    save_info_init(&s, job, job->step, NAN);
    if (lks_checkpoints_prepare(job->checkpoints, &s.info) != LKS_OK)
        lks_log_verbose("the first checkpoint is not prepared: %s", lks_status_message());
    save_info_release(&s);
}

void lks_saves_announce(const lks_job *job, uint64_t at, double left)
{
    lks_checkpoints_stats stats = lks_checkpoints_get_stats(job->checkpoints);
    unsigned long long step = at;
    double needed = stats.last_write_seconds;
    if (stats.running_seconds > 0) /* that one comes first */
        needed += fmax(0, stats.last_write_seconds - stats.running_seconds);
    char size[32], rate[32], measured[128] = "how long that takes is not measured yet";
    if (stats.saved > 0)
        snprintf(measured, sizeof measured, "%s at %s/s take %.1f s",
                 lks_text_bytes(size, sizeof size, stats.last_bytes),
                 lks_text_bytes(rate, sizeof rate,
                                (uint64_t)((double)stats.last_bytes / stats.last_write_seconds)),
                 needed);
    if (!isfinite(left))
        lks_log_root("a notice to stop: saving step %llu; %s", step, measured);
    else if (stats.saved == 0 || needed <= left)
        lks_log_root("a notice to stop, %.0f s are left: saving step %llu; %s", left, step,
                     measured);
    else
        lks_log_warn("a notice to stop, %.1f s are left, and saving step %llu will not end in "
                     "time: %s; the checkpoint of step %llu is what stays: lower "
                     "checkpoint.every_steps, or write to a faster disk",
                     left, step, measured, (unsigned long long)stats.last_step);
}

void lks_saves_log(const lks_job *job)
{
    lks_checkpoints_stats stats = lks_checkpoints_get_stats(job->checkpoints);
    char size[32], rate[32], written[128] = "none was written";
    if (stats.saved > 0)
        snprintf(written, sizeof written, "the last, %s, was written at %s/s",
                 lks_text_bytes(size, sizeof size, stats.last_bytes),
                 lks_text_bytes(rate, sizeof rate,
                                (uint64_t)((double)stats.last_bytes / stats.last_write_seconds)));
    if (stats.taken > 0)
        lks_log_root("checkpoints: %llu saved, %llu skipped, %llu failed; a copy to staging took "
                     "this rank %.4f s, training waited %.4f s for it; %s",
                     (unsigned long long)stats.saved, (unsigned long long)stats.skipped,
                     (unsigned long long)stats.failed, stats.copy_seconds / (double)stats.taken,
                     stats.stall_seconds / (double)stats.taken, written);
}
