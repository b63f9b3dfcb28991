#include "runtime/train/session.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/base/memory.h"
#include "runtime/train/find.h"

#include <stdlib.h>
#include <string.h>

static lks_status session_config(lks_session *s, const lks_inference_request *request)
{
    const char *yaml, *path = lks_checkpoint_path(s->checkpoint);
    LKS_TRY(
        lks_json_get_string(lks_checkpoint_manifest(s->checkpoint), path, "config_yaml", &yaml));
    LKS_TRY(lks_config_create(&s->config));
    LKS_TRY(lks_config_read_text(s->config, yaml, strlen(yaml), path));
    for (int i = 0; i < request->assignment_count; ++i)
        LKS_TRY(lks_config_set(s->config, request->assignments[i], "--set"));
    LKS_TRY(lks_experiment_init(&s->experiment, s->config));
    return lks_device_open(&s->device, s->experiment.settings.device.name,
                           lks_comm_local_rank(s->comm));
}

static lks_status session_open(lks_session *s, const lks_inference_request *request,
                               const char *found)
{
    if (!found)
        return lks_find_fail(request->path);
    LKS_TRY(lks_checkpoint_open(&s->checkpoint, found, LKS_CHECK_MANIFEST));
    return session_config(s, request);
}

lks_status lks_session_init(lks_session *session, const lks_inference_request *request)
{
    char *found;
    lks_find find = {.path = request->path, .check = LKS_CHECK_MANIFEST, .best = request->best};
    *session = (lks_session){.comm = request->comm};
    LKS_TRY(lks_find_checkpoint(request->comm, &find, &found));
    lks_status status = lks_comm_agree(request->comm, session_open(session, request, found));
    free(found);
    if (status != LKS_OK)
        lks_session_release(session);
    return status;
}

void lks_session_release(lks_session *session)
{
    if (session->masters)
        lks_device_free(session->device, session->masters, session->masters_bytes);
    if (session->rounded)
        lks_device_free(session->device, session->rounded, session->rounded_bytes);
    lks_checkpoint_close(session->checkpoint);
    lks_device_close(session->device);
    lks_experiment_release(&session->experiment);
    lks_config_destroy(session->config);
    *session = (lks_session){0};
}

static lks_status session_read(lks_session *s, const lks_layout *layout)
{
    float *host;
    LKS_TRY(lks_memory_map((void **)&host, s->masters_bytes));
    lks_state_array array = {.group = "model", .data = host};
    lks_status status = lks_checkpoint_read(s->checkpoint, layout, &array, 0, layout->block_count);
    if (status == LKS_OK)
        status = lks_device_copy_in(s->device, s->masters, host, s->masters_bytes);
    lks_memory_unmap(host, s->masters_bytes);
    return status;
}

lks_status lks_session_load(lks_session *session, const lks_layout *layout)
{
    lks_session *s = session;
    s->masters_bytes = layout->flat_elements * sizeof(float);
    s->rounded_bytes = lks_layout_rounded_bytes(layout);
    LKS_TRY(lks_device_allocate(s->device, s->masters_bytes, (void **)&s->masters));
    LKS_TRY(session_read(s, layout));
    s->parameters = (lks_parameters){s->masters, NULL};
    if (lks_experiment_compute(&s->experiment) == LKS_F32)
        return LKS_OK;
    LKS_TRY(lks_device_allocate(s->device, s->rounded_bytes, (void **)&s->rounded));
    s->parameters.rounded = s->rounded;
    return lks_device_round(s->device, layout->flat_elements, s->masters, s->rounded);
}

/* <run>/dataset for <run>/checkpoints/step-XXXXXXXX. */
static lks_status predictor_manifest(lks_predictor *p, const char *checkpoint)
{
    char *path = malloc(strlen(checkpoint) + sizeof "/../../dataset");
    if (!path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    sprintf(path, "%s/../../dataset", checkpoint);
    lks_status status = LKS_OK;
    if (lks_files_is_directory(path))
        status = lks_manifest_open(&p->manifest, path);
    else
        status = LKS_FAIL(
            LKS_ERR_USAGE,
            "%s does not lie in a run directory, whose dataset/manifest.json says what the "
            "model's data looks like",
            checkpoint);
    free(path);
    return status;
}

static lks_status predictor_open(lks_predictor *p)
{
    lks_session *s = p->session;
    LKS_TRY(predictor_manifest(p, lks_checkpoint_path(s->checkpoint)));
    p->schema = p->manifest->schema;
    p->schema.context = lks_model_context(s->experiment.model);
    lks_schema_set_fields(&p->schema, p->fields);
    lks_replica_spec replica = {.model = s->experiment.model,
                                .schema = &p->schema,
                                .mode = LKS_GRAPH_PREDICT,
                                .micro_batch = p->batch,
                                .device = s->device,
                                .compute = lks_experiment_compute(&s->experiment)};
    LKS_TRY(lks_replica_init(&p->replica, &replica));
    LKS_TRY(lks_session_load(s, lks_graph_layout(p->replica.graph)));
    p->input_bytes = (size_t)p->batch * lks_field_bytes(&p->fields[0]);
    return lks_device_allocate(s->device, p->input_bytes, &p->input);
}

lks_status lks_predictor_init(lks_predictor *predictor, lks_session *session, int64_t batch)
{
    *predictor = (lks_predictor){.session = session, .batch = batch};
    lks_status status = predictor_open(predictor);
    if (status != LKS_OK)
        lks_predictor_release(predictor);
    return status;
}

void lks_predictor_release(lks_predictor *predictor)
{
    if (predictor->input)
        lks_device_free(predictor->session->device, predictor->input, predictor->input_bytes);
    lks_memory_free(predictor->output);
    lks_replica_release(&predictor->replica);
    lks_manifest_close(predictor->manifest);
    *predictor = (lks_predictor){0};
}

lks_status lks_predictor_run(lks_predictor *predictor, const void *input, const char *output,
                             const float **out, lks_shape *shape)
{
    lks_session *s = predictor->session;
    const void *inputs[LKS_SCHEMA_FIELDS] = {predictor->input};
    lks_executor_call call = {.inputs = inputs, .parameters = s->masters, .rounded = s->rounded};
    LKS_TRY(lks_device_copy_in(s->device, predictor->input, input, predictor->input_bytes));
    LKS_TRY(lks_executor_run(predictor->replica.executor, &call, NULL));
    const void *result;
    LKS_TRY(lks_executor_output(predictor->replica.executor, output, &result, shape));
    size_t elements = lks_shape_elements(shape);
    LKS_TRY(LKS_GROW(&predictor->output, &predictor->output_capacity, elements));
    *out = predictor->output;
    return lks_device_copy_out(s->device, predictor->output, result, elements * sizeof(float));
}
