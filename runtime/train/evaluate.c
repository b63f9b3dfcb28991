#include "runtime/train/evaluate.h"
#include "collectives/reducer.h"
#include "runtime/base/clock.h"
#include "runtime/base/memory.h"
#include "runtime/train/feed.h"

#include <math.h>

typedef struct batch_stats {
    double loss_sum, targets, correct;
} batch_stats;

struct lks_evaluator {
    lks_evaluator_spec spec;
    lks_dataset *dataset;
    lks_replica replica;
    int batches, first, end; /* of the dataset; this rank's */
    size_t *bytes;           /* [world size] of each rank's part of `all` */
    batch_stats *mine, *all;
    double *device_mine; /* `mine` as the device gives it */
};

static size_t evaluator_mine_bytes(const lks_evaluator *e)
{
    return (size_t)(e->end - e->first) * sizeof *e->mine;
}

static lks_status evaluator_share(lks_evaluator *e)
{
    int64_t batch = e->spec.micro_batch;
    int world_size = lks_comm_size(e->spec.comm);
    e->batches = (int)((lks_dataset_samples(e->dataset) + (uint64_t)batch - 1) / (uint64_t)batch);
    LKS_TRY(LKS_NEW_ARRAY(&e->bytes, (size_t)world_size));
    for (int rank = 0; rank < world_size; ++rank) {
        int first, end;
        lks_lanes_of(e->batches, rank, world_size, &first, &end);
        e->bytes[rank] = (size_t)(end - first) * sizeof(batch_stats);
    }
    lks_lanes_of(e->batches, lks_comm_rank(e->spec.comm), world_size, &e->first, &e->end);
    LKS_TRY(LKS_NEW_ARRAY(&e->mine, (size_t)(e->end - e->first)));
    LKS_TRY(lks_device_allocate(e->spec.device, evaluator_mine_bytes(e), (void **)&e->device_mine));
    return LKS_NEW_ARRAY(&e->all, (size_t)e->batches);
}

static lks_status evaluator_check_layout(const lks_evaluator *e)
{
    char wanted[65], found[65];
    if (!e->spec.layout)
        return LKS_OK;
    LKS_TRY(lks_layout_fingerprint(e->spec.layout, wanted));
    LKS_TRY(lks_layout_fingerprint(lks_evaluator_layout(e), found));
    for (int i = 0; i < 64; ++i)
        if (wanted[i] != found[i])
            return LKS_FAIL(LKS_ERR_USAGE,
                            "%s: its vocabulary, classes or features are not those of the training "
                            "data: prepare both parts together%s",
                            e->spec.directory,
                            e->spec.schema ? "" : ", and set nothing of model.*");
    return LKS_OK;
}

static lks_status evaluator_check_kind(const lks_evaluator *e)
{
    const lks_schema *wanted = e->spec.schema, *found = lks_dataset_schema(e->dataset);
    if (!wanted || wanted->kind == found->kind)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_USAGE,
                    "data.validation: %s is of kind %s, the training data of kind %s: prepare "
                    "both parts together",
                    e->spec.directory, lks_data_kind_name(found->kind),
                    lks_data_kind_name(wanted->kind));
}

static lks_status evaluator_init(lks_evaluator *e)
{
    const lks_evaluator_spec *s = &e->spec;
    LKS_TRY(lks_dataset_open(&e->dataset, s->directory, lks_model_context(s->model)));
    LKS_TRY(evaluator_check_kind(e));
    lks_replica_spec replica = {.model = s->model,
                                .schema = lks_dataset_schema(e->dataset),
                                .mode = LKS_GRAPH_EVALUATE,
                                .micro_batch = s->micro_batch,
                                .device = s->device,
                                .compute = s->compute};
    LKS_TRY(lks_replica_init(&e->replica, &replica));
    LKS_TRY(evaluator_check_layout(e));
    return evaluator_share(e);
}

lks_status lks_evaluator_open(lks_evaluator **out, const lks_evaluator_spec *spec)
{
    *out = NULL;
    lks_evaluator *e;
    LKS_TRY(LKS_NEW(&e));
    e->spec = *spec;
    lks_status status = evaluator_init(e);
    if (status != LKS_OK) {
        lks_evaluator_close(e);
        return status;
    }
    *out = e;
    return LKS_OK;
}

void lks_evaluator_close(lks_evaluator *evaluator)
{
    if (!evaluator)
        return;
    lks_replica_release(&evaluator->replica);
    lks_dataset_close(evaluator->dataset);
    lks_memory_free(evaluator->bytes);
    lks_memory_free(evaluator->mine);
    if (evaluator->device_mine)
        lks_device_free(evaluator->spec.device, evaluator->device_mine,
                        evaluator_mine_bytes(evaluator));
    lks_memory_free(evaluator->all);
    lks_memory_free(evaluator);
}

const lks_layout *lks_evaluator_layout(const lks_evaluator *evaluator)
{
    return lks_graph_layout(evaluator->replica.graph);
}

size_t lks_evaluator_bytes(const lks_evaluator *evaluator)
{
    lks_executor_memory memory = lks_executor_get_memory(evaluator->replica.executor);
    return memory.activations_bytes + memory.workspace_bytes + memory.constants_bytes;
}

/* One pass: the whole dataset is one step whose lanes are the batches. */
static lks_status evaluator_pass(lks_evaluator *e, lks_feed *feed, const lks_parameters *parameters)
{
    for (int batch = e->first; batch < e->end; ++batch) {
        lks_fed fed;
        LKS_TRY(lks_feed_next(feed, &fed));
        lks_executor_call call = {.positions = fed.positions,
                                  .inputs = fed.inputs,
                                  .parameters = parameters->masters,
                                  .rounded = parameters->rounded};
        LKS_TRY(
            lks_executor_run(e->replica.executor, &call, e->device_mine + 3 * (batch - e->first)));
        LKS_TRY(lks_comm_progress(e->spec.comm));
    }
    return lks_device_copy_out(e->spec.device, e->mine, e->device_mine, evaluator_mine_bytes(e));
}

static lks_status evaluator_own(lks_evaluator *e, const lks_parameters *parameters)
{
    lks_loader *loader;
    lks_loader_spec spec = {.dataset = e->dataset,
                            .lanes = e->batches,
                            .first_lane = e->first,
                            .end_lane = e->end,
                            .micro_batches = 1,
                            .micro_batch = e->spec.micro_batch,
                            .end_step = 1,
                            .threads = e->spec.threads,
                            .depth = e->spec.ring};
    if (e->first == e->end)
        return LKS_OK;
    LKS_TRY(lks_loader_open(&loader, &spec));
    lks_feed *feed = NULL;
    lks_status status = lks_feed_open(&feed, loader, e->spec.device, lks_dataset_schema(e->dataset),
                                      e->spec.micro_batch);
    if (status == LKS_OK)
        status = evaluator_pass(e, feed, parameters);
    lks_feed_close(feed);
    lks_loader_close(loader);
    return status;
}

lks_status lks_evaluator_run(lks_evaluator *evaluator, const lks_parameters *parameters,
                             lks_evaluation *out)
{
    lks_evaluator *e = evaluator;
    uint64_t start = lks_clock_ns();
    LKS_TRY(lks_comm_agree(e->spec.comm, evaluator_own(e, parameters)));
    LKS_TRY(lks_comm_all_gather(e->spec.comm, e->mine, e->all, e->bytes));
    batch_stats sum = {0};
    for (int i = 0; i < e->batches; ++i) {
        sum.loss_sum += e->all[i].loss_sum;
        sum.targets += e->all[i].targets;
        sum.correct += e->all[i].correct;
    }
    if (sum.targets == 0) /* known to all ranks; one speaks */
        return lks_comm_agree(e->spec.comm,
                              LKS_FAIL(LKS_ERR_CORRUPT,
                                       "%s: not one target to evaluate: all are masked",
                                       e->spec.directory));
    const lks_schema *schema = lks_dataset_schema(e->dataset);
    bool classes = schema->kind == LKS_DATA_TEXT || schema->classes > 0;
    out->loss = sum.loss_sum / sum.targets;
    out->accuracy = classes ? sum.correct / sum.targets : NAN;
    out->samples = lks_dataset_samples(e->dataset);
    out->targets = (uint64_t)sum.targets;
    out->seconds = lks_clock_seconds_since(start);
    return LKS_OK;
}
