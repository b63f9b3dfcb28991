/* Runs that are recorded once and then given to the device as a whole.
 *
 * It pays where kernels are so short that giving them one by one takes longer than running them. A recording holds
 * addresses: there is one for each set of them that a job runs with, which are few.
 */
#include "runtime/graph/executor_internal.h"

#include <string.h>

/* A kernel that moves this much at some TB/s takes about as long as giving it: some microseconds. */
static const size_t short_kernel_bytes = (size_t)16 << 20;

static size_t node_bytes(const lks_node *node)
{
    size_t bytes = 0;
    for (int i = 0; i < node->input_count; ++i)
        bytes += node->inputs[i] ? lks_tensor_bytes(node->inputs[i]) : 0;
    for (int o = 0; o < node->output_count; ++o)
        bytes += node->outputs[o] ? lks_tensor_bytes(node->outputs[o]) : 0;
    return bytes;
}

static bool recording_pays(const lks_executor *executor)
{
    size_t bytes = 0;
    for (size_t s = 0; s < executor->plan.step_count; ++s)
        bytes += node_bytes(executor->plan.steps[s].node);
    return bytes / (executor->plan.step_count + 1) < short_kernel_bytes;
}

lks_status lks_recordings_open(lks_executor *executor)
{
    if (!lks_device_can_record(executor->device) || !recording_pays(executor))
        return LKS_OK;
    size_t inputs = (size_t)executor->graph->input_count;
    LKS_TRY(LKS_NEW_ARRAY(&executor->recordings, LKS_RECORDINGS_MAX));
    for (int i = 0; i < LKS_RECORDINGS_MAX; ++i) {
        executor->recordings[i].inputs =
            lks_arena_allocate(executor->arena, inputs * sizeof(void *) + 1);
        if (executor->recordings[i].inputs == NULL)
            return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a graph's recordings");
    }
    return LKS_OK;
}

void lks_recordings_close(lks_executor *executor)
{
    for (int i = 0; i < executor->recording_count; ++i)
        lks_device_record_free(executor->device, executor->recordings[i].recording);
    lks_memory_free(executor->recordings);
}

static bool is_for(const lks_executor *executor, const lks_executor_recording *recording,
                   const lks_executor_call *call)
{
    const lks_executor_call *then = &recording->call;
    size_t inputs = (size_t)executor->graph->input_count * sizeof(void *);
    return then->seed == call->seed && then->positions == call->positions &&
           then->parameters == call->parameters && then->rounded == call->rounded &&
           then->gradients == call->gradients && then->accumulate == call->accumulate &&
           memcmp(recording->inputs, call->inputs, inputs) == 0;
}

static lks_status record(lks_executor *executor, const lks_executor_call *call,
                         lks_executor_recording *out)
{
    size_t inputs = (size_t)executor->graph->input_count * sizeof(void *);
    lks_executor_call quiet = *call; /* nobody else may use the device meanwhile */
    quiet.between_ops = NULL;
    LKS_TRY(lks_device_record_begin(executor->device));
    lks_status status = lks_executor_give_all(executor, &quiet);
    lks_status ended = lks_device_record_end(executor->device, &out->recording);
    if (status != LKS_OK) /* half a recording */
        lks_device_record_free(executor->device, out->recording);
    LKS_TRY(status);
    LKS_TRY(ended);
    out->call = *call;
    memcpy(out->inputs, call->inputs, inputs);
    ++executor->recording_count;
    return LKS_OK;
}

/* The first run is as it is: libraries set themselves up in it. */
bool lks_recordings_serve(const lks_executor *executor, const lks_executor_call *call)
{
    return executor->recordings != NULL && executor->ran && call->gradient_final == NULL &&
           !lks_device_profiling(executor->device);
}

lks_status lks_recordings_run(lks_executor *executor, const lks_executor_call *call)
{
    for (int i = 0; i < executor->recording_count; ++i)
        if (is_for(executor, &executor->recordings[i], call))
            return lks_device_record_launch(executor->device, executor->recordings[i].recording);
    if (executor->recording_count == LKS_RECORDINGS_MAX)
        return lks_executor_give_all(executor, call);
    lks_executor_recording *next = &executor->recordings[executor->recording_count];
    LKS_TRY(record(executor, call, next));
    return lks_device_record_launch(executor->device, next->recording);
}
