#include "runtime/graph/executor_internal.h"

#include <string.h>

/* --- Opening ------------------------------------------------------------------- */

static void describe(lks_tensor *const *tensors, int count, lks_kernel_tensor *out)
{
    for (int i = 0; i < count; ++i)
        out[i] = tensors[i] != NULL ? (lks_kernel_tensor){tensors[i]->dtype, tensors[i]->shape}
                                    : (lks_kernel_tensor){LKS_NONE, LKS_SCALAR};
}

static lks_status step_prepare(lks_executor *executor, lks_executor_step *step,
                               const lks_node *node)
{
    size_t inputs = (size_t)node->input_count, outputs = (size_t)node->output_count;
    lks_kernel_tensor *shapes =
        lks_arena_allocate(executor->arena, (inputs + outputs) * sizeof *shapes + 1);
    step->inputs = lks_arena_allocate(executor->arena, inputs * sizeof *step->inputs + 1);
    step->outputs = lks_arena_allocate(executor->arena, outputs * sizeof *step->outputs + 1);
    step->accumulate = lks_arena_allocate(executor->arena, outputs * sizeof(bool) + 1);
    if (shapes == NULL || step->inputs == NULL || step->outputs == NULL || step->accumulate == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a kernel of the graph");
    describe(node->inputs, node->input_count, shapes);
    describe(node->outputs, node->output_count, shapes + inputs);
    lks_kernel_spec spec = {node->kernel,      node->attributes, shapes,
                            node->input_count, shapes + inputs,  node->output_count};
    LKS_TRY(lks_kernel_prepare(&step->kernel, executor->device, &spec));
    size_t workspace = lks_kernel_workspace(step->kernel);
    if (workspace > executor->memory.workspace_bytes)
        executor->memory.workspace_bytes = workspace;
    return LKS_OK;
}

static lks_status steps_prepare(lks_executor *executor)
{
    LKS_TRY(LKS_NEW_ARRAY(&executor->steps, executor->plan.step_count));
    for (size_t s = 0; s < executor->plan.step_count; ++s)
        LKS_TRY(step_prepare(executor, &executor->steps[s], executor->plan.steps[s].node));
    return LKS_OK;
}

static lks_status constants_place(lks_executor *executor)
{
    const lks_graph *graph = executor->graph;
    LKS_TRY(LKS_NEW_ARRAY(&executor->constant_offsets, graph->constant_count));
    size_t bytes = 0;
    for (size_t i = 0; i < graph->constant_count; ++i) {
        executor->constant_offsets[i] = bytes;
        bytes += lks_round_up(graph->constants[i].bytes, LKS_ALIGNMENT);
    }
    executor->memory.constants_bytes = bytes;
    LKS_TRY(lks_device_allocate(executor->device, bytes, &executor->constants));
    for (size_t i = 0; i < graph->constant_count; ++i)
        LKS_TRY(lks_device_copy_in(executor->device,
                                   (char *)executor->constants + executor->constant_offsets[i],
                                   graph->constants[i].values, graph->constants[i].bytes));
    return LKS_OK;
}

static void mark_inputs(lks_executor *executor)
{
    for (size_t s = 0; s < executor->plan.step_count; ++s) {
        const lks_node *node = executor->plan.steps[s].node;
        for (int i = 0; i < node->input_count; ++i)
            if (node->inputs[i] != NULL && node->inputs[i]->root->place == LKS_PLACE_INPUT)
                executor->input_used[node->inputs[i]->root->index] = true;
    }
}

static lks_status executor_fill(lks_executor *executor, const lks_plan_accept *accept)
{
    lks_graph *graph = executor->graph;
    LKS_TRY(lks_arena_create(&executor->arena));
    LKS_TRY(lks_program_build(&executor->program, graph));
    LKS_TRY(lks_plan_create(&executor->plan, &executor->program, graph, accept));
    LKS_TRY(LKS_NEW_ARRAY(&executor->input_used, (size_t)graph->input_count));
    LKS_TRY(LKS_NEW_ARRAY(&executor->output_data, graph->output_count));
    mark_inputs(executor);
    LKS_TRY(steps_prepare(executor));
    LKS_TRY(constants_place(executor));
    LKS_TRY(lks_recordings_open(executor));
    executor->memory.activations_bytes = executor->plan.arena_bytes;
    LKS_TRY(lks_device_allocate(executor->device, executor->memory.activations_bytes,
                                &executor->activations));
    return lks_device_allocate(executor->device, executor->memory.workspace_bytes,
                               &executor->workspace);
}

static lks_status executor_open(lks_executor **out, lks_graph *graph, lks_device *device,
                                const lks_plan_accept *accept)
{
    *out = NULL;
    lks_executor *executor;
    LKS_TRY(LKS_NEW(&executor));
    executor->graph = graph;
    executor->device = device;
    lks_status status = executor_fill(executor, accept);
    if (status != LKS_OK)
        lks_executor_close(executor);
    else
        *out = executor;
    return status;
}

lks_status lks_executor_open(lks_executor **out, lks_graph *graph, lks_device *device)
{
    return executor_open(out, graph, device, NULL);
}

lks_status lks_executor_open_within(lks_executor **out, lks_graph *graph, lks_device *device,
                                    lks_status (*accept)(void *user, size_t activations_bytes),
                                    void *user)
{
    return executor_open(out, graph, device, &(lks_plan_accept){accept, user});
}

void lks_executor_close(lks_executor *executor)
{
    if (executor == NULL)
        return;
    lks_recordings_close(executor);
    for (size_t s = 0; executor->steps != NULL && s < executor->plan.step_count; ++s)
        lks_kernel_release(executor->steps[s].kernel);
    const lks_executor_memory *memory = &executor->memory;
    lks_device_free(executor->device, executor->activations, memory->activations_bytes);
    lks_device_free(executor->device, executor->workspace, memory->workspace_bytes);
    lks_device_free(executor->device, executor->constants, memory->constants_bytes);
    lks_memory_free(executor->steps);
    lks_memory_free(executor->constant_offsets);
    lks_memory_free(executor->input_used);
    lks_memory_free(executor->output_data);
    lks_plan_release(&executor->plan);
    lks_program_release(&executor->program);
    lks_arena_destroy(executor->arena);
    lks_memory_free(executor);
}

lks_executor_memory lks_executor_get_memory(const lks_executor *executor)
{
    return executor->memory;
}

/* --- Running ------------------------------------------------------------------- */

static void *address_of(const lks_executor *executor, const lks_executor_call *call,
                        const lks_tensor *tensor)
{
    if (tensor == NULL)
        return NULL;
    const lks_tensor *root = tensor->root;
    const lks_layout_tensor *tensors = executor->graph->layout->tensors;
    switch (root->place) {
    case LKS_PLACE_INPUT:
        return (void *)call->inputs[root->index];
    case LKS_PLACE_CONSTANT:
        return (char *)executor->constants + executor->constant_offsets[root->index];
    case LKS_PLACE_STATE:
        if (root->dtype == LKS_BF16)
            return (void *)(call->rounded + tensors[root->index].offset);
        return (void *)(call->parameters + tensors[root->index].offset);
    case LKS_PLACE_GRADIENT:
        return call->gradients + tensors[root->index].offset;
    case LKS_PLACE_ARENA:
        break;
    }
    return (char *)executor->activations + executor->plan.offsets[root->id];
}

static lks_status check_call(const lks_executor *executor, const lks_executor_call *call)
{
    const lks_graph *graph = executor->graph;
    for (int i = 0; i < graph->input_count; ++i)
        if (executor->input_used[i] && call->inputs[i] == NULL)
            return LKS_FAIL(LKS_ERR_INTERNAL, "input '%s' is not bound, but the model reads it",
                            graph->inputs[i].name);
    if (graph->compute == LKS_BF16 && call->rounded == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "a graph that computes in bf16 was run without the "
                                          "rounded parameters");
    if (graph->mode == LKS_GRAPH_TRAIN && call->gradients == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "a graph that trains was run without gradients");
    return LKS_OK;
}

static lks_status step_run(lks_executor *executor, const lks_executor_call *call, size_t index)
{
    const lks_plan_step *planned = &executor->plan.steps[index];
    lks_executor_step *step = &executor->steps[index];
    const lks_node *node = planned->node;
    for (int i = 0; i < node->input_count; ++i)
        step->inputs[i] = address_of(executor, call, node->inputs[i]);
    for (int o = 0; o < node->output_count; ++o) {
        step->outputs[o] = address_of(executor, call, node->outputs[o]);
        step->accumulate[o] =
            planned->accumulate[o] == LKS_ACCUMULATE_ALWAYS ||
            (planned->accumulate[o] == LKS_ACCUMULATE_AS_CALLED && call->accumulate);
    }
    lks_kernel_context context = {call->seed, call->positions};
    lks_kernel_run run = {step->inputs, step->outputs, step->accumulate, executor->workspace,
                          &context};
    lks_device_range_begin(executor->device, node->kernel);
    lks_status status = lks_kernel_execute(step->kernel, &run);
    lks_device_range_end(executor->device);
    return status;
}

static lks_status step_report(const lks_plan_step *planned, const lks_executor_call *call)
{
    for (uint32_t f = 0; call->gradient_final != NULL && f < planned->final_count; ++f)
        call->gradient_final(call->user, planned->finals[f]);
    return call->between_ops != NULL ? call->between_ops(call->user) : LKS_OK;
}

lks_status lks_executor_give_all(lks_executor *executor, const lks_executor_call *call)
{
    for (size_t s = 0; s < executor->plan.step_count; ++s) {
        LKS_TRY(step_run(executor, call, s));
        LKS_TRY(step_report(&executor->plan.steps[s], call));
    }
    return LKS_OK;
}

static lks_status give(lks_executor *executor, const lks_executor_call *call)
{
    if (!lks_recordings_serve(executor, call))
        return lks_executor_give_all(executor, call);
    LKS_TRY(lks_recordings_run(executor, call));
    return call->between_ops != NULL ? call->between_ops(call->user) : LKS_OK;
}

lks_status lks_executor_run(lks_executor *executor, const lks_executor_call *call, double *stats)
{
    static const char *const names[] = {"train", "evaluate", "predict"};
    const lks_graph *graph = executor->graph;
    LKS_TRY(check_call(executor, call));
    lks_device_range_begin(executor->device, names[graph->mode]);
    lks_status status = give(executor, call);
    lks_device_range_end(executor->device);
    LKS_TRY(status);
    executor->ran = true;
    for (size_t i = 0; i < graph->output_count && graph->mode == LKS_GRAPH_PREDICT; ++i)
        executor->output_data[i] = address_of(executor, call, graph->outputs[i].tensor);
    if (graph->mode == LKS_GRAPH_PREDICT)
        return LKS_OK;
    return lks_device_copy(executor->device, stats, address_of(executor, call, graph->loss),
                           3 * sizeof *stats);
}

lks_status lks_executor_output(const lks_executor *executor, const char *name, const void **data,
                               lks_shape *shape)
{
    const lks_graph *graph = executor->graph;
    for (size_t i = 0; i < graph->output_count; ++i) {
        if (strcmp(graph->outputs[i].name, name) != 0)
            continue;
        if (executor->output_data[i] == NULL)
            return LKS_FAIL(LKS_ERR_INTERNAL,
                            "output '%s' was asked for before a run that predicts", name);
        *data = executor->output_data[i];
        *shape = graph->outputs[i].tensor->shape;
        return LKS_OK;
    }
    return LKS_FAIL(LKS_ERR_USAGE, "the model has no output '%s'", name);
}
