#include "runtime/train/state.h"
#include "runtime/base/memory.h"

static size_t own_bytes(const lks_job *job)
{
    return job->state_elements * sizeof(float);
}

static float *own_parameters(const lks_job *job)
{
    return lks_reducer_parameters(job->reducer) + job->base_offset;
}

static int array_count(const lks_job *job)
{
    return 1 + lks_optimizer_state_count(job->experiment.optimizer);
}

/* What array i is on the device. */
static float *device_array(const lks_job *job, int i)
{
    return i == 0 ? own_parameters(job) : job->states[i - 1];
}

static void count_own_elements(lks_job *job)
{
    if (job->first_block >= job->end_block)
        return;
    const lks_layout_block *last = &job->layout->blocks[job->end_block - 1];
    job->base_offset = job->layout->blocks[job->first_block].offset;
    job->state_elements = last->offset + last->elements - job->base_offset;
}

static lks_status open_states(lks_job *job)
{
    LKS_TRY(LKS_NEW_ARRAY(&job->states, (size_t)array_count(job)));
    for (int i = 0; i + 1 < array_count(job); ++i)
        LKS_TRY(lks_device_allocate(job->device, own_bytes(job), (void **)&job->states[i]));
    return LKS_OK;
}

static lks_status open_mirror(lks_job *job)
{
    if (lks_device_is_host(job->device))
        return LKS_OK;
    job->mirror_bytes = own_bytes(job) * (size_t)array_count(job);
    LKS_TRY(lks_memory_map((void **)&job->mirror, job->mirror_bytes));
    job->mirror_step = UINT64_MAX;
    return lks_device_pin(job->device, job->mirror, job->mirror_bytes);
}

static lks_status open_arrays(lks_job *job)
{
    const lks_optimizer *optimizer = job->experiment.optimizer;
    LKS_TRY(LKS_NEW_ARRAY(&job->arrays, (size_t)array_count(job)));
    for (int i = 0; i < array_count(job); ++i)
        job->arrays[i] = (lks_state_array){
            .group = i == 0 ? "model" : lks_optimizer_state_group(optimizer, i - 1),
            .data =
                job->mirror ? job->mirror + (size_t)i * job->state_elements : device_array(job, i),
            .parameters_only = i > 0,
            .base_offset = job->base_offset};
    return LKS_OK;
}

static lks_status open_rounded(lks_job *job)
{
    if (lks_experiment_compute(&job->experiment) == LKS_F32)
        return LKS_OK;
    return lks_device_allocate(job->device, lks_layout_rounded_bytes(job->layout),
                               (void **)&job->rounded);
}

lks_status lks_state_open(lks_job *job)
{
    count_own_elements(job);
    LKS_TRY(open_states(job));
    LKS_TRY(open_mirror(job));
    LKS_TRY(open_arrays(job));
    return open_rounded(job);
}

void lks_state_close(lks_job *job)
{
    int states = job->states ? array_count(job) - 1 : 0;
    for (int i = 0; i < states; ++i)
        lks_device_free(job->device, job->states[i], own_bytes(job));
    if (job->mirror) {
        lks_device_unpin(job->device, job->mirror, job->mirror_bytes);
        lks_memory_unmap(job->mirror, job->mirror_bytes);
    }
    if (job->rounded)
        lks_device_free(job->device, job->rounded, lks_layout_rounded_bytes(job->layout));
    lks_memory_free(job->states);
    lks_memory_free(job->arrays);
}

lks_status lks_state_fetch(lks_job *job)
{
    if (!job->mirror || job->mirror_step == job->step)
        return LKS_OK;
    for (int i = 0; i < array_count(job); ++i)
        LKS_TRY(lks_device_copy_out(job->device, job->arrays[i].data, device_array(job, i),
                                    own_bytes(job)));
    job->mirror_step = job->step;
    return LKS_OK;
}

lks_status lks_state_publish(lks_job *job)
{
    lks_status status = LKS_OK;
    for (int i = 0; job->mirror && i < array_count(job) && status == LKS_OK; ++i)
        status = lks_device_copy_in(job->device, device_array(job, i), job->arrays[i].data,
                                    own_bytes(job));
    LKS_TRY(lks_comm_agree(job->comm, status));
    LKS_TRY(lks_reducer_gather(job->reducer));
    LKS_TRY(lks_reducer_settle(job->reducer));
    return lks_state_round(job);
}

lks_status lks_state_round(lks_job *job)
{
    if (!job->rounded)
        return LKS_OK;
    return lks_device_round(job->device, job->layout->flat_elements,
                            lks_reducer_parameters(job->reducer), job->rounded);
}
