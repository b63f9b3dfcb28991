/* The gradients of a job's first step against its golden, through model, graph and executor.
 *
 *   compare_gradients GOLDEN CONFIG       in the directory of the job's data
 *
 * Bound, relative to the largest element of each tensor's gradient: sqrt(gradient_terms) u, by the
 * argument of compare_run.c; gradient_terms counts the terms of the sums on the way to the loss
 * and back, and the rows of the batch that a weight's gradient is summed over. The golden's
 * own numbers are rounded to f32: + u. That the test can fail is shown by a copy of each gradient
 * that is wrong by 2^-12 of its largest element in one place.
 */
#include "runtime/base/memory.h"
#include "runtime/datasets/dataset.h"
#include "runtime/train/experiment.h"
#include "runtime/train/replica.h"
#include "tests/golden/golden.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct step {
    lks_config *config;
    lks_experiment experiment;
    lks_device *device;
    lks_dataset *data;
    lks_replica replica;
    float *parameters, *gradients; /* flat */
    double targets;
} step;

static lks_status step_open(step *s, const char *config)
{
    LKS_TRY(lks_config_create(&s->config));
    LKS_TRY(lks_config_read_file(s->config, config));
    LKS_TRY(lks_experiment_init(&s->experiment, s->config));
    const lks_settings *settings = &s->experiment.settings;
    lks_model *model = s->experiment.model;
    LKS_TRY(lks_device_open(&s->device, settings->device.name, 0));
    LKS_TRY(lks_dataset_open(&s->data, settings->data.train, lks_model_context(model)));
    lks_replica_spec replica = {.model = model,
                                .schema = lks_dataset_schema(s->data),
                                .mode = LKS_GRAPH_TRAIN,
                                .micro_batch = settings->train.micro_batch,
                                .device = s->device,
                                .compute = lks_experiment_compute(&s->experiment)};
    LKS_TRY(lks_replica_init(&s->replica, &replica));
    uint64_t elements = lks_graph_layout(s->replica.graph)->flat_elements;
    LKS_TRY(LKS_NEW_ARRAY(&s->parameters, elements));
    LKS_TRY(LKS_NEW_ARRAY(&s->gradients, elements));
    return lks_graph_initialize(s->replica.graph, (uint64_t)settings->train.seed, s->parameters);
}

static void step_close(step *s)
{
    lks_memory_free(s->gradients);
    lks_memory_free(s->parameters);
    lks_replica_release(&s->replica);
    lks_dataset_close(s->data);
    lks_device_close(s->device);
    lks_experiment_release(&s->experiment);
    lks_config_destroy(s->config);
}

static lks_status step_micro_batch(step *s, const uint64_t *samples, void *const *fields,
                                   bool accumulate)
{
    int64_t count = s->experiment.settings.train.micro_batch;
    double stats[3];
    LKS_TRY(lks_dataset_read(s->data, samples, count, fields));
    lks_executor_call call = {.positions = samples,
                              .inputs = (const void *const *)fields,
                              .parameters = s->parameters,
                              .gradients = s->gradients,
                              .accumulate = accumulate};
    LKS_TRY(lks_executor_run(s->replica.executor, &call, stats));
    s->targets += stats[1];
    return LKS_OK;
}

static lks_status step_allocate_fields(const step *s, void *fields[LKS_SCHEMA_FIELDS])
{
    const lks_schema *schema = lks_dataset_schema(s->data);
    for (int i = 0; i < schema->field_count; ++i) {
        size_t bytes = lks_field_bytes(&schema->fields[i]);
        LKS_TRY(lks_memory_allocate(&fields[i], (size_t)s->experiment.settings.train.micro_batch,
                                    bytes));
    }
    return LKS_OK;
}

/* All micro-batches of the step, as one lane. */
static lks_status step_run(step *s, const json_t *ids)
{
    void *fields[LKS_SCHEMA_FIELDS];
    size_t count = (size_t)s->experiment.settings.train.micro_batch;
    uint64_t *samples;
    LKS_TRY(step_allocate_fields(s, fields));
    LKS_TRY(LKS_NEW_ARRAY(&samples, count));
    for (size_t at = 0; at < json_array_size(ids); at += count) {
        for (size_t i = 0; i < count; ++i)
            samples[i] = (uint64_t)json_integer_value(json_array_get(ids, at + i));
        LKS_TRY(step_micro_batch(s, samples, fields, at > 0));
    }
    lks_memory_free(samples);
    for (int i = 0; i < LKS_SCHEMA_FIELDS; ++i)
        lks_memory_free(fields[i]);
    return LKS_OK;
}

/* Times the bound; `mistake` is added to one element, in units of the largest. */
static double compare(const step *s, const lks_layout_tensor *tensor, const golden_tensor *wanted,
                      double bound, double mistake)
{
    double largest = 0, difference = 0;
    for (size_t i = 0; i < wanted->elements; ++i)
        largest = fmax(largest, fabs(golden_at(wanted, i)));
    for (size_t i = 0; i < wanted->elements; ++i) {
        double found = s->gradients[tensor->offset + i] / s->targets;
        if (i == wanted->elements / 2)
            found += mistake * largest;
        double error = fabs(found - golden_at(wanted, i));
        difference = isfinite(error) ? fmax(difference, error) : INFINITY;
    }
    return difference / (bound * largest);
}

static bool compare_all(const step *s, const golden *g)
{
    const lks_layout *layout = lks_graph_layout(s->replica.graph);
    const json_t *gradients = json_object_get(g->index, "gradients");
    double terms = json_number_value(json_object_get(g->index, "gradient_terms"));
    double bound = (sqrt(terms) + 1) * GOLDEN_UNIT, worst = 0, least = INFINITY;
    const char *which = "none";
    for (uint32_t i = 0; i < layout->tensor_count; ++i) {
        const lks_layout_tensor *tensor = &layout->tensors[i];
        if (tensor->role == LKS_ROLE_BUFFER)
            continue;
        const json_t *entry = json_object_get(gradients, tensor->name);
        if (!entry)
            golden_die("the golden has no gradient of %s", tensor->name);
        golden_tensor wanted = golden_read(g, entry);
        if (wanted.elements != tensor->elements)
            golden_die("%s: %llu elements, want %zu", tensor->name,
                       (unsigned long long)tensor->elements, wanted.elements);
        double now = compare(s, tensor, &wanted, bound, 0);
        least = fmin(least, compare(s, tensor, &wanted, bound, 0x1p-12));
        if (now >= worst) {
            worst = now;
            which = tensor->name;
        }
    }
    printf("times the bound: %.3g (%s); with a mistake of 2^-12 at least %.3g\n", worst, which,
           least);
    return worst <= 1 && least > 1;
}

int main(int argc, char **argv)
{
    golden g;
    step s = {0};
    if (argc != 3)
        golden_die("usage: compare_gradients GOLDEN CONFIG");
    golden_open(&g, argv[1]);
    const json_t *ids = json_array_get(json_object_get(g.index, "samples"), 0);
    if (step_open(&s, argv[2]) != LKS_OK || step_run(&s, ids) != LKS_OK)
        golden_die("%s", lks_status_message());
    bool good = compare_all(&s, &g);
    step_close(&s);
    golden_close(&g);
    return !good;
}
