#include "runtime/graph/graph_internal.h"

#include <string.h>

/* --- Tensors ----------------------------------------------------------------- */

const lks_shape *lks_tensor_shape(const lks_tensor *tensor)
{
    static const lks_shape scalar = {0, {0}};
    return tensor != NULL ? &tensor->shape : &scalar;
}

lks_dtype lks_tensor_dtype(const lks_tensor *tensor)
{
    return tensor != NULL ? tensor->dtype : LKS_NONE;
}

int64_t lks_tensor_elements(const lks_tensor *tensor)
{
    return (int64_t)lks_shape_elements(&tensor->shape);
}

size_t lks_tensor_bytes(const lks_tensor *tensor)
{
    return lks_shape_elements(&tensor->shape) * lks_dtype_bytes(tensor->dtype);
}

int64_t lks_tensor_last(const lks_tensor *tensor)
{
    return tensor->shape.axes > 0 ? tensor->shape.size[tensor->shape.axes - 1] : 1;
}

/* Every axis at least 1, and bytes that an int64_t can count. */
static bool shape_is_sound(const lks_shape *shape)
{
    int64_t bytes = 8;
    if (shape->axes < 0 || shape->axes > LKS_AXES_MAX)
        return false;
    for (int a = 0; a < shape->axes; ++a)
        if (shape->size[a] < 1 || __builtin_mul_overflow(bytes, shape->size[a], &bytes))
            return false;
    return true;
}

static lks_tensor *tensor_allocate(lks_graph *graph)
{
    lks_tensor *tensor = lks_arena_allocate(graph->arena, sizeof *tensor);
    if (tensor == NULL)
        lks_graph_latch(graph, LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a tensor of the graph"));
    return tensor;
}

lks_tensor *lks_tensor_create(lks_graph *graph, lks_dtype dtype, lks_shape shape)
{
    if (graph->status != LKS_OK)
        return NULL;
    if (!shape_is_sound(&shape)) {
        lks_graph_refuse(graph,
                         "a tensor of shape %s: every axis must be at least 1, at most %d axes",
                         lks_shape_text(&shape, (char[160]){0}, 160), LKS_AXES_MAX);
        return NULL;
    }
    lks_tensor *tensor = tensor_allocate(graph);
    if (tensor == NULL || !lks_graph_latch(graph, LKS_GROW(&graph->tensors, &graph->tensor_capacity,
                                                           graph->tensor_count + 1)))
        return NULL;
    *tensor = (lks_tensor){.graph = graph, .root = tensor, .dtype = dtype, .shape = shape};
    tensor->id = (uint32_t)graph->tensor_count;
    graph->tensors[graph->tensor_count++] = tensor;
    return tensor;
}

lks_tensor *lks_tensor_number(lks_graph *graph, lks_shape shape)
{
    return lks_tensor_create(graph, graph->compute, shape);
}

lks_tensor *lks_tensor_exact(lks_graph *graph, lks_tensor *tensor)
{
    if (tensor == NULL || tensor->root->exact == NULL)
        return tensor;
    return lks_tensor_view(graph, tensor->root->exact, tensor->shape);
}

lks_tensor *lks_tensor_like(lks_graph *graph, const lks_tensor *tensor)
{
    return lks_tensor_create(graph, tensor->dtype, tensor->shape);
}

lks_tensor *lks_tensor_view(lks_graph *graph, lks_tensor *tensor, lks_shape shape)
{
    if (graph->status != LKS_OK || tensor == NULL)
        return NULL;
    if (lks_shape_equal(&tensor->shape, &shape))
        return tensor;
    if (lks_shape_equal(&tensor->root->shape, &shape))
        return tensor->root;
    lks_tensor *view = tensor_allocate(graph);
    if (view != NULL) {
        *view = *tensor->root;
        view->shape = shape;
    }
    return view;
}

lks_tensor *lks_tensor_rows(lks_graph *graph, lks_tensor *tensor)
{
    if (tensor == NULL)
        return NULL;
    int64_t last = lks_tensor_last(tensor);
    return lks_tensor_view(graph, tensor, LKS_SHAPE(lks_tensor_elements(tensor) / last, last));
}

/* --- Nodes ------------------------------------------------------------------- */

lks_status lks_node_list_add(lks_node_list *list, lks_node *node)
{
    LKS_TRY(LKS_GROW(&list->nodes, &list->capacity, list->count + 1));
    list->nodes[list->count++] = node;
    return LKS_OK;
}

void lks_node_list_release(lks_node_list *list)
{
    lks_memory_free(list->nodes);
    *list = (lks_node_list){0};
}

static void *arena_duplicate(lks_arena *arena, const void *data, size_t bytes)
{
    void *copy = lks_arena_allocate(arena, bytes > 0 ? bytes : 1);
    if (copy != NULL && bytes > 0)
        memcpy(copy, data, bytes);
    return copy;
}

static lks_node *node_create(lks_graph *graph, const lks_node *from, size_t attribute_bytes)
{
    size_t pointer = sizeof(lks_tensor *);
    lks_node *node = arena_duplicate(graph->arena, from, sizeof *from);
    if (node == NULL)
        return NULL;
    if (from->attributes != NULL)
        node->attributes = arena_duplicate(graph->arena, from->attributes, attribute_bytes);
    node->inputs = arena_duplicate(graph->arena, from->inputs, (size_t)from->input_count * pointer);
    node->outputs =
        arena_duplicate(graph->arena, from->outputs, (size_t)from->output_count * pointer);
    bool complete = node->inputs != NULL && node->outputs != NULL &&
                    (from->attributes == NULL || node->attributes != NULL);
    return complete ? node : NULL;
}

/* In the forward pass: who makes the outputs, and whether a parameter stands behind them. */
static void mark_outputs(const lks_node *node)
{
    bool requires = false;
    for (int i = 0; i < node->input_count; ++i)
    requires = requires || lks_gradient_wanted(node->inputs[i]);
    for (int o = 0; o < node->output_count; ++o) {
        lks_tensor *output = node->outputs[o];
        if (output == NULL || output->root->place != LKS_PLACE_ARENA)
            continue;
        if (output->root->producer == NULL)
            output->root->producer = node;
        if (requires && (output->dtype == LKS_F32 || output->dtype == LKS_BF16))
            output->root->requires_gradient = output->requires_gradient = true;
    }
}

lks_node *lks_node_append(lks_graph *graph, const lks_op *op, const char *kernel,
                          const void *attributes, size_t attribute_bytes, lks_tensor *const *inputs,
                          int input_count, lks_tensor *const *outputs, int output_count)
{
    if (graph->status != LKS_OK)
        return NULL;
    lks_node from = {.op = op,
                     .kernel = kernel,
                     .attributes = attributes,
                     .inputs = (lks_tensor **)inputs,
                     .outputs = (lks_tensor **)outputs,
                     .input_count = input_count,
                     .output_count = output_count,
                     .region = graph->region};
    lks_node *node = node_create(graph, &from, attribute_bytes);
    if (node == NULL) {
        lks_graph_latch(graph, LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a node of the graph"));
        return NULL;
    }
    if (!lks_graph_latch(graph, lks_node_list_add(graph->sink, node)))
        return NULL;
    if (graph->sink == &graph->forward)
        mark_outputs(node);
    return node;
}

void lks_node_share(lks_node *node, int input)
{
    if (node != NULL)
        node->shares |= 1u << input;
}

void lks_node_keep(lks_node *node)
{
    if (node != NULL)
        node->region = -1;
}

void lks_node_activates(lks_node *node, lks_activation f, lks_tensor *saved)
{
    if (node == NULL)
        return;
    node->activation = f;
    node->saved = saved;
}

void lks_node_append_copy(lks_graph *graph, lks_tensor *from, lks_tensor *into)
{
    if (from == NULL || into == NULL)
        return;
    lks_reduce_attributes whole = {1, 1, lks_tensor_elements(from), 1.0f};
    lks_node_append(graph, NULL, "expand", &whole, sizeof whole, LKS_TENSORS(from),
                    LKS_TENSORS(into));
}

lks_tensor *lks_tensor_cast(lks_graph *graph, lks_tensor *tensor, lks_dtype dtype)
{
    static const lks_op cast_op = {"cast", "the same numbers in another type", NULL};
    if (tensor == NULL || tensor->dtype == dtype)
        return tensor;
    lks_tensor *y = lks_tensor_create(graph, dtype, tensor->shape);
    if (y != NULL)
        lks_node_append(graph, &cast_op, "cast", NULL, 0, LKS_TENSORS(tensor), LKS_TENSORS(y));
    return y;
}

uint32_t lks_graph_random_instance(lks_graph *graph)
{
    return graph->random_count++;
}

/* --- What builders check ------------------------------------------------------- */

bool lks_op_ready(lks_graph *graph, const lks_op *op, lks_tensor *const *tensors, int count)
{
    for (int i = 0; graph->status == LKS_OK && i < count; ++i) {
        if (tensors[i] == NULL)
            lks_graph_refuse(graph, "%s: tensor %d of %d is NULL", op->name, i + 1, count);
        else if (tensors[i]->graph != graph)
            lks_graph_refuse(graph, "%s: tensor %d of %d belongs to another graph", op->name, i + 1,
                             count);
    }
    return graph->status == LKS_OK;
}

bool lks_op_wants(lks_graph *graph, const lks_op *op, const char *role, const lks_tensor *tensor,
                  lks_dtype dtype)
{
    if (tensor != NULL && tensor->dtype != dtype)
        lks_graph_refuse(graph, "%s: %s is %s of shape %s; it must be %s", op->name, role,
                         lks_dtype_name(tensor->dtype), LKS_SHAPE_OF(tensor),
                         lks_dtype_name(dtype));
    return graph->status == LKS_OK;
}

bool lks_op_wants_number(lks_graph *graph, const lks_op *op, const char *role,
                         const lks_tensor *tensor)
{
    bool exact =
        tensor != NULL && (lks_tensor_is_buffer(tensor) || tensor->root->place == LKS_PLACE_INPUT ||
                           tensor->root->place == LKS_PLACE_CONSTANT);
    return lks_op_wants(graph, op, role, tensor, exact ? LKS_F32 : graph->compute);
}

bool lks_op_wants_shape(lks_graph *graph, const lks_op *op, const char *role,
                        const lks_tensor *tensor, lks_shape shape, const lks_tensor *beside,
                        const char *beside_role)
{
    if (!lks_op_wants_number(graph, op, role, tensor))
        return false;
    if (tensor != NULL && !lks_shape_equal(&tensor->shape, &shape))
        lks_graph_refuse(graph, "%s: %s is %s; beside %s of %s it must be %s", op->name, role,
                         LKS_SHAPE_OF(tensor), beside_role, LKS_SHAPE_OF(beside),
                         lks_shape_text(&shape, (char[160]){0}, 160));
    return graph->status == LKS_OK;
}
