#include "launcher/doctor/job.h"

extern char **environ;

static lks_status read_config(lks_doctor *d, lks_config *config)
{
    LKS_TRY(lks_config_read_file(config, d->options->config));
    LKS_TRY(lks_config_use_environment(config, environ));
    for (size_t i = 0; i < d->options->settings->count; ++i)
        LKS_TRY(lks_config_set(config, d->options->settings->items[i], "--set"));
    return LKS_OK;
}

lks_status lks_doctor_job_open(lks_doctor *d, lks_doctor_job *job)
{
    *job = (lks_doctor_job){.local_rank = lks_comm_local_rank(d->comm)};
    LKS_TRY(lks_config_create(&job->config));
    LKS_TRY(read_config(d, job->config));
    LKS_TRY(lks_experiment_init(&job->experiment, job->config));
    const lks_settings *settings = &job->experiment.settings;
    LKS_TRY(lks_geometry_init(&job->geometry, settings, d->rank, d->size));
    if (!*settings->data.train)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "data.train is not set: name a dataset that lockstep prepare made");
    return lks_dataset_open(&job->data, settings->data.train,
                            lks_model_context(job->experiment.model));
}

lks_status lks_doctor_job_build(lks_doctor_job *job, const lks_replica_check *check)
{
    LKS_TRY(lks_device_open(&job->device, job->experiment.settings.device.name, job->local_rank));
    lks_replica_spec replica = {.model = job->experiment.model,
                                .schema = lks_dataset_schema(job->data),
                                .mode = LKS_GRAPH_TRAIN,
                                .micro_batch = job->geometry.micro_batch,
                                .device = job->device,
                                .compute = lks_experiment_compute(&job->experiment),
                                .check = check};
    return lks_replica_init(&job->replica, &replica);
}
