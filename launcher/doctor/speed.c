/* How long a step, an epoch and a checkpoint will take. */
#include "kernels/ops.h"
#include "launcher/doctor/host.h"
#include "launcher/doctor/job.h"
#include "runtime/base/clock.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { RUNS = 5, MATRIX = 512 };
static const double enough_seconds = 1.5;

/* --- A micro-batch, forward and backward -------------------------------------------- */

typedef struct trial {
    lks_doctor_job job;
    void *inputs[LKS_SCHEMA_FIELDS];
    float *parameters, *gradients;
    uint16_t *rounded;   /* NULL: the graph computes in f32 */
    uint64_t *positions; /* device memory */
    double *stats;       /* [3], device memory */
    uint64_t deadline_ns;
    bool late;
} trial;

static lks_status between_ops(void *user)
{
    trial *t = user;
    t->late = lks_clock_ns() > t->deadline_ns;
    return t->late ? LKS_FAIL(LKS_ERR_INTERNAL, "no time is left") : LKS_OK;
}

static lks_status trial_read(trial *t)
{
    const lks_schema *schema = lks_dataset_schema(t->job.data);
    size_t batch = (size_t)t->job.geometry.micro_batch;
    uint64_t *samples;
    void *host[LKS_SCHEMA_FIELDS];
    LKS_TRY(LKS_NEW_ARRAY(&samples, batch));
    for (size_t i = 0; i < batch; ++i)
        samples[i] = i % lks_dataset_samples(t->job.data);
    for (int i = 0; i < schema->field_count; ++i) {
        size_t bytes = lks_field_bytes(&schema->fields[i]);
        LKS_TRY(lks_memory_allocate(&host[i], batch, bytes));
        LKS_TRY(lks_device_allocate(t->job.device, batch * bytes, &t->inputs[i]));
    }
    LKS_TRY(lks_dataset_read(t->job.data, samples, (int64_t)batch, host));
    for (int i = 0; i < schema->field_count; ++i)
        LKS_TRY(lks_device_copy_in(t->job.device, t->inputs[i], host[i],
                                   batch * lks_field_bytes(&schema->fields[i])));
    LKS_TRY(lks_device_allocate(t->job.device, batch * sizeof *samples, (void **)&t->positions));
    return lks_device_copy_in(t->job.device, t->positions, samples, batch * sizeof *samples);
}

static lks_status trial_allocate(trial *t)
{
    size_t elements = lks_graph_layout(t->job.replica.graph)->flat_elements;
    size_t bytes = elements * sizeof(float);
    void *initial;
    LKS_TRY(lks_device_allocate(t->job.device, bytes, (void **)&t->parameters));
    LKS_TRY(lks_device_allocate(t->job.device, bytes, (void **)&t->gradients));
    LKS_TRY(lks_device_allocate(t->job.device, 3 * sizeof *t->stats, (void **)&t->stats));
    if (lks_experiment_compute(&t->job.experiment) != LKS_F32)
        LKS_TRY(lks_device_allocate(t->job.device, elements * sizeof *t->rounded,
                                    (void **)&t->rounded));
    LKS_TRY(lks_memory_allocate(&initial, bytes, 1));
    LKS_TRY(lks_graph_initialize(t->job.replica.graph, 1, initial));
    LKS_TRY(lks_device_copy_in(t->job.device, t->parameters, initial, bytes));
    return trial_read(t);
}

/* Done when its sums are here. */
static lks_status trial_run(trial *t, double *seconds)
{
    lks_executor_call call = {.seed = 1,
                              .positions = t->positions,
                              .inputs = (const void *const *)t->inputs,
                              .parameters = t->parameters,
                              .rounded = t->rounded,
                              .gradients = t->gradients,
                              .between_ops = between_ops,
                              .user = t};
    double stats[3];
    uint64_t start = lks_clock_ns();
    LKS_TRY(lks_executor_run(t->job.replica.executor, &call, t->stats));
    LKS_TRY(lks_device_copy_out(t->job.device, stats, t->stats, sizeof stats));
    *seconds = lks_clock_seconds_since(start);
    return LKS_OK;
}

/* The first one touches the memory; of the others the fastest counts. */
static lks_status trial_measure(trial *t, json_t *facts)
{
    double least = INFINITY, seconds, total = 0;
    int runs = 0;
    lks_status status = trial_run(t, &seconds);
    for (; status == LKS_OK && runs < RUNS && total < enough_seconds; ++runs) {
        status = trial_run(t, &seconds);
        least = status == LKS_OK && seconds < least ? seconds : least;
        total += seconds;
    }
    if (isfinite(least)) {
        json_object_set_new(facts, "micro_seconds", json_real(least));
        json_object_set_new(facts, "runs", json_integer(runs));
    }
    return t->late ? LKS_OK : status;
}

/* --- Or the rate of a matrix product ------------------------------------------------ */

static lks_status matrix_rate(lks_device *device, double *flops_per_second)
{
    lks_linear_attributes attributes = {LKS_IDENTITY};
    lks_kernel_tensor square = {LKS_F32, {2, {MATRIX, MATRIX}}}, none = {0};
    lks_kernel_tensor inputs[] = {square, square, none}, outputs[] = {square, none};
    lks_kernel_spec spec = {"linear", &attributes, inputs, 3, outputs, 2};
    void *memory[4] = {0};
    lks_kernel *kernel;
    LKS_TRY(lks_kernel_prepare(&kernel, device, &spec));
    for (int i = 0; i < 3; ++i)
        LKS_TRY(lks_device_allocate(device, (size_t)MATRIX * MATRIX * sizeof(float), &memory[i]));
    LKS_TRY(lks_device_allocate(device, lks_kernel_workspace(kernel), &memory[3]));
    lks_kernel_run run = {.inputs = (const void *const[]){memory[0], memory[1], NULL},
                          .outputs = (void *const[]){memory[2], NULL},
                          .workspace = memory[3]};
    double least = INFINITY;
    for (int i = 0; i < 2 * RUNS; ++i) {
        uint64_t start = lks_clock_ns();
        LKS_TRY(lks_kernel_execute(kernel, &run));
        least = fmin(least, lks_clock_seconds_since(start));
    }
    *flops_per_second = 2.0 * MATRIX * MATRIX * MATRIX / least;
    return LKS_OK;
}

/* 6 operations a parameter and token, forward and backward (Kaplan et al. 2020, section 2.1). */
static lks_status estimate(trial *t, json_t *facts)
{
    const lks_schema *schema = lks_dataset_schema(t->job.data);
    double rate, parameters = (double)lks_graph_layout(t->job.replica.graph)->elements;
    if (schema->kind != LKS_DATA_TEXT)
        return LKS_OK;
    LKS_TRY(matrix_rate(t->job.device, &rate));
    json_object_set_new(facts, "matrix_rate", json_real(rate));
    json_object_set_new(facts, "micro_seconds",
                        json_real(6 * parameters * (double)schema->context *
                                  (double)t->job.geometry.micro_batch / rate));
    return LKS_OK;
}

static bool fits(lks_doctor *d)
{
    double need = lks_doctor_plan(d, d->rank, "activations_bytes") +
                  2 * sizeof(float) * lks_doctor_plan(d, d->rank, "parameters");
    return need * lks_comm_local_size(d->comm) < 0.8 * (double)lks_host_available_bytes();
}

static lks_status speed_look(lks_doctor *d, json_t *facts)
{
    trial t = {.deadline_ns = lks_clock_ns() + (uint64_t)(0.6e9 * d->options->limit_seconds)};
    json_t *all = NULL;
    if (!lks_doctor_is_planned(d))
        return LKS_OK;
    LKS_TRY(lks_doctor_job_open(d, &t.job));
    LKS_TRY(lks_doctor_job_build(&t.job, NULL));
    LKS_TRY(lks_doctor_exchange(d, json_object(), &all)); /* all measure at once, as in a step */
    t.deadline_ns = lks_clock_ns() + (uint64_t)(0.6e9 * d->options->limit_seconds);
    bool room = fits(d);
    if (room)
        LKS_TRY(trial_allocate(&t));
    if (room)
        LKS_TRY(trial_measure(&t, facts));
    return json_object_get(facts, "micro_seconds") ? LKS_OK : estimate(&t, facts);
}

/* --- Judging ----------------------------------------------------------------------- */

static const char *duration(const lks_doctor *d, double seconds)
{
    if (seconds < 10)
        return lks_doctor_say(d, "%.2g s", seconds);
    if (seconds < 600)
        return lks_doctor_say(d, "%.0f s", seconds);
    if (seconds < 6 * 3600)
        return lks_doctor_say(d, "%.0f min", seconds / 60);
    return seconds < 3 * 86400 ? lks_doctor_say(d, "%.1f h", seconds / 3600)
                               : lks_doctor_say(d, "%.1f days", seconds / 86400);
}

/* The slowest rank's lanes; *slowest: which. */
static double compute_seconds(const lks_doctor *d, int *slowest)
{
    double most = 0;
    for (int r = 0; r < d->size; ++r) {
        double seconds = lks_doctor_number(d, r, "micro_seconds") *
                         lks_doctor_plan(d, r, "micro_batches") *
                         lks_doctor_plan(d, r, "own_lanes");
        if (seconds > most) {
            most = seconds;
            *slowest = r;
        }
    }
    return most;
}

/* Gradients there, parameters back, over the host's one interface. */
static double exchange_seconds(const lks_doctor *d)
{
    double bytes = lks_doctor_plan(d, 0, "exchange_bytes");
    double rate =
        json_number_value(json_object_get(lks_doctor_facts(d, "network", 0), "best_rate"));
    return bytes > 0 && rate > 0 ? bytes * lks_comm_local_size(d->comm) / rate : 0;
}

static void tell_epoch(lks_doctor *d, double compute, double exchange, int slowest)
{
    double steps = lks_doctor_plan(d, 0, "samples") / lks_doctor_plan(d, 0, "global_batch");
    const char *how =
        lks_doctor_has(d, slowest, "matrix_rate")
            ? lks_doctor_say(d, "from the measured rate of matrix products, %.0f GFLOP/s a rank",
                             lks_doctor_number(d, slowest, "matrix_rate") / 1e9)
            : lks_doctor_say(d, "from %.0f measured micro-batches a rank",
                             lks_doctor_number(d, slowest, "runs"));
    const char *sent =
        exchange > 0 ? lks_doctor_say(d, ", and %s to exchange gradients at the measured rate",
                                      duration(d, exchange))
                     : "";
    lks_doctor_row(d, "epoch", LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                   "about %s in %.0f steps of %s: %s to compute, %s%s",
                   duration(d, steps * (compute + exchange)), ceil(steps),
                   duration(d, compute + exchange), duration(d, compute), how, sent);
}

static void tell_checkpoint(lks_doctor *d, double step)
{
    double rate = json_number_value(json_object_get(lks_doctor_facts(d, "run", 0), "total_rate"));
    double bytes = lks_doctor_plan(d, 0, "checkpoint_bytes"),
           every = lks_doctor_plan(d, 0, "every_steps");
    if (!(rate > 0))
        return;
    double seconds = bytes / rate;
    bool late = every > 0 && step > 0 && seconds > every * step;
    lks_doctor_row(
        d, "checkpoint", late ? LKS_DOCTOR_WARN : LKS_DOCTOR_OK, LKS_DOCTOR_ALL,
        late ? lks_doctor_say(d, "--set checkpoint.every_steps=%.0f", ceil(4 * seconds / step))
             : NULL,
        "%s in about %s at the measured write rate, beside the training%s",
        lks_doctor_bytes(d, bytes), duration(d, seconds),
        late ? lks_doctor_say(d, "; one is due every %s", duration(d, every * step)) : "");
}

static void tell_slow_ranks(lks_doctor *d)
{
    double fastest = INFINITY;
    for (int r = 0; r < d->size; ++r)
        fastest = fmin(fastest, lks_doctor_number(d, r, "micro_seconds"));
    for (int r = 0; r < d->size; ++r)
        if (lks_doctor_number(d, r, "micro_seconds") > 2 * fastest)
            lks_doctor_row(d, "slow ranks", LKS_DOCTOR_WARN, r,
                           lks_doctor_on(d, r, "ps -eo pcpu,pid,user,args --sort=-pcpu"),
                           "a micro-batch takes more than twice the fastest rank's time: each step "
                           "waits for it");
}

static void speed_judge(lks_doctor *d)
{
    int slowest = 0;
    if (!lks_doctor_is_planned(d))
        return;
    double compute = compute_seconds(d, &slowest), exchange = exchange_seconds(d);
    if (compute > 0)
        tell_epoch(d, compute, exchange, slowest);
    else if (!lks_doctor_has_trouble(d))
        lks_doctor_row(d, "epoch", LKS_DOCTOR_WARN, LKS_DOCTOR_ALL,
                       lks_doctor_say(d, "lockstep doctor %s --limit %g", d->options->config,
                                      10 * d->options->limit_seconds),
                       "a micro-batch takes longer than %g s", 0.6 * d->options->limit_seconds);
    tell_slow_ranks(d);
    tell_checkpoint(d, compute + exchange);
}

const lks_doctor_check lks_doctor_check_speed = {
    .name = "speed",
    .about = "how long an epoch and a checkpoint will take",
    .look = speed_look,
    .judge = speed_judge,
};
