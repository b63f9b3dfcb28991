/* The story of a step. */
#include "runtime/train/step.h"
#include "kernels/totals.h"
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
    return lks_executor_run(job->replica.executor, &call,
                            lks_exchange_stats(job->exchange, lane, index));
}

/* Without data the lane takes part in the reduction all the same, so that the ranks stay
 * together until check_data. */
static lks_status run_lane(lks_job *job, int lane, lks_status *data)
{
    float *gradients = lks_reducer_lane(job->reducer, lane);
    for (int64_t index = 0; index < job->geometry.micro_batches && *data == LKS_OK; ++index)
        LKS_TRY(run_micro_batch(job, lane, index, gradients, data));
    int64_t samples = job->geometry.micro_batches * job->geometry.micro_batch;
    LKS_TRY(lks_ledger_hash_ids(job->sample_ids + (lane - job->geometry.first_lane) * samples,
                                (size_t)samples, lks_exchange_lane_ids(job->exchange, lane)));
    return lks_reducer_lane_done(job->reducer, lane);
}

/* From here on all ranks have the totals, on the device. */
static lks_status exchange_totals(lks_job *job, lks_status data, lks_votes *all)
{
    lks_votes votes = {.notice = lks_job_notice(job), .no_data = data != LKS_OK};
    return lks_exchange_run(job->exchange, &votes,
                            lks_optimizer_clip_norm(job->experiment.optimizer), all);
}

/* After a failure that all ranks came to know of in the step's exchange: one speaks. */
static lks_status fail_together(lks_job *job, lks_status mine)
{
    job->failed_together = true;
    mine = lks_comm_agree(job->comm, mine);
    lks_reducer_abandon(job->reducer);
    return mine;
}

static lks_status check_data(lks_job *job, lks_status mine, const lks_votes *all)
{
    return all->no_data != 0 ? fail_together(job, mine) : LKS_OK;
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
        int lane = (int)totals->bad_lane, rank = rank_of_lane(job, lane);
        return LKS_FAIL(LKS_ERR_NOT_FINITE,
                        "step %llu: the loss of lane %d is not finite (rank %d on %s): %s", step,
                        lane, rank, lks_comm_host(job->comm, rank), remedy);
    }
    return LKS_FAIL(LKS_ERR_NOT_FINITE, "step %llu: the gradient of %s is not finite: %s", step,
                    lks_job_block_tensor(job, (uint32_t)totals->bad_block)->name, remedy);
}

/* The update left everything as it was if they are not. */
static lks_status check_finite(lks_job *job, const lks_totals *totals)
{
    return lks_totals_are_finite(totals) ? LKS_OK
                                         : fail_together(job, refuse_not_finite(job, totals));
}

static lks_optimizer_step plan_update(const lks_job *job)
{
    const lks_experiment *e = &job->experiment;
    return (lks_optimizer_step){
        .step = job->step,
        .lr = lks_optimizer_learning_rate(e->optimizer) *
              lks_schedule_factor(e->schedule, job->step, job->steps),
        .buffer_scale = 1.0 / (double)(job->geometry.lanes * job->geometry.micro_batches),
        .totals = lks_exchange_totals(job->exchange),
    };
}

/* The one place of a step where the host waits for the device: all of the step has been given. A wait before
 * would leave the device idle, and is a defect. */
static lks_status take_totals(lks_job *job, uint64_t waits, lks_totals *totals)
{
    waits = lks_device_waits(job->device) - waits;
    if (waits > 0 && !lks_exchange_is_through_host(job->exchange) && !job->request->profile)
        return LKS_FAIL(LKS_ERR_INTERNAL, "step %llu waited for the device %llu times, want 0",
                        (unsigned long long)job->step, (unsigned long long)waits);
    LKS_TRY(lks_reducer_settle(job->reducer));
    return lks_exchange_take(job->exchange, totals);
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
                                   const lks_votes *votes, double lr, uint64_t start)
{
    double targets = totals->targets > 0 ? totals->targets : 1;
    const lks_schema *schema = lks_dataset_schema(job->data);
    bool classes = schema->kind == LKS_DATA_TEXT || schema->classes > 0;
    lks_reducer_stats reducer = lks_reducer_get_stats(job->reducer);
    return (lks_step_result){
        .step = job->step,
        .loss = totals->loss_sum / targets,
        .accuracy = classes ? totals->correct / targets : NAN,
        .lr = lr,
        .grad_norm = totals->norm,
        .seconds = lks_clock_seconds_since(start),
        .loader_wait_seconds = lks_loader_take_wait_seconds(job->loader),
        .reduce_wait_seconds = reducer.wait_seconds,
        .gradient_bytes = reducer.bytes_total,
        .gradient_bytes_early = reducer.bytes_early,
        .notice = votes->notice != 0,
        .notice_seconds = votes->notice,
    };
}

lks_status lks_step_run(lks_job *job, lks_step_result *out)
{
    uint64_t start = lks_clock_ns(), allocations = lks_memory_allocation_count();
    uint64_t waits = lks_device_waits(job->device);
    lks_status data = LKS_OK;
    lks_votes votes;
    lks_totals totals;

    LKS_TRY(lks_reducer_begin(job->reducer));
    for (int lane = job->geometry.first_lane; lane < job->geometry.end_lane; ++lane)
        LKS_TRY(run_lane(job, lane, &data));
    LKS_TRY(lks_reducer_sum(job->reducer));

    LKS_TRY(exchange_totals(job, data, &votes));
    LKS_TRY(check_data(job, data, &votes));

    lks_optimizer_step update = plan_update(job);
    LKS_TRY(lks_update_run(job, &update));
    LKS_TRY(lks_reducer_gather(job->reducer));
    LKS_TRY(lks_state_round(job));

    LKS_TRY(take_totals(job, waits, &totals));
    LKS_TRY(check_finite(job, &totals));

    ++job->step;
    LKS_TRY(check_allocations(job, allocations));
    *out = step_result(job, &totals, &votes, update.lr, start);
    return LKS_OK;
}
