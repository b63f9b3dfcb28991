/* The story of a step. */
#include "runtime/train/step.h"
#include "runtime/base/clock.h"
#include "runtime/base/memory.h"

#include <math.h>
#include <string.h>

static void parameter_final(void *user, uint32_t tensor)
{
    lks_reducer_final(((lks_job *)user)->reducer, tensor);
}

static lks_status let_messages_move(void *user)
{
    return lks_reducer_progress(((lks_job *)user)->reducer);
}

/* Forward and backward of the next micro-batch; gradients add up in place. The
 * last one of the rank's last lane tells the reducer what is final. *data: what the loader said. */
static lks_status run_micro_batch(lks_job *job, int lane, int64_t index, float *gradients,
                                  lks_lane_stats *sum, lks_status *data)
{
    const lks_geometry *geometry = &job->geometry;
    bool last = lane == geometry->end_lane - 1 && index == geometry->micro_batches - 1;
    lks_batch batch;
    double stats[3];
    *data = lks_loader_next(job->loader, &batch);
    if (*data != LKS_OK)
        return LKS_OK;
    lks_executor_call call = {
        .seed = (uint64_t)job->experiment.settings.train.seed,
        .positions = batch.positions,
        .inputs = (const void *const *)batch.fields,
        .parameters = lks_reducer_parameters(job->reducer),
        .gradients = gradients,
        .accumulate = index > 0,
        .gradient_final = last ? parameter_final : NULL,
        .between_ops = let_messages_move,
        .user = job,
    };
    LKS_TRY(lks_executor_run(job->replica.executor, &call, stats));
    sum->loss_sum += stats[0];
    sum->targets += stats[1];
    sum->correct += stats[2];
    int64_t at = (lane - geometry->first_lane) * geometry->micro_batches + index;
    memcpy(job->sample_ids + at * geometry->micro_batch, batch.samples,
           (size_t)geometry->micro_batch * sizeof *batch.samples);
    return LKS_OK;
}

/* Without data the lane takes part in the reduction all the same, so that the ranks stay
 * together until check_data. */
static lks_status run_lane(lks_job *job, int lane, lks_status *data)
{
    float *gradients = lks_reducer_lane(job->reducer, lane);
    lks_lane_stats *sum = lks_exchange_lane(job->exchange, lane);
    *sum = (lks_lane_stats){0};
    for (int64_t index = 0; index < job->geometry.micro_batches && *data == LKS_OK; ++index)
        LKS_TRY(run_micro_batch(job, lane, index, gradients, sum, data));
    int64_t samples = job->geometry.micro_batches * job->geometry.micro_batch;
    const uint64_t *ids = job->sample_ids + (lane - job->geometry.first_lane) * samples;
    LKS_TRY(lks_ledger_hash_ids(ids, (size_t)samples, &sum->ids));
    return lks_reducer_lane_done(job->reducer, lane);
}

static lks_status exchange_totals(lks_job *job, lks_status data, lks_totals *totals)
{
    for (uint32_t block = job->first_block; block < job->end_block; ++block) {
        double square_sum;
        lks_reducer_block(job->reducer, block, &square_sum);
        lks_exchange_set_block(job->exchange, block, square_sum);
    }
    lks_votes votes = {.notice = lks_job_notice(job), .no_data = data != LKS_OK};
    return lks_exchange_run(job->exchange, &votes, totals);
}

/* After a failure that all ranks came to know of in the step's exchange: one speaks. */
static lks_status fail_together(lks_job *job, lks_status mine)
{
    job->failed_together = true;
    return lks_comm_agree(job->comm, mine);
}

static lks_status check_data(lks_job *job, lks_status mine, const lks_totals *totals)
{
    return totals->no_data ? fail_together(job, mine) : LKS_OK;
}

static int rank_of_lane(const lks_job *job, int lane)
{
    int rank = 0, first, end;
    for (;; ++rank) {
        lks_lanes_of(job->geometry.lanes, rank, lks_comm_size(job->comm), &first, &end);
        if (lane < end)
            return rank;
    }
}

static lks_status refuse_not_finite(const lks_job *job, const lks_totals *totals)
{
    unsigned long long step = job->step + 1;
    const char *remedy =
        "lower optimizer.lr, set optimizer.clip_norm, or look at the data; the last "
        "checkpoint is as it was";
    if (totals->bad_lane >= 0) {
        int rank = rank_of_lane(job, totals->bad_lane);
        return LKS_FAIL(LKS_ERR_NOT_FINITE,
                        "step %llu: the loss of lane %d is not finite (rank %d on %s): %s", step,
                        totals->bad_lane, rank, lks_comm_host(job->comm, rank), remedy);
    }
    uint32_t tensor = job->layout->blocks[totals->bad_block].tensor;
    return LKS_FAIL(LKS_ERR_NOT_FINITE, "step %llu: the gradient of %s is not finite: %s", step,
                    job->layout->tensors[tensor].name, remedy);
}

static lks_status check_finite(lks_job *job, const lks_totals *totals)
{
    if (totals->bad_lane < 0 && totals->bad_block < 0)
        return LKS_OK;
    return fail_together(job, refuse_not_finite(job, totals));
}

/* What the totals say about this step's update. */
static lks_optimizer_step plan_update(const lks_job *job, const lks_totals *totals, double *norm)
{
    const lks_experiment *e = &job->experiment;
    double targets = totals->targets > 0 ? totals->targets : 1;
    double clip = lks_optimizer_clip_norm(e->optimizer);
    *norm = sqrt(totals->square_sum) / targets;
    double factor = clip > 0 && *norm > clip ? clip / *norm : 1;
    return (lks_optimizer_step){
        .step = job->step,
        .lr = lks_optimizer_learning_rate(e->optimizer) *
              lks_schedule_factor(e->schedule, job->step, job->steps),
        .gradient_scale = factor / targets,
        .buffer_scale = 1.0 / (double)(job->geometry.lanes * job->geometry.micro_batches),
    };
}

static lks_status update_block(lks_job *job, const lks_optimizer_step *step, uint32_t index)
{
    const lks_layout_block *block = &job->layout->blocks[index];
    float *states[LKS_OPTIMIZER_STATES_MAX];
    double square_sum;
    const float *gradient = lks_reducer_block(job->reducer, index, &square_sum);
    for (int i = 0; i < lks_optimizer_state_count(job->experiment.optimizer); ++i)
        states[i] = job->states[i] + (block->offset - job->base_offset);
    return lks_optimizer_update(job->experiment.optimizer, job->device, step,
                                &job->layout->tensors[block->tensor], block->elements, gradient,
                                lks_reducer_parameters(job->reducer) + block->offset, states);
}

static lks_status update_own_blocks(lks_job *job, const lks_optimizer_step *step)
{
    for (uint32_t block = job->first_block; block < job->end_block; ++block)
        LKS_TRY(update_block(job, step, block));
    return LKS_OK;
}

/* Everything is allocated before the second step; a later allocation is a defect. */
static lks_status check_allocations(lks_job *job, uint64_t before)
{
    uint64_t now = lks_memory_allocation_count();
    if (job->allocations && now != before)
        return LKS_FAIL(LKS_ERR_INTERNAL, "step %llu allocated memory %llu times, want 0",
                        (unsigned long long)job->step, (unsigned long long)(now - before));
    job->allocations = now;
    return LKS_OK;
}

static lks_step_result step_result(const lks_job *job, const lks_totals *totals,
                                   const lks_optimizer_step *update, double norm, uint64_t start)
{
    double targets = totals->targets > 0 ? totals->targets : 1;
    const lks_schema *schema = lks_dataset_schema(job->data);
    bool classes = schema->kind == LKS_DATA_TEXT || schema->classes > 0;
    lks_reducer_stats reducer = lks_reducer_get_stats(job->reducer);
    return (lks_step_result){
        .step = job->step,
        .loss = totals->loss_sum / targets,
        .accuracy = classes ? totals->correct / targets : NAN,
        .lr = update->lr,
        .grad_norm = norm,
        .seconds = lks_clock_seconds_since(start),
        .loader_wait_seconds = lks_loader_take_wait_seconds(job->loader),
        .reduce_wait_seconds = reducer.wait_seconds,
        .gradient_bytes = reducer.bytes_total,
        .gradient_bytes_early = reducer.bytes_early,
        .notice = totals->notice,
        .notice_seconds = totals->notice_seconds,
    };
}

lks_status lks_step_run(lks_job *job, lks_step_result *out)
{
    uint64_t start = lks_clock_ns(), allocations = lks_memory_allocation_count();
    lks_status data = LKS_OK;
    lks_totals totals;
    double norm;

    LKS_TRY(lks_reducer_begin(job->reducer));
    for (int lane = job->geometry.first_lane; lane < job->geometry.end_lane; ++lane)
        LKS_TRY(run_lane(job, lane, &data));
    LKS_TRY(lks_reducer_sum(job->reducer));

    LKS_TRY(exchange_totals(job, data, &totals));
    LKS_TRY(check_data(job, data, &totals));
    LKS_TRY(check_finite(job, &totals));

    lks_optimizer_step update = plan_update(job, &totals, &norm);
    LKS_TRY(update_own_blocks(job, &update));
    LKS_TRY(lks_reducer_gather(job->reducer));

    ++job->step;
    LKS_TRY(check_allocations(job, allocations));
    *out = step_result(job, &totals, &update, norm, start);
    return LKS_OK;
}
