/* For those who write an op: one file in ops/, one line in meson.build.
 *
 * The file holds a const lks_op (its name, one line about it, its derivative)
 * and the builder function that graph.h declares, which checks shapes and appends
 * nodes. A node runs one kernel of kernels/ops.h. In the list of nodes, the first that
 * writes a tensor overwrites it and later ones add, so a tensor may be
 * written more than once only by kernels whose output is marked (+=).
 *
 * Builders complain with lks_graph_refuse and return NULL. After the first
 * error every function here does nothing and returns NULL.
 */
#ifndef LKS_GRAPH_OP_DRIVER_H
#define LKS_GRAPH_OP_DRIVER_H

#include "runtime/graph/graph.h"

typedef struct lks_node lks_node;

/* Tensors and nodes are read by ops and written by the functions below. */

typedef enum lks_place {
    LKS_PLACE_ARENA,    /* an activation or its gradient: an offset that the planner gives */
    LKS_PLACE_INPUT,    /* bound per call; index: of the input */
    LKS_PLACE_CONSTANT, /* index: of the constant */
    LKS_PLACE_STATE,    /* parameter or buffer; index: in the layout */
    LKS_PLACE_GRADIENT, /* its gradient or statistic; index: in the layout */
} lks_place;

struct lks_tensor {
    lks_graph *graph;
    lks_tensor *root; /* whose memory it is: itself, or the tensor that this one is a view of */
    lks_place place;
    uint32_t index;
    uint32_t id; /* the root's number in graph->tensors */
    lks_dtype dtype;
    lks_shape shape;
    bool requires_gradient;

    /* Of roots only: */
    const lks_node *producer; /* the first forward node that writes it */
    lks_tensor *exact;        /* the f32 leaf that it is the rounding of; NULL: it is none */

    /* Of roots, while the graph is differentiated: */
    lks_tensor *gradient;  /* so far; a root */
    int gradient_users;    /* how many unfinished tensors have this one as their gradient */
    int uses;              /* by forward nodes other than its producer */
    bool gradient_through; /* lks_gradient_through was granted */
};

typedef struct lks_op {
    const char *name;
    const char *about; /* one line */
    /* Appends the nodes that turn the gradients of the node's outputs into
     * contributions to the gradients of its inputs. At least one output has a
     * gradient; a loss has none and starts from 1. NULL: gradients end here. */
    void (*differentiate)(lks_graph *graph, const lks_node *node);
} lks_op;

struct lks_node {
    const lks_op *op; /* NULL in the backward pass */
    const char *kernel;
    const void *attributes; /* the kernel's struct */
    lks_tensor **inputs;    /* NULL where absent */
    lks_tensor **outputs;
    int input_count, output_count;
    unsigned shares;           /* bit i: output 0 may take over the memory of input i */
    lks_activation activation; /* lks_node_activates; LKS_IDENTITY: none */
    lks_tensor *saved;
    int region; /* of recomputation; -1: none */
};

/* --- Checking -------------------------------------------------------------- */

#define LKS_TENSORS(...)                                                                           \
    (lks_tensor *[]){__VA_ARGS__},                                                                 \
        (int)(sizeof((lks_tensor *[]){__VA_ARGS__}) / sizeof(lks_tensor *))

/* True when the graph has no error and all tensors are there and its own; an
 * absent one is an error of the model. */
bool lks_op_ready(lks_graph *graph, const lks_op *op, lks_tensor *const *tensors, int count);
/* True when `tensor` (NULL: optional and absent) has that type; else refuses. */
bool lks_op_wants(lks_graph *graph, const lks_op *op, const char *role, const lks_tensor *tensor,
                  lks_dtype dtype);
/* The same for what the graph computes in: lks_graph_compute, and f32 for buffers and exact leaves. */
bool lks_op_wants_number(lks_graph *graph, const lks_op *op, const char *role,
                         const lks_tensor *tensor);
/* True when `tensor` (NULL: optional and absent) is a number of that shape; else refuses,
 * naming both and the tensor `beside` from which the shape follows. */
bool lks_op_wants_shape(lks_graph *graph, const lks_op *op, const char *role,
                        const lks_tensor *tensor, lks_shape shape, const lks_tensor *beside,
                        const char *beside_role);
/* "2x3"; lives to the end of the enclosing block. */
#define LKS_SHAPE_OF(tensor) lks_shape_text(&(tensor)->shape, (char[160]){0}, 160)

/* --- Building -------------------------------------------------------------- */

/* A new tensor of the graph's arena. */
lks_tensor *lks_tensor_create(lks_graph *graph, lks_dtype dtype, lks_shape shape);
/* Of what the graph computes in. */
lks_tensor *lks_tensor_number(lks_graph *graph, lks_shape shape);
/* The f32 leaf behind a tensor (or view) that is its rounding; else the tensor itself. */
lks_tensor *lks_tensor_exact(lks_graph *graph, lks_tensor *tensor);
lks_tensor *lks_tensor_like(lks_graph *graph, const lks_tensor *tensor);
/* The same memory with another shape of as many elements. */
lks_tensor *lks_tensor_view(lks_graph *graph, lks_tensor *tensor, lks_shape shape);
/* All leading axes flattened: a view of M x last axis; NULL of NULL. */
lks_tensor *lks_tensor_rows(lks_graph *graph, lks_tensor *tensor);
int64_t lks_tensor_last(const lks_tensor *tensor); /* size of the last axis; 1 of a scalar */
int64_t lks_tensor_elements(const lks_tensor *tensor);

/* Attributes are copied. NULL after an error. */
lks_node *lks_node_append(lks_graph *graph, const lks_op *op, const char *kernel,
                          const void *attributes, size_t attribute_bytes, lks_tensor *const *inputs,
                          int input_count, lks_tensor *const *outputs, int output_count);
/* Output 0 may share the memory of input `input`, "(=i)" in kernels/ops.h. Whether it does
 * is the planner's choice. */
void lks_node_share(lks_node *node, int input);
/* Output 0 is f(z), with f' a function of `saved` as in activation_grad: its gradient may come as that of z, if its
 * reader can multiply by f' (lks_gradient_through). */
void lks_node_activates(lks_node *node, lks_activation f, lks_tensor *saved);
/* It runs once, in the forward pass, also where the model recomputes: for a node that makes a gradient. */
void lks_node_keep(lks_node *node);

/* The number of a random op: counted in declaration order whatever the mode and rate. */
uint32_t lks_graph_random_instance(lks_graph *graph);
/* Where a buffer's statistics of this micro-batch go. */
lks_tensor *lks_buffer_statistic(lks_graph *graph, lks_tensor *buffer);
bool lks_tensor_is_buffer(const lks_tensor *tensor);

/* --- Differentiating ------------------------------------------------------- */

/* Whether a parameter stands behind it and the mode is train; false of NULL. */
bool lks_gradient_wanted(const lks_tensor *tensor);
/* The gradient so far, in the tensor's shape; of an output it is complete. NULL: none. */
lks_tensor *lks_gradient_of(lks_graph *graph, lks_tensor *tensor);
/* An output for a kernel that can add (+=); NULL when it is not wanted. Name it as an
 * output of the very next node. */
lks_tensor *lks_gradient_target(lks_graph *graph, lks_tensor *tensor);
/* As target, but a scratch tensor when not wanted: for outputs a kernel insists on. */
lks_tensor *lks_gradient_target_or_scratch(lks_graph *graph, lks_tensor *tensor);
/* Contributes `value`, whose memory may become the gradient: no copy for the first
 * contribution. The op must not write `value` afterwards. */
void lks_gradient_add(lks_graph *graph, lks_tensor *tensor, lks_tensor *value);
/* `value` holds lks_gradient_of(tensor) and this op's contribution. Not for parameters. */
void lks_gradient_replace(lks_graph *graph, lks_tensor *tensor, lks_tensor *value);
/* Where `tensor` is f(z) and nothing else reads it: f's `saved`, in the tensor's shape; what the op then gives as the gradient
 * of `tensor` must be that of z, multiplied by f'(saved). NULL: the gradient is that of `tensor`. */
lks_tensor *lks_gradient_through(lks_graph *graph, lks_tensor *tensor, lks_activation *f);
/* Of an output 0: the gradient is already that of z. */
bool lks_gradient_is_through(const lks_tensor *output);
bool lks_tensor_is_parameter(const lks_tensor *tensor); /* or a view of one */

#endif
