#include "runtime/train/train.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"
#include "runtime/train/hooks.h"
#include "runtime/train/saves.h"
#include "runtime/train/step.h"

#include <string.h>
#include <sys/resource.h>

static void log_plan(const lks_job *job)
{
    char seconds[32], ranks[32], nodes[32];
    const lks_geometry *g = &job->geometry;
    snprintf(seconds, sizeof seconds, "%.2f",
             (double)(lks_clock_ns() - lks_clock_process_start_ns()) * 1e-9);
    lks_log_root(
        "%s with %llu parameters on %llu samples; %s on %s, %s, link %s, %s",
        lks_model_name(job->experiment.model), (unsigned long long)job->layout->elements,
        (unsigned long long)lks_dataset_samples(job->data),
        lks_text_count(ranks, sizeof ranks, (uint64_t)lks_comm_size(job->comm), "rank"),
        lks_text_count(nodes, sizeof nodes, (uint64_t)lks_comm_node_count(job->comm), "node"),
        lks_comm_about(job->comm), lks_reducer_link(job->reducer),
        lks_device_arithmetic(job->device));
    lks_log_root("global batch %lld = %d lanes x %lld micro-batches x %lld samples; step %llu of "
                 "%llu; ready "
                 "after %s s",
                 (long long)g->global_batch, g->lanes, (long long)g->micro_batches,
                 (long long)g->micro_batch, (unsigned long long)job->step,
                 (unsigned long long)job->steps, seconds);
}

/* The first steps touch memory for the first time: they are left out of the profile. */
enum { STEPS_BEFORE_PROFILE = 2 };

static lks_status train_steps(lks_job *job, bool *stop)
{
    uint64_t profile_from = job->request->profile ? job->step + STEPS_BEFORE_PROFILE : UINT64_MAX;
    lks_saves_prepare(job);
    while (job->step < job->steps && !*stop) {
        lks_step_result result;
        if (job->step >= profile_from)
            LKS_TRY(lks_device_profile_begin(job->device));
        LKS_TRY(lks_step_run(job, &result));
        LKS_TRY(lks_device_profile_end(job->device));
        LKS_TRY(lks_hooks_run(job, &result, stop));
    }
    return *stop ? LKS_OK : lks_hooks_finish(job);
}

static void print_profile(const lks_job *job)
{
    lks_text table = {0};
    lks_device_profile_print(job->device, &table);
    lks_log_root("where the time went, rank 0:");
    for (char *line = table.data, *end; line && *line; line = end ? end + 1 : NULL) {
        end = strchr(line, '\n');
        if (end)
            *end = '\0';
        lks_log_root("%s", line);
    }
    lks_text_release(&table);
}

/* What the kernel counted, beside what was planned. */
static void log_peak_memory(void)
{
    char text[32];
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0)
        lks_log_root("peak memory of this rank: %s",
                     lks_text_bytes(text, sizeof text, (uint64_t)usage.ru_maxrss << 10));
}

static lks_status train_job(lks_job *job, bool *stop)
{
    log_plan(job);
    if (job->step >= job->steps) {
        lks_log_root("step %llu of %llu: nothing left to do; raise train.steps to go on",
                     (unsigned long long)job->step, (unsigned long long)job->steps);
        return LKS_OK;
    }
    LKS_TRY(train_steps(job, stop));
    if (job->request->profile)
        print_profile(job);
    log_peak_memory();
    return LKS_OK;
}

lks_status lks_train(const lks_train_request *request, bool *alone)
{
    lks_job *job = NULL;
    bool stop = false;
    *alone = false;
    LKS_TRY(lks_comm_agree(request->comm, LKS_NEW(&job)));
    lks_status status = lks_job_open(job, request);
    if (status == LKS_OK) {
        status = train_job(job, &stop);
        /* After a failure that the others do not know of, closing together would hang: the job stays,
         * since its threads may be at work until the process ends. */
        *alone = status != LKS_OK && !job->failed_together && lks_comm_size(request->comm) > 1;
        if (*alone)
            return status;
        lks_job_close(job);
    }
    lks_memory_free(job);
    return status == LKS_OK && stop ? LKS_STOPPED : status;
}

lks_status lks_train_check_config(lks_config *config)
{
    lks_experiment experiment;
    LKS_TRY(lks_experiment_init(&experiment, config));
    lks_experiment_release(&experiment);
    return LKS_OK;
}
