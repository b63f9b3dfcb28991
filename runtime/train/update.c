#include "runtime/train/update.h"
#include "runtime/base/memory.h"
#include "runtime/train/job.h"

static size_t part_bytes(const lks_update_part *part)
{
    return part->count * sizeof *part->blocks;
}

static lks_status open_part(lks_job *job, lks_optimizer_part which)
{
    lks_update_part *part = &job->update_parts[which];
    LKS_TRY(LKS_NEW_ARRAY(&part->host_blocks, job->end_block - job->first_block));
    for (uint32_t i = job->first_block; i < job->end_block; ++i)
        if (lks_optimizer_part_of(lks_job_block_tensor(job, i)) == which)
            part->host_blocks[part->count++] = job->layout->blocks[i];
    LKS_TRY(lks_device_allocate(job->device, part_bytes(part), (void **)&part->blocks));
    return lks_device_copy_in(job->device, part->blocks, part->host_blocks, part_bytes(part));
}

lks_status lks_update_open(lks_job *job)
{
    for (int i = 0; i < LKS_OPTIMIZER_PARTS; ++i)
        LKS_TRY(open_part(job, (lks_optimizer_part)i));
    return LKS_OK;
}

void lks_update_close(lks_job *job)
{
    for (int i = 0; i < LKS_OPTIMIZER_PARTS; ++i) {
        lks_update_part *part = &job->update_parts[i];
        if (part->blocks)
            lks_device_free(job->device, part->blocks, part_bytes(part));
        lks_memory_free(part->host_blocks);
    }
}

lks_status lks_update_run(lks_job *job, const lks_optimizer_step *step)
{
    lks_update_blocks what = {.gradient = lks_reducer_sums(job->reducer),
                              .parameter = lks_reducer_parameters(job->reducer),
                              .origin = job->base_offset};
    for (int i = 0; i < lks_optimizer_state_count(job->experiment.optimizer); ++i)
        what.states[i] = job->states[i];
    for (int i = 0; i < LKS_OPTIMIZER_PARTS; ++i) {
        what.blocks = job->update_parts[i].blocks;
        what.host_blocks = job->update_parts[i].host_blocks;
        what.count = job->update_parts[i].count;
        LKS_TRY(lks_optimizer_update(job->experiment.optimizer, job->device, step,
                                     (lks_optimizer_part)i, &what));
    }
    return LKS_OK;
}
