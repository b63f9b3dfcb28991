#include "runtime/graph/graph_internal.h"

#include <math.h>
#include <string.h>

static int input_index(const lks_graph *graph, const char *name)
{
    for (int i = 0; i < graph->input_count; ++i)
        if (strcmp(graph->inputs[i].name, name) == 0)
            return i;
    return -1;
}

bool lks_has_input(const lks_graph *graph, const char *name)
{
    return input_index(graph, name) >= 0;
}

static const char *input_names(lks_graph *graph)
{
    const char *names = "";
    for (int i = 0; i < graph->input_count; ++i)
        names = lks_name(graph, "%s%s%s", names, i > 0 ? ", " : "", graph->inputs[i].name);
    return names;
}

/* A root outside the arena. */
static lks_tensor *leaf_create(lks_graph *graph, lks_place place, size_t index, lks_dtype dtype,
                               lks_shape shape)
{
    lks_tensor *tensor = lks_tensor_create(graph, dtype, shape);
    if (tensor == NULL)
        return NULL;
    tensor->place = place;
    tensor->index = (uint32_t)index;
    return tensor;
}

/* f32 data in the compute type. */
static lks_tensor *leaf_number(lks_graph *graph, lks_tensor *leaf)
{
    if (leaf == NULL || leaf->dtype != LKS_F32 || graph->compute == LKS_F32)
        return leaf;
    lks_tensor *number = lks_tensor_cast(graph, leaf, graph->compute);
    if (number != NULL)
        number->exact = leaf;
    return number;
}

lks_tensor *lks_input(lks_graph *graph, const char *name)
{
    if (graph->status != LKS_OK)
        return NULL;
    int i = input_index(graph, name);
    if (i < 0) {
        lks_graph_refuse(graph, "the data has no field '%s'; it has %s", name, input_names(graph));
        return NULL;
    }
    if (graph->input_tensors[i] == NULL)
        graph->input_tensors[i] =
            leaf_number(graph, leaf_create(graph, LKS_PLACE_INPUT, (size_t)i,
                                           graph->inputs[i].dtype, graph->inputs[i].shape));
    return graph->input_tensors[i];
}

lks_tensor *lks_constant(lks_graph *graph, lks_shape shape, const float *values)
{
    lks_tensor *tensor =
        leaf_create(graph, LKS_PLACE_CONSTANT, graph->constant_count, LKS_F32, shape);
    if (tensor == NULL)
        return NULL;
    lks_graph_constant constant = {NULL, lks_tensor_bytes(tensor)};
    if (!lks_graph_latch(graph, LKS_GROW(&graph->constants, &graph->constant_capacity,
                                         graph->constant_count + 1)) ||
        !lks_graph_latch(graph, LKS_NEW_ARRAY(&constant.values, constant.bytes / sizeof(float))))
        return NULL;
    memcpy(constant.values, values, constant.bytes);
    graph->constants[graph->constant_count++] = constant;
    return leaf_number(graph, tensor);
}

static lks_tensor *state_declare(lks_graph *graph, const char *name, lks_shape shape,
                                 lks_tensor_role role, lks_init init)
{
    for (int a = 0; a < shape.axes && a < LKS_AXES_MAX; ++a)
        if (shape.size[a] < 1)
            lks_graph_refuse(graph, "'%s' is %s; every axis must be at least 1", name,
                             lks_shape_text(&shape, (char[160]){0}, 160));
    if (graph->status != LKS_OK)
        return NULL;
    size_t next = graph->layout->tensor_count + (size_t)1;
    uint32_t index;
    bool decay = role == LKS_ROLE_PARAMETER && shape.axes >= 2;
    lks_dtype dtype = role == LKS_ROLE_PARAMETER ? graph->compute : LKS_F32;
    lks_tensor *tensor = leaf_create(graph, LKS_PLACE_STATE, next - 1, dtype, shape);
    if (tensor == NULL ||
        !lks_graph_latch(graph, LKS_GROW(&graph->inits, &graph->init_capacity, next)) ||
        !lks_graph_latch(graph, LKS_GROW(&graph->states, &graph->state_capacity, next)) ||
        !lks_graph_latch(graph, LKS_GROW(&graph->slots, &graph->slot_capacity, next)) ||
        !lks_graph_latch(graph, lks_layout_add(graph->layout, name, shape, role, decay, &index)))
        return NULL;
    graph->inits[index] = init;
    graph->states[index] = tensor;
    graph->slots[index] = NULL;
    return tensor;
}

lks_tensor *lks_parameter(lks_graph *graph, const char *name, lks_shape shape, lks_init init)
{
    if (!isfinite(init.a) || (init.kind != LKS_INIT_CONSTANT && init.a < 0)) {
        lks_graph_refuse(graph,
                         "parameter '%s': an initial spread of %g; it must be finite, not negative",
                         name, init.a);
        return NULL;
    }
    lks_tensor *tensor = state_declare(graph, name, shape, LKS_ROLE_PARAMETER, init);
    if (tensor != NULL)
        tensor->requires_gradient = graph->mode == LKS_GRAPH_TRAIN;
    return tensor;
}

lks_tensor *lks_buffer(lks_graph *graph, const char *name, lks_shape shape, double value)
{
    return state_declare(graph, name, shape, LKS_ROLE_BUFFER, lks_init_constant(value));
}

lks_tensor *lks_graph_slot(lks_graph *graph, uint32_t layout_tensor)
{
    if (graph->slots[layout_tensor] == NULL)
        graph->slots[layout_tensor] = leaf_create(graph, LKS_PLACE_GRADIENT, layout_tensor, LKS_F32,
                                                  graph->layout->tensors[layout_tensor].shape);
    return graph->slots[layout_tensor];
}

bool lks_tensor_is_buffer(const lks_tensor *tensor)
{
    return tensor->root->place == LKS_PLACE_STATE &&
           tensor->graph->layout->tensors[tensor->root->index].role == LKS_ROLE_BUFFER;
}

bool lks_tensor_is_parameter(const lks_tensor *tensor)
{
    return tensor->root->place == LKS_PLACE_STATE && !lks_tensor_is_buffer(tensor);
}

lks_tensor *lks_buffer_statistic(lks_graph *graph, lks_tensor *buffer)
{
    return lks_tensor_view(graph, lks_graph_slot(graph, buffer->root->index), buffer->shape);
}
