/* The graph builder: what a model's file includes.
 *
 * A model builds a graph once, with static shapes. Builder calls never fail in
 * the caller's face: the first error is kept in the graph (lks_graph_status),
 * a call with a NULL tensor returns NULL, and so a model has no error handling.
 * The graph owns every tensor.
 *
 *     lks_tensor *x = lks_input(g, "tokens");
 *     lks_tensor *w = lks_parameter(g, "head.weight", LKS_SHAPE(v, c), lks_init_normal(0.02));
 *     lks_graph_loss(g, lks_op_cross_entropy(g, lks_op_linear(g, x, w, NULL, LKS_IDENTITY), lks_input(g, "targets"), v));
 *
 * Shapes: B is the micro-batch, always the first axis of inputs. Names of
 * parameters are the keys in checkpoints.
 */
#ifndef LKS_GRAPH_GRAPH_H
#define LKS_GRAPH_GRAPH_H

#include "kernels/device.h"
#include "kernels/ops.h"
#include "runtime/base/layout.h"
#include "runtime/base/tensor.h"

typedef struct lks_graph lks_graph;
typedef struct lks_tensor lks_tensor;

typedef enum lks_graph_mode {
    LKS_GRAPH_TRAIN,    /* dropout on, batch statistics, backward follows */
    LKS_GRAPH_EVALUATE, /* loss only */
    LKS_GRAPH_PREDICT,  /* outputs only: no targets are bound, losses are left out */
} lks_graph_mode;

/* What the loader will bind: one per field of a sample. Shape with the first
 * axis B. */
typedef struct lks_graph_input {
    const char *name;
    lks_dtype dtype;
    lks_shape shape;
} lks_graph_input;

lks_status lks_graph_create(lks_graph **out, lks_graph_mode mode, int64_t micro_batch,
                            const lks_graph_input *inputs, int input_count) LKS_MUST_CHECK;
void lks_graph_destroy(lks_graph *graph); /* NULL is fine */
lks_status
lks_graph_status(const lks_graph *graph) LKS_MUST_CHECK; /* first error; its message is set again */
lks_graph_mode lks_graph_get_mode(const lks_graph *graph);
/* What activations are and parameters are read as: LKS_F32, unless set to LKS_BF16 before the first tensor.
 * Masters of parameters, their gradients and statistics stay f32. */
void lks_graph_set_compute(lks_graph *graph, lks_dtype compute);
lks_dtype lks_graph_compute(const lks_graph *graph);
int64_t lks_graph_micro_batch(const lks_graph *graph);
/* Parameters and buffers in declaration order; owned by the graph. */
const lks_layout *lks_graph_layout(const lks_graph *graph);
/* A name that lives as long as the graph: lks_name(g, "h.%d.weight", i). */
const char *lks_name(lks_graph *graph, const char *format, ...) LKS_PRINTF(2, 3);
/* Records a model's own complaint (LKS_ERR_USAGE) as the graph's error. */
void lks_graph_refuse(lks_graph *graph, const char *format, ...) LKS_PRINTF(2, 3);

const lks_shape *lks_tensor_shape(const lks_tensor *tensor); /* of NULL: a scalar */
lks_dtype lks_tensor_dtype(const lks_tensor *tensor);

/* --- Leaves --------------------------------------------------------------- */

/* f32 data (and constants) are read in the compute type, but by the ops that want them exact: targets of a squared
 * error, shift and scale of an image. */
lks_tensor *lks_input(lks_graph *graph, const char *name);
bool lks_has_input(const lks_graph *graph, const char *name);
/* Copied; kept on the device. */
lks_tensor *lks_constant(lks_graph *graph, lks_shape shape, const float *values);

typedef struct lks_init {
    enum { LKS_INIT_CONSTANT, LKS_INIT_NORMAL, LKS_INIT_UNIFORM } kind;
    double a; /* constant's value; normal's deviation; uniform's bound (-a, a) */
} lks_init;
static inline lks_init lks_init_constant(double value)
{
    return (lks_init){LKS_INIT_CONSTANT, value};
}
static inline lks_init lks_init_normal(double deviation)
{
    return (lks_init){LKS_INIT_NORMAL, deviation};
}
static inline lks_init lks_init_uniform(double bound)
{
    return (lks_init){LKS_INIT_UNIFORM, bound};
}

/* Weight decay applies to parameters of two or more axes. Using one twice is
 * how it is tied: pass the same tensor. */
lks_tensor *lks_parameter(lks_graph *graph, const char *name, lks_shape shape, lks_init init);
lks_tensor *lks_buffer(lks_graph *graph, const char *name, lks_shape shape, double value);

/* --- Fused ops (kernels/ops.h has the formulas) ----------------------------- */

lks_tensor *lks_op_linear(lks_graph *graph, lks_tensor *x, lks_tensor *weight,
                          lks_tensor *bias /* or NULL */, lks_activation activation);
lks_tensor *lks_op_attention(lks_graph *graph, lks_tensor *qkv, int heads, int kv_heads,
                             bool causal, double dropout);
lks_tensor *lks_op_norm(lks_graph *graph, lks_norm_kind kind, lks_tensor *x, lks_tensor *gain,
                        lks_tensor *bias /* or NULL */, double epsilon);
/* *sum = x + residual; returns norm(*sum). */
lks_tensor *lks_op_norm_residual(lks_graph *graph, lks_norm_kind kind, lks_tensor *x,
                                 lks_tensor *residual, lks_tensor *gain, lks_tensor *bias,
                                 double epsilon, lks_tensor **sum);
lks_tensor *lks_op_embedding(lks_graph *graph, lks_tensor *ids, lks_tensor *table,
                             lks_tensor *place /* or NULL */);
lks_tensor *lks_op_cross_entropy(lks_graph *graph, lks_tensor *logits, lks_tensor *targets,
                                 int64_t classes);
lks_tensor *lks_op_squared_error(lks_graph *graph, lks_tensor *prediction, lks_tensor *target);
lks_tensor *lks_op_conv2d(lks_graph *graph, lks_tensor *x, lks_tensor *weight,
                          lks_tensor *bias /* or NULL */, int stride, int padding, int groups);
/* activation(batch_norm(x) + residual). mean and variance are buffers; their running average uses
 * the optimizer section's buffer momentum of 0.1. */
lks_tensor *lks_op_batch_norm(lks_graph *graph, lks_tensor *x, lks_tensor *gain, lks_tensor *bias,
                              lks_tensor *mean, lks_tensor *variance,
                              lks_tensor *residual /* or NULL */, lks_activation activation,
                              double epsilon);
lks_tensor *lks_op_pool2d(lks_graph *graph, lks_tensor *x, lks_pool_kind kind, int size, int stride,
                          int padding);
lks_tensor *lks_op_global_mean(lks_graph *graph, lks_tensor *x); /* B,H,W,C -> B,C */
lks_tensor *lks_op_image(lks_graph *graph, lks_tensor *x, lks_tensor *shift, lks_tensor *scale);
lks_tensor *lks_op_dropout(lks_graph *graph, lks_tensor *x,
                           double rate); /* x itself when rate is 0 or not training */

/* --- Primitive ops --------------------------------------------------------- */

lks_tensor *lks_op_unary(lks_graph *graph, lks_unary_function function, lks_tensor *x);
lks_tensor *lks_op_affine(lks_graph *graph, lks_tensor *x, double alpha, double beta);
lks_tensor *lks_op_binary(lks_graph *graph, lks_binary_function function, lks_tensor *a,
                          lks_tensor *b);
lks_tensor *lks_op_matmul(lks_graph *graph, lks_tensor *a, lks_tensor *b, bool transpose_a,
                          bool transpose_b);
lks_tensor *lks_op_softmax(lks_graph *graph, lks_tensor *x, bool causal);
lks_tensor *lks_op_reduce_sum(lks_graph *graph, lks_tensor *x, int axis);
lks_tensor *lks_op_reduce_mean(lks_graph *graph, lks_tensor *x, int axis);
lks_tensor *lks_op_reshape(lks_graph *graph, lks_tensor *x, lks_shape shape);
lks_tensor *lks_op_permute(lks_graph *graph, lks_tensor *x, const int *order);
lks_tensor *lks_op_slice(lks_graph *graph, lks_tensor *x, int axis, int64_t begin, int64_t end);
lks_tensor *lks_op_concatenate(lks_graph *graph, lks_tensor *const *parts, int count, int axis);

/* --- Results -------------------------------------------------------------- */

/* `stats` from a loss op; once. Required unless mode is predict, where it is ignored. */
void lks_graph_loss(lks_graph *graph, lks_tensor *stats);
/* Something to read after a forward pass: "logits", "prediction". Kept alive only
 * when mode is predict. */
void lks_graph_output(lks_graph *graph, const char *name, lks_tensor *tensor);

/* Tensors made between begin and end are not kept for the backward pass but computed again,
 * in the same bits, just before it needs them; one that another region reads is kept. Not
 * nested. */
void lks_graph_recompute_begin(lks_graph *graph);
void lks_graph_recompute_end(lks_graph *graph);

#endif
