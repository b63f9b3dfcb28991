#include "runtime/base/log.h"
#include "runtime/base/memory.h"
#include "runtime/base/node_memory.h"
#include "runtime/train/need.h"
#include "runtime/train/state.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* Open order is the order of need; each phase that can fail on one rank alone
 * ends in an agreement, so that all leave together. */

static lks_status open_experiment(lks_job *job)
{
    job->memory_available = lks_node_memory_available("");
    LKS_TRY(lks_experiment_init(&job->experiment, job->request->config));
    const lks_settings *settings = &job->experiment.settings;
    LKS_TRY(lks_geometry_init(&job->geometry, settings, lks_comm_rank(job->comm),
                              lks_comm_size(job->comm)));
    if (!*settings->data.train)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "data.train is not set: name a dataset that lockstep prepare made");
    LKS_TRY(lks_device_open(&job->device, settings->device.name, lks_comm_local_rank(job->comm)));
    return lks_dataset_open(&job->data, settings->data.train,
                            lks_model_context(job->experiment.model));
}

static lks_status choose_steps(lks_job *job)
{
    const lks_settings *settings = &job->experiment.settings;
    job->steps = (uint64_t)settings->train.steps;
    if (!job->steps) {
        double samples = settings->train.epochs * (double)lks_dataset_samples(job->data);
        job->steps = (uint64_t)((samples + (double)job->geometry.global_batch - 1) /
                                (double)job->geometry.global_batch);
        if (!job->steps && samples > 0)
            job->steps = 1; /* a part of a sample is a step too */
    }
    if (!job->steps)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "neither train.steps nor train.epochs is set: how long is it to train?");
    return LKS_OK;
}

static lks_status open_model(lks_job *job)
{
    const lks_settings *settings = &job->experiment.settings;
    const lks_schema *schema = lks_dataset_schema(job->data);
    LKS_TRY(choose_steps(job));
    job->order =
        lks_order_create(lks_dataset_samples(job->data), lks_dataset_sample_bytes(job->data),
                         (uint64_t)settings->train.seed);
    lks_replica_spec spec = {.model = job->experiment.model,
                             .schema = schema,
                             .mode = LKS_GRAPH_TRAIN,
                             .micro_batch = job->geometry.micro_batch,
                             .device = job->device,
                             .compute = lks_experiment_compute(&job->experiment),
                             .check = &(lks_replica_check){lks_need_check, job}};
    LKS_TRY(lks_replica_init(&job->replica, &spec));
    job->layout = lks_graph_layout(job->replica.graph);
    return lks_layout_fingerprint(job->layout, job->fingerprint);
}

/* Ranks whose processors or libraries compute differently would drift apart. */
static lks_status check_probe(lks_job *job)
{
    uint64_t mine, root;
    LKS_TRY(lks_device_probe(job->device, &mine));
    root = mine;
    LKS_TRY(lks_comm_broadcast(job->comm, 0, &root, sizeof root));
    lks_status status = LKS_OK;
    if (mine != root)
        status =
            LKS_FAIL(LKS_ERR_USAGE,
                     "host %s (%s) computes other bits than rank 0's host %s: use hosts with the "
                     "same processor and libraries",
                     lks_comm_host(job->comm, lks_comm_rank(job->comm)),
                     lks_device_arithmetic(job->device), lks_comm_host(job->comm, 0));
    return lks_comm_agree(job->comm, status);
}

static lks_run_identity job_identity(const lks_job *job)
{
    return (lks_run_identity){.config = job->request->config,
                              .data = job->data,
                              .fingerprint = job->fingerprint,
                              .arithmetic = lks_device_arithmetic(job->device),
                              .host = lks_comm_host(job->comm, 0),
                              .order = &job->order,
                              .global_batch = job->geometry.global_batch,
                              .lanes = job->geometry.lanes,
                              .world_size = lks_comm_size(job->comm)};
}

static lks_status claim_on_root(void *user)
{
    lks_job *job = user;
    lks_run_identity identity = job_identity(job);
    LKS_TRY(lks_run_directory_open(&job->run, job->request->run_directory, job->request->resume,
                                   job->request->take_over));
    return lks_run_directory_check(&job->run, &identity, job->request->resume);
}

static lks_status record_on_root(void *user)
{
    lks_job *job = user;
    lks_run_identity identity = job_identity(job);
    LKS_TRY(lks_run_directory_record(&job->run, &identity, job->step));
    if (job->request->take_over)
        LKS_TRY(lks_report_fence(job->request->run_directory));
    return lks_report_open(&job->report, job->request->run_directory, job->step, job->steps);
}

static lks_status open_reducer(lks_job *job)
{
    const lks_settings *settings = &job->experiment.settings;
    lks_reducer_spec spec = {.comm = job->comm,
                             .device = job->device,
                             .layout = job->layout,
                             .lanes = job->geometry.lanes,
                             .link = settings->collectives.link,
                             .bucket_bytes = (uint64_t)settings->collectives.bucket_bytes,
                             .any_order = settings->collectives.order == 1,
                             .timeout_seconds = settings->collectives.timeout_seconds,
                             .verbs = &settings->verbs};
    LKS_TRY(lks_reducer_open(&job->reducer, &spec));
    lks_reducer_owned(job->reducer, &job->first_block, &job->end_block);
    return LKS_OK;
}

static lks_status open_exchange(lks_job *job)
{
    const lks_geometry *geometry = &job->geometry;
    lks_exchange_spec spec = {.comm = job->comm,
                              .device = job->device,
                              .reducer = job->reducer,
                              .layout = job->layout,
                              .lanes = geometry->lanes,
                              .micro_batches = (uint32_t)geometry->micro_batches};
    LKS_TRY(lks_exchange_open(&job->exchange, &spec));
    int64_t samples = (geometry->end_lane - geometry->first_lane) * geometry->micro_batches *
                      geometry->micro_batch;
    return LKS_NEW_ARRAY(&job->sample_ids, (size_t)samples);
}

/* Nor before the lines of its steps are on disk: else a kill could lose them for good. */
static lks_status may_commit(const void *user)
{
    const lks_job *job = user;
    LKS_TRY(lks_run_directory_guard(&job->run));
    return lks_report_sync(job->report);
}

static lks_status open_checkpoints(lks_job *job)
{
    const lks_settings *settings = &job->experiment.settings;
    lks_checkpoints_spec spec = {.run_directory = job->request->run_directory,
                                 .layout = job->layout,
                                 .arrays = job->arrays,
                                 .array_count =
                                     1 + lks_optimizer_state_count(job->experiment.optimizer),
                                 .first_block = job->first_block,
                                 .end_block = job->end_block,
                                 .buffers = (int)settings->checkpoint.buffers,
                                 .keep = (int)settings->checkpoint.keep,
                                 .keep_best = settings->checkpoint.keep_best,
                                 .may_commit = may_commit,
                                 .user = job,
                                 .comm = job->comm};
    return lks_checkpoints_open(&job->checkpoints, &spec);
}

/* What only rank 0 knows of the run. */
typedef struct run_place {
    char id[LKS_RUN_ID_SIZE], path[PATH_MAX];
} run_place;

static lks_status place_on_root(void *user)
{
    lks_job *job = ((void **)user)[0];
    run_place *place = ((void **)user)[1];
    memcpy(place->id, job->run.id, sizeof place->id);
    if (realpath(job->request->run_directory, place->path))
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_IO, "%s: %s", job->request->run_directory, strerror(errno));
}

static lks_status open_memory(lks_job *job)
{
    run_place place = {.id = ""};
    LKS_TRY(lks_comm_on_root(job->comm, place_on_root, (void *[]){job, &place}));
    LKS_TRY(lks_comm_broadcast(job->comm, 0, &place, sizeof place));
    lks_memory_spec spec = {.directory = job->experiment.settings.checkpoint.memory_directory,
                            .run_directory = place.path,
                            .run_id = place.id,
                            .model_fingerprint = job->fingerprint,
                            .dataset_digest = lks_dataset_digest(job->data),
                            .arithmetic = lks_device_arithmetic(job->device),
                            .seed = (uint64_t)job->experiment.settings.train.seed,
                            .layout = job->layout,
                            .arrays = job->arrays,
                            .array_count = 1 + lks_optimizer_state_count(job->experiment.optimizer),
                            .first_block = job->first_block,
                            .end_block = job->end_block,
                            .comm = job->comm};
    return lks_memory_copies_open(&job->memory, &spec);
}

static lks_status open_loader(lks_job *job)
{
    const lks_settings *settings = &job->experiment.settings;
    const lks_geometry *geometry = &job->geometry;
    lks_loader_spec spec = {.dataset = job->data,
                            .order = &job->order,
                            .lanes = geometry->lanes,
                            .first_lane = geometry->first_lane,
                            .end_lane = geometry->end_lane,
                            .micro_batches = geometry->micro_batches,
                            .micro_batch = geometry->micro_batch,
                            .first_step = job->step,
                            .end_step = job->steps,
                            .threads = (int)settings->data.threads,
                            .depth = (int)settings->data.ring};
    LKS_TRY(lks_loader_open(&job->loader, &spec));
    return lks_feed_open(&job->feed, job->loader, job->device, lks_dataset_schema(job->data),
                         geometry->micro_batch);
}

static lks_status open_validation(lks_job *job)
{
    const lks_settings *settings = &job->experiment.settings;
    lks_evaluator_spec spec = {.comm = job->comm,
                               .device = job->device,
                               .model = job->experiment.model,
                               .directory = settings->data.validation,
                               .layout = job->layout,
                               .schema = lks_dataset_schema(job->data),
                               .micro_batch = job->geometry.micro_batch,
                               .compute = lks_experiment_compute(&job->experiment),
                               .threads = (int)settings->data.threads,
                               .ring = (int)settings->data.ring};
    if (!*settings->data.validation)
        return LKS_OK;
    return lks_evaluator_open(&job->validation, &spec);
}

static lks_status job_open(lks_job *job)
{
    lks_comm *comm = job->comm;
    LKS_TRY(lks_comm_agree(comm, open_experiment(job)));
    LKS_TRY(lks_comm_agree(comm, lks_job_watch(job)));
    LKS_TRY(lks_comm_agree(comm, open_model(job)));
    LKS_TRY(check_probe(job));
    LKS_TRY(lks_comm_agree(comm, open_validation(job)));
    LKS_TRY(open_reducer(job));
    LKS_TRY(lks_comm_on_root(comm, claim_on_root, job));
    LKS_TRY(lks_comm_agree(comm, lks_state_open(job)));
    LKS_TRY(lks_comm_agree(comm, lks_update_open(job)));
    LKS_TRY(lks_comm_agree(comm, open_exchange(job)));
    LKS_TRY(open_checkpoints(job));
    LKS_TRY(open_memory(job));
    LKS_TRY(lks_job_start(job));
    LKS_TRY(lks_comm_on_root(comm, record_on_root, job));
    if (job->step < job->steps)
        LKS_TRY(lks_comm_agree(comm, open_loader(job)));
    return lks_need_print(job);
}

lks_status lks_job_open(lks_job *job, const lks_train_request *request)
{
    *job = (lks_job){.request = request, .comm = request->comm, .run = {.lock = -1}};
    lks_status status = job_open(job);
    if (status != LKS_OK)
        lks_job_close(job);
    return status;
}

void lks_job_close(lks_job *job)
{
    lks_feed_close(job->feed);
    lks_loader_close(job->loader);
    lks_memory_copies_close(job->memory);
    lks_checkpoints_close(job->checkpoints);
    lks_evaluator_close(job->validation);
    lks_exchange_close(job->exchange);
    lks_update_close(job);
    lks_state_close(job);
    lks_memory_free(job->sample_ids);
    lks_reducer_close(job->reducer);
    lks_replica_release(&job->replica);
    lks_dataset_close(job->data);
    lks_device_close(job->device);
    lks_experiment_release(&job->experiment);
    lks_report_close(job->report);
    lks_run_directory_close(&job->run);
    *job = (lks_job){.run = {.lock = -1}};
}
