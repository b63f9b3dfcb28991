/* The story of a step. */
#include "runtime/train/step.h"
#include "runtime/base/clock.h"
#include "runtime/base/memory.h"
#include "runtime/train/state.h"

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
                                  lks_status *data)
{
    const lks_geometry *geometry = &job->geometry;
    bool last = lane == geometry->end_lane - 1 && index == geometry->micro_batches - 1;
    int64_t at = (lane - geometry->first_lane) * geometry->micro_batches + index;
    lks_fed fed;
    *data = lks_feed_next(job->feed, &fed);
    if (*data != LKS_OK)
        return LKS_OK;
    lks_executor_call call = {
        .seed = (uint64_t)job->experiment.settings.train.seed,
        .positions = fed.positions,
        .inputs = fed.inputs,
        .parameters = lks_reducer_parameters(job->reducer),
        .rounded = job->rounded,
        .gradients = gradients,
        .accumulate = index > 0,
        .gradient_final = last && lks_reducer_overlaps(job->reducer) ? parameter_final : NULL,
        .between_ops = let_messages_move,
        .user = job,
    };
    memcpy(job->sample_ids + at * geometry->micro_batch, fed.batch.samples,
           (size_t)geometry->micro_batch * sizeof *fed.batch.samples);
    return lks_executor_run(job->replica.executor, &call, job->device_stats + 3 * at);
}

/* Without data the lane takes part in the reduction all the same, so that the ranks stay
 * together until check_data. */
static lks_status run_lane(lks_job *job, int lane, lks_status *data)
{
    float *gradients = lks_reducer_lane(job->reducer, lane);
    for (int64_t index = 0; index < job->geometry.micro_batches && *data == LKS_OK; ++index)
        LKS_TRY(run_micro_batch(job, lane, index, gradients, data));
    return lks_reducer_lane_done(job->reducer, lane);
}

/* The sums over a lane's micro-batches, in order. */
static lks_status sum_lane(lks_job *job, int lane)
{
    const lks_geometry *geometry = &job->geometry;
    int64_t count = geometry->micro_batches, at = (lane - geometry->first_lane) * count;
    lks_lane_stats *sum = lks_exchange_lane(job->exchange, lane);
    *sum = (lks_lane_stats){0};
    for (const double *stats = job->stats + 3 * at; stats < job->stats + 3 * (at + count);
         stats += 3) {
        sum->loss_sum += stats[0];
        sum->targets += stats[1];
        sum->correct += stats[2];
    }
    return lks_ledger_hash_ids(job->sample_ids + at * geometry->micro_batch,
                               (size_t)(count * geometry->micro_batch), &sum->ids);
}

/* The one place of a step where the host waits for the device. */
static lks_status bring_numbers(lks_job *job)
{
    uint32_t blocks = job->end_block - job->first_block;
    double *square_sums = lks_exchange_blocks(job->exchange);
    LKS_TRY(lks_device_copy(job->device, job->device_stats + job->stats_count,
                            lks_reducer_square_sums(job->reducer), blocks * sizeof *square_sums));
    LKS_TRY(lks_device_copy_out(job->device, job->stats, job->device_stats,
                                (job->stats_count + blocks) * sizeof *job->stats));
    for (uint32_t i = 0; i < blocks; ++i) {
        bool buffer = lks_job_block_tensor(job, job->first_block + i)->role == LKS_ROLE_BUFFER;
        square_sums[i] = buffer ? 0 : job->stats[job->stats_count + i];
    }
    for (int lane = job->geometry.first_lane; lane < job->geometry.end_lane; ++lane)
        LKS_TRY(sum_lane(job, lane));
    return LKS_OK;
}

static lks_status exchange_totals(lks_job *job, lks_status data, lks_totals *totals)
{
    LKS_TRY(bring_numbers(job));
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
    return LKS_FAIL(LKS_ERR_NOT_FINITE, "step %llu: the gradient of %s is not finite: %s", step,
                    lks_job_block_tensor(job, (uint32_t)totals->bad_block)->name, remedy);
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

/* Consecutive own blocks of one tensor. */
static lks_status update_blocks(lks_job *job, const lks_optimizer_step *step, uint32_t first,
                                uint32_t end)
{
    const lks_layout_block *from = &job->layout->blocks[first];
    const lks_layout_block *last = &job->layout->blocks[end - 1];
    float *states[LKS_OPTIMIZER_STATES_MAX];
    for (int i = 0; i < lks_optimizer_state_count(job->experiment.optimizer); ++i)
        states[i] = job->states[i] + (from->offset - job->base_offset);
    return lks_optimizer_update(
        job->experiment.optimizer, job->device, step, lks_job_block_tensor(job, first),
        last->offset + last->elements - from->offset, lks_reducer_sums(job->reducer) + from->offset,
        lks_reducer_parameters(job->reducer) + from->offset, states);
}

static lks_status update_own_blocks(lks_job *job, const lks_optimizer_step *step)
{
    for (uint32_t first = job->first_block, end; first < job->end_block; first = end) {
        const lks_layout_tensor *tensor = lks_job_block_tensor(job, first);
        end = tensor->first_block + tensor->block_count;
        end = end < job->end_block ? end : job->end_block;
        LKS_TRY(update_blocks(job, step, first, end));
    }
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
    LKS_TRY(lks_state_round(job));

    ++job->step;
    LKS_TRY(check_allocations(job, allocations));
    *out = step_result(job, &totals, &update, norm, start);
    return LKS_OK;
}
