#include "runtime/graph/graph_internal.h"

#include <stdio.h>
#include <string.h>

static lks_status check_input(const lks_graph_input *input, int64_t micro_batch)
{
    const lks_shape *shape = &input->shape;
    bool good = input->name != NULL && shape->axes >= 1 && shape->axes <= LKS_AXES_MAX &&
                shape->size[0] == micro_batch && lks_dtype_bytes(input->dtype) > 0;
    for (int a = 0; good && a < shape->axes; ++a)
        good = shape->size[a] >= 1;
    if (!good)
        return LKS_FAIL(LKS_ERR_INTERNAL,
                        "graph input '%s' is %s of %s; it must start with the micro-batch of %lld",
                        input->name ? input->name : "", lks_shape_text(shape, (char[160]){0}, 160),
                        lks_dtype_name(input->dtype), (long long)micro_batch);
    return LKS_OK;
}

static lks_status copy_inputs(lks_graph *graph, const lks_graph_input *inputs, int count)
{
    LKS_TRY(LKS_NEW_ARRAY(&graph->inputs, (size_t)count));
    LKS_TRY(LKS_NEW_ARRAY(&graph->input_tensors, (size_t)count));
    for (int i = 0; i < count; ++i) {
        LKS_TRY(check_input(&inputs[i], graph->micro_batch));
        graph->inputs[i] = inputs[i];
        graph->inputs[i].name = lks_arena_copy(graph->arena, inputs[i].name);
        if (graph->inputs[i].name == NULL)
            return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a graph's inputs");
    }
    graph->input_count = count;
    return LKS_OK;
}

lks_status lks_graph_create(lks_graph **out, lks_graph_mode mode, int64_t micro_batch,
                            const lks_graph_input *inputs, int input_count)
{
    *out = NULL;
    if (micro_batch < 1)
        return LKS_FAIL(LKS_ERR_INTERNAL, "a graph's micro-batch is %lld; it must be at least 1",
                        (long long)micro_batch);
    lks_graph *graph;
    LKS_TRY(LKS_NEW(&graph));
    graph->mode = mode;
    graph->compute = LKS_F32;
    graph->micro_batch = micro_batch;
    graph->region = -1;
    graph->sink = &graph->forward;
    lks_status status;
    LKS_TRY_GOTO(status, lks_arena_create(&graph->arena), destroy);
    LKS_TRY_GOTO(status, lks_layout_create(&graph->layout), destroy);
    LKS_TRY_GOTO(status, copy_inputs(graph, inputs, input_count), destroy);
    *out = graph;
    return LKS_OK;
destroy:
    lks_graph_destroy(graph);
    return status;
}

void lks_graph_destroy(lks_graph *graph)
{
    if (graph == NULL)
        return;
    for (size_t i = 0; i < graph->constant_count; ++i)
        lks_memory_free(graph->constants[i].values);
    lks_memory_free(graph->constants);
    lks_memory_free(graph->inputs);
    lks_memory_free(graph->input_tensors);
    lks_memory_free(graph->inits);
    lks_memory_free(graph->states);
    lks_memory_free(graph->slots);
    lks_memory_free(graph->tensors);
    lks_memory_free(graph->outputs);
    lks_node_list_release(&graph->forward);
    lks_layout_destroy(graph->layout);
    lks_arena_destroy(graph->arena);
    lks_memory_free(graph);
}

/* --- Errors ------------------------------------------------------------------ */

bool lks_graph_latch(lks_graph *graph, lks_status status)
{
    if (graph->status == LKS_OK && status != LKS_OK) {
        graph->status = status;
        graph->message = lks_arena_copy(graph->arena, lks_status_message());
        if (graph->message == NULL)
            graph->message = "no memory for a graph";
    }
    return graph->status == LKS_OK;
}

static LKS_PRINTF(2, 0) char *arena_print(lks_arena *arena, const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    char *text = length < 0 ? NULL : lks_arena_allocate(arena, (size_t)length + 1);
    if (text != NULL)
        vsnprintf(text, (size_t)length + 1, format, again);
    va_end(again);
    return text;
}

void lks_graph_refuse(lks_graph *graph, const char *format, ...)
{
    if (graph->status != LKS_OK)
        return;
    va_list arguments;
    va_start(arguments, format);
    const char *text = arena_print(graph->arena, format, arguments);
    va_end(arguments);
    lks_graph_latch(graph, text != NULL ? LKS_FAIL(LKS_ERR_USAGE, "%s", text)
                                        : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a message"));
}

lks_status lks_graph_status(const lks_graph *graph)
{
    if (graph->status != LKS_OK)
        return LKS_FAIL(graph->status, "%s", graph->message);
    return LKS_OK;
}

/* --- Small questions --------------------------------------------------------- */

lks_graph_mode lks_graph_get_mode(const lks_graph *graph)
{
    return graph->mode;
}

void lks_graph_set_compute(lks_graph *graph, lks_dtype compute)
{
    graph->compute = compute;
}

lks_dtype lks_graph_compute(const lks_graph *graph)
{
    return graph->compute;
}

int64_t lks_graph_micro_batch(const lks_graph *graph)
{
    return graph->micro_batch;
}

const lks_layout *lks_graph_layout(const lks_graph *graph)
{
    return graph->layout;
}

const char *lks_name(lks_graph *graph, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    const char *name = arena_print(graph->arena, format, arguments);
    va_end(arguments);
    if (name == NULL)
        lks_graph_latch(graph, LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a name"));
    return name != NULL ? name : "";
}

/* --- Results ----------------------------------------------------------------- */

void lks_graph_loss(lks_graph *graph, lks_tensor *stats)
{
    if (graph->status != LKS_OK || graph->mode == LKS_GRAPH_PREDICT)
        return;
    if (stats == NULL)
        lks_graph_refuse(graph, "loss: no tensor was given; pass what a loss op returned");
    else if (stats->dtype != LKS_F64 || lks_tensor_elements(stats) != 3)
        lks_graph_refuse(graph, "loss: a %s tensor of %s is not what a loss op returns",
                         lks_dtype_name(stats->dtype), LKS_SHAPE_OF(stats));
    else if (graph->loss != NULL)
        lks_graph_refuse(graph, "loss: a graph has one loss, and it is already given");
    else
        graph->loss = stats;
}

void lks_graph_output(lks_graph *graph, const char *name, lks_tensor *tensor)
{
    if (graph->status != LKS_OK)
        return;
    if (tensor == NULL) {
        lks_graph_refuse(graph, "output '%s': no tensor was given", name);
        return;
    }
    for (size_t i = 0; i < graph->output_count; ++i)
        if (strcmp(graph->outputs[i].name, name) == 0) {
            lks_graph_refuse(graph, "output '%s' is named twice", name);
            return;
        }
    if (lks_graph_latch(
            graph, LKS_GROW(&graph->outputs, &graph->output_capacity, graph->output_count + 1)))
        graph->outputs[graph->output_count++] = (lks_graph_output_entry){
            lks_name(graph, "%s", name), lks_tensor_cast(graph, tensor, LKS_F32)};
}

void lks_graph_recompute_begin(lks_graph *graph)
{
    if (graph->region >= 0)
        lks_graph_refuse(graph, "recompute: begun inside a region that has not ended");
    else
        graph->region = graph->region_count++;
}

void lks_graph_recompute_end(lks_graph *graph)
{
    if (graph->region < 0)
        lks_graph_refuse(graph, "recompute: ended without a beginning");
    graph->region = -1;
}
