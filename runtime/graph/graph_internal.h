/* What a graph is made of; for this folder alone. */
#ifndef LKS_GRAPH_GRAPH_INTERNAL_H
#define LKS_GRAPH_GRAPH_INTERNAL_H

#include "runtime/base/memory.h"
#include "runtime/graph/op_driver.h"

typedef struct lks_node_list {
    lks_node **nodes;
    size_t count, capacity;
} lks_node_list;

typedef struct lks_graph_constant {
    float *values;
    size_t bytes;
} lks_graph_constant;

typedef struct lks_graph_output_entry {
    const char *name;
    lks_tensor *tensor;
} lks_graph_output_entry;

struct lks_graph {
    lks_arena *arena; /* names, tensors, nodes */
    lks_graph_mode mode;
    lks_dtype compute;
    int64_t micro_batch;
    lks_graph_input *inputs;
    lks_tensor **input_tensors; /* NULL until asked for */
    int input_count;

    lks_layout *layout;
    lks_init *inits; /* by layout tensor, as the two below */
    lks_tensor **states;
    lks_tensor **slots; /* gradients and statistics; NULL until asked for */
    size_t init_capacity, state_capacity, slot_capacity;

    lks_graph_constant *constants;
    size_t constant_count, constant_capacity;
    lks_tensor **tensors; /* the roots */
    size_t tensor_count, tensor_capacity;

    lks_node_list forward;
    lks_node_list *sink; /* where lks_node_append puts nodes */

    lks_tensor *loss;
    lks_graph_output_entry *outputs;
    size_t output_count, output_capacity;
    int region, region_count; /* region: -1 outside */
    uint32_t random_count;

    lks_status status;
    const char *message;
};

/* Keeps the calling thread's message as the graph's error when `status` is one. */
bool lks_graph_latch(lks_graph *graph, lks_status status); /* true: no error */
lks_status lks_node_list_add(lks_node_list *list, lks_node *node) LKS_MUST_CHECK;
void lks_node_list_release(lks_node_list *list);
/* The root of the gradient slot of a layout tensor. */
lks_tensor *lks_graph_slot(lks_graph *graph, uint32_t layout_tensor);
size_t lks_tensor_bytes(const lks_tensor *tensor);
/* `tensor` in another type; itself when it has it. */
lks_tensor *lks_tensor_cast(lks_graph *graph, lks_tensor *tensor, lks_dtype dtype);
/* y = x, or y += x. */
void lks_node_append_copy(lks_graph *graph, lks_tensor *from, lks_tensor *into);

#endif
