/* What the configuration will need, by the trainer's own layout, geometry and graph. */
#include "collectives/lane_tree.h"
#include "collectives/reducer.h"
#include "launcher/doctor/job.h"
#include "runtime/base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { GENERATIONS = 2 }; /* of copies in node memory */

static void put(json_t *facts, const char *key, double number)
{
    json_object_set_new(facts, key, json_real(number));
}

static void put_text(json_t *facts, const char *key, const char *text)
{
    json_object_set_new(facts, key, lks_json_text(text));
}

static void put_settings(lks_doctor *d, const lks_doctor_job *job, json_t *facts)
{
    const lks_settings *s = &job->experiment.settings;
    const char *name = strrchr(d->options->config, '/');
    name = name ? name + 1 : d->options->config;
    const char *dot = strrchr(name, '.');
    int length = dot && dot != name ? (int)(dot - name) : (int)strlen(name);
    put_text(facts, "run", lks_doctor_say(d, "runs/%.*s", length, name));
    put_text(facts, "device", s->device.name);
    put_text(facts, "memory_directory", s->checkpoint.memory_directory);
    put_text(facts, "notice_file", s->preemption.file);
    put_text(facts, "notice_url", s->preemption.url);
    put(facts, "notice_source", s->preemption.source);
    put(facts, "keep", (double)s->checkpoint.keep);
    put(facts, "keep_best", s->checkpoint.keep_best);
    put(facts, "every_steps", (double)s->checkpoint.every_steps);
    put(facts, "memory_every_steps", (double)s->checkpoint.memory_every_steps);
    put(facts, "samples", (double)lks_dataset_samples(job->data));
    put(facts, "lanes", job->geometry.lanes);
    put(facts, "own_lanes", job->geometry.end_lane - job->geometry.first_lane);
    put(facts, "global_batch", (double)job->geometry.global_batch);
    put(facts, "micro_batch", (double)job->geometry.micro_batch);
    put(facts, "micro_batches", (double)job->geometry.micro_batches);
}

static double own_elements(const lks_layout *layout, int rank, int size)
{
    uint32_t first, end;
    lks_layout_owned(layout, rank, size, &first, &end);
    if (first >= end)
        return 0;
    const lks_layout_block *last = &layout->blocks[end - 1];
    return (double)(last->offset + last->elements - layout->blocks[first].offset);
}

/* As the links shm and mpi lay them out. */
static void put_links(lks_doctor *d, const lks_doctor_job *job, const lks_layout *layout,
                      json_t *facts)
{
    const char *link = job->experiment.settings.collectives.link;
    bool cpu = !strncmp(lks_device_name(job->device), "cpu", 3);
    bool shared = cpu && lks_comm_node_count(d->comm) == 1 && strcmp(link, "mpi") != 0 &&
                  strcmp(link, "verbs") != 0;
    double array = (double)layout->flat_elements * sizeof(float);
    int leaves = 0, own_leaves = 0, levels = 0, own_levels = 0, first, end;
    for (int r = 0; r < d->size; ++r) {
        lks_lane_stack stack;
        lks_lanes_of(job->geometry.lanes, r, d->size, &first, &end);
        lks_lane_partials(job->geometry.lanes, first, end, &stack);
        int here = lks_lane_levels(job->geometry.lanes, first, end);
        leaves += stack.count;
        levels += here;
        own_leaves = r == d->rank ? stack.count : own_leaves;
        own_levels = r == d->rank ? here : own_levels;
    }
    double inbox = (leaves - own_leaves) * own_elements(layout, d->rank, d->size) * sizeof(float);
    put(facts, "shared_bytes", shared ? (1 + levels) * array : 0);
    put(facts, "private_bytes", shared ? 0 : (1 + own_levels) * array + inbox);
    put(facts, "exchange_bytes", shared || d->size == 1 ? 0 : 2 * array);
}

static void put_state(lks_doctor *d, const lks_doctor_job *job, const lks_layout *layout,
                      json_t *facts)
{
    const lks_settings *s = &job->experiment.settings;
    int groups = 1 + lks_optimizer_state_count(job->experiment.optimizer);
    double own = own_elements(layout, d->rank, d->size) * sizeof(float);
    int copies = lks_comm_node_count(d->comm) > 1 ? 2 : 1; /* own, and the neighbour's */
    double kept = s->checkpoint.memory_every_steps ? own * groups * copies * GENERATIONS : 0;
    put(facts, "parameters", (double)layout->elements);
    put(facts, "checkpoint_bytes", (double)layout->elements * sizeof(float) * groups);
    put(facts, "staging_bytes", own * groups * (double)s->checkpoint.buffers);
    put(facts, "optimizer_bytes", own * (groups - 1));
    put(facts, "copies_bytes", kept);
}

static double ring_bytes(const lks_doctor_job *job)
{
    const lks_schema *schema = lks_dataset_schema(job->data);
    double sample = sizeof(uint64_t) * 2;
    for (int i = 0; i < schema->field_count; ++i)
        sample += (double)lks_field_bytes(&schema->fields[i]);
    return sample * (double)job->geometry.micro_batch * (double)job->experiment.settings.data.ring;
}

typedef struct plan {
    lks_doctor *d;
    const lks_doctor_job *job;
    json_t *facts;
} plan;

static void put_activations(const plan *p, double bytes)
{
    put(p->facts, "activations_bytes", bytes);
    /* Validation has a graph without a backward pass: it needs no more than the training's. */
    put(p->facts, "validation_bytes", *p->job->experiment.settings.data.validation ? bytes : 0);
}

/* Asked before memory is taken: what is known then stays known when there is not enough. */
static lks_status put_needs(void *user, const lks_layout *layout, uint64_t activations_bytes)
{
    const plan *p = user;
    if (!activations_bytes)
        return LKS_OK;
    put_links(p->d, p->job, layout, p->facts);
    put_state(p->d, p->job, layout, p->facts);
    put_activations(p, (double)activations_bytes);
    put(p->facts, "ring_bytes", ring_bytes(p->job));
    put(p->facts, "on_host", lks_device_is_host(p->job->device));
    put_text(p->facts, "model", lks_model_name(p->job->experiment.model));
    put_text(p->facts, "arithmetic", lks_device_arithmetic(p->job->device));
    return LKS_OK;
}

static lks_status plan_look(lks_doctor *d, json_t *facts)
{
    lks_doctor_job job;
    plan p = {d, &job, facts};
    if (!d->options->config)
        return LKS_OK;
    LKS_TRY(lks_doctor_job_open(d, &job));
    put_settings(d, &job, facts);
    if (lks_doctor_job_build(&job, &(lks_replica_check){put_needs, &p}) != LKS_OK) {
        put_text(facts, "problem", lks_status_message());
        return LKS_OK;
    }
    lks_executor_memory memory = lks_executor_get_memory(job.replica.executor);
    put_activations(
        &p, (double)(memory.activations_bytes + memory.workspace_bytes + memory.constants_bytes));
    return LKS_OK;
}

static void plan_judge(lks_doctor *d)
{
    if (!d->options->config) {
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "no CONFIG was given: nothing is said of what a job needs");
        return;
    }
    for (int r = 0; r < d->size; ++r)
        if (lks_doctor_has(d, r, "problem"))
            lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, r, NULL, "%s",
                           lks_doctor_text(d, r, "problem"));
    if (lks_doctor_has_trouble(d))
        return;
    lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                   "%s: %s with %.0f parameters, %.0f samples, %.0f lanes on %d rank%s",
                   d->options->config, lks_doctor_text(d, 0, "model"),
                   lks_doctor_number(d, 0, "parameters"), lks_doctor_number(d, 0, "samples"),
                   lks_doctor_number(d, 0, "lanes"), d->size, d->size == 1 ? "" : "s");
}

const lks_doctor_check lks_doctor_check_plan = {
    .name = "plan",
    .about = "the configuration, its data, and what the job will need",
    .look = plan_look,
    .judge = plan_judge,
};
