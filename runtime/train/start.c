/* Where a job starts from: its newest checkpoint, another job's parameters, or
 * fresh random numbers. */
#include "runtime/base/files.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"
#include "runtime/train/find.h"
#include "runtime/train/state.h"

#include <stdlib.h>
#include <string.h>

static lks_status read_arrays(lks_job *job, lks_checkpoint *checkpoint, int count)
{
    for (int i = 0; i < count; ++i)
        LKS_TRY(lks_checkpoint_read(checkpoint, job->layout, &job->arrays[i], job->first_block,
                                    job->end_block));
    return LKS_OK;
}

static void warn_of_other_arithmetic(const lks_job *job, const lks_checkpoint *checkpoint)
{
    const json_t *manifest = lks_checkpoint_manifest(checkpoint);
    const char *then = json_string_value(json_object_get(manifest, "arithmetic"));
    const char *now = lks_device_arithmetic(job->device);
    if (then && strcmp(then, now))
        lks_log_root(
            "warning: the checkpoint was made with \"%s\", this is \"%s\": the bits may differ "
            "from here on",
            then, now);
}

static void resume_ledger(lks_job *job, const lks_checkpoint *checkpoint)
{
    const json_t *chain = json_object_get(lks_checkpoint_manifest(checkpoint), "ledger");
    job->ledger = lks_ledger_resume(json_string_value(chain));
    if (!job->ledger.known)
        lks_log_root("warning: the checkpoint was made without a ledger: this job has none from "
                     "here on");
}

static lks_status resume_from(lks_job *job, const char *path)
{
    lks_checkpoint *checkpoint;
    LKS_TRY(lks_checkpoint_open(&checkpoint, path, LKS_CHECK_MANIFEST));
    int arrays = 1 + lks_optimizer_state_count(job->experiment.optimizer);
    lks_status status = read_arrays(job, checkpoint, arrays);
    job->step = lks_checkpoint_step(checkpoint);
    resume_ledger(job, checkpoint);
    warn_of_other_arithmetic(job, checkpoint);
    lks_checkpoint_close(checkpoint);
    return status;
}

static lks_status initialize_from(lks_job *job, const char *path)
{
    lks_checkpoint *checkpoint;
    LKS_TRY(lks_checkpoint_open(&checkpoint, path, LKS_CHECK_MANIFEST));
    lks_status status = read_arrays(job, checkpoint, 1);
    lks_checkpoint_close(checkpoint);
    return status;
}

static lks_status start_initialized(lks_job *job)
{
    const char *source = job->experiment.settings.train.initialize;
    char *found;
    lks_find find = {.path = source, .check = LKS_CHECK_ALL};
    LKS_TRY(lks_find_checkpoint(job->comm, &find, &found));
    if (!found)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "train.initialize: %s %s: give a run directory or a checkpoint", source,
                        lks_files_exists(source) ? "holds no checkpoint" : "does not exist");
    lks_log_root("initial parameters from %s", found);
    lks_status status = initialize_from(job, found);
    free(found);
    return status;
}

static lks_status start_fresh(lks_job *job)
{
    if (*job->experiment.settings.train.initialize)
        return start_initialized(job);
    return lks_graph_initialize_blocks(
        job->replica.graph, (uint64_t)job->experiment.settings.train.seed, job->first_block,
        job->end_block, job->arrays[0].data - job->arrays[0].base_offset);
}

static lks_status refuse_missing(const lks_job *job)
{
    if (job->request->resume != LKS_RESUME_MUST)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_USAGE, "%s has no checkpoint yet, and --resume must was given",
                    job->request->run_directory);
}

static lks_status start_from_disk(lks_job *job)
{
    char *found;
    job->ledger = lks_ledger_start();
    lks_find find = {
        .path = job->request->run_directory, .check = LKS_CHECK_ALL, .set_aside = true};
    LKS_TRY(lks_find_checkpoint(job->comm, &find, &found));
    lks_status status = found ? LKS_OK : refuse_missing(job);
    if (found)
        lks_log_root("resuming from %s", found);
    if (status == LKS_OK)
        status = found ? resume_from(job, found) : start_fresh(job);
    free(found);
    return lks_comm_agree(job->comm, status);
}

/* *resumed false: the copies could not be read, and nothing has changed. */
static lks_status start_from_memory(lks_job *job, const lks_memory_found *found, bool *resumed)
{
    const char *now = lks_device_arithmetic(job->device);
    lks_status status = lks_memory_copies_read(job->memory, job->arrays);
    *resumed = status == LKS_OK;
    if (status == LKS_ERR_PEER)
        return status;
    if (!*resumed && *lks_status_message())
        lks_log_warn("the copies in node memory could not be read: %s", lks_status_message());
    if (!*resumed)
        return LKS_OK;
    job->step = found->step;
    job->ledger = lks_ledger_resume(*found->note ? found->note : NULL);
    char files[32], nodes[32];
    lks_log_root("resuming from node memory: step %llu, %s on %s", (unsigned long long)found->step,
                 lks_text_count(files, sizeof files, (uint64_t)found->files, "file"),
                 lks_text_count(nodes, sizeof nodes, (uint64_t)found->nodes, "node"));
    if (strcmp(found->arithmetic, now))
        lks_log_root("warning: the copies were made with \"%s\", this is \"%s\": the bits may "
                     "differ from here on",
                     found->arithmetic, now);
    return LKS_OK;
}

/* Copies in node memory come first, unless the disk has a later step, by name; and once more when that one turned out
 * to be damaged. */
lks_status lks_job_start(lks_job *job)
{
    lks_memory_found found = lks_memory_copies_find(job->memory);
    bool in_memory = false;
    if (found.there && !found.disk_is_newer)
        LKS_TRY(start_from_memory(job, &found, &in_memory));
    if (!in_memory) {
        lks_status status = start_from_disk(job);
        if (status == LKS_ERR_CORRUPT && found.there)
            lks_log_root("node memory holds step %llu: it is taken once the checkpoints that do "
                         "not hold are moved away",
                         (unsigned long long)found.step);
        LKS_TRY(status);
        if (found.there && found.disk_is_newer && found.step > job->step)
            LKS_TRY(start_from_memory(job, &found, &in_memory));
    }
    LKS_TRY(lks_memory_copies_begin(job->memory, in_memory));
    if (job->step >= job->steps && !in_memory)
        LKS_TRY(lks_memory_copies_discard(job->memory));
    else if (job->experiment.settings.checkpoint.memory_every_steps > 0)
        LKS_TRY(lks_memory_copies_reserve(job->memory));
    return lks_state_publish(job);
}
