#include "runtime/train/replica.h"
#include "runtime/base/memory.h"

#include <string.h>

static lks_status replica_graph(lks_graph **out, const lks_replica_spec *spec)
{
    const lks_schema *schema = spec->schema;
    lks_graph_input *inputs;
    LKS_TRY(LKS_NEW_ARRAY(&inputs, (size_t)schema->field_count));
    for (int i = 0; i < schema->field_count; ++i) {
        const lks_field *field = &schema->fields[i];
        inputs[i] = (lks_graph_input){
            field->name, field->dtype, {field->shape.axes + 1, {spec->micro_batch}}};
        memcpy(inputs[i].shape.size + 1, field->shape.size,
               (size_t)field->shape.axes * sizeof field->shape.size[0]);
    }
    lks_status status =
        lks_graph_create(out, spec->mode, spec->micro_batch, inputs, schema->field_count);
    lks_memory_free(inputs);
    LKS_TRY(status);
    lks_graph_set_compute(*out, spec->compute);
    return LKS_OK;
}

typedef struct replica_question {
    const lks_replica_check *check;
    const lks_layout *layout;
} replica_question;

static lks_status replica_ask(void *user, size_t activations_bytes)
{
    const replica_question *question = user;
    return question->check->check(question->check->user, question->layout, activations_bytes);
}

static lks_status replica_open(lks_replica *replica, const lks_replica_spec *spec)
{
    LKS_TRY(replica_graph(&replica->graph, spec));
    LKS_TRY(lks_model_build(spec->model, spec->schema, replica->graph));
    if (!spec->device)
        return LKS_OK;
    if (!spec->check)
        return lks_executor_open(&replica->executor, replica->graph, spec->device);
    replica_question question = {spec->check, lks_graph_layout(replica->graph)};
    LKS_TRY(spec->check->check(spec->check->user, question.layout, 0));
    return lks_executor_open_within(&replica->executor, replica->graph, spec->device, replica_ask,
                                    &question);
}

lks_status lks_replica_init(lks_replica *replica, const lks_replica_spec *spec)
{
    *replica = (lks_replica){0};
    lks_status status = replica_open(replica, spec);
    if (status != LKS_OK)
        lks_replica_release(replica);
    return status;
}

void lks_replica_release(lks_replica *replica)
{
    lks_executor_close(replica->executor);
    lks_graph_destroy(replica->graph);
    *replica = (lks_replica){0};
}
