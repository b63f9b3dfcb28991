/* What each kernel computes: the contract between the graph and the devices.
 *
 * Notation: B samples in the micro-batch, T context, M rows (all leading axes
 * flattened). "in:" and "out:" list tensors in the spec's order;
 * [x] may be absent. An output marked (+=) may be accumulated into. An output
 * marked (=i) may share the memory of that input. All sums have a fixed order.
 * Images are B x H x W x C (channels last).
 *
 * Types: a tensor has the compute type of its call, f32 or bf16, the same for all, but
 *   i32  ids, targets of cross_entropy
 *   f32  gradients of parameters: dw, db, dgain, dbias, dtable, dplace; mean, rstd, lse, running
 *        and other statistics; targets of squared_error; shift and scale of image
 *   f64  stats
 * and an output marked (+=) of the primitive kernels (from "unary" on) may be f32 though the inputs are bf16: it is then
 * a parameter's gradient. With bf16 every kernel computes in f32 from what it reads and rounds each element
 * that it writes once, to the nearest even; what it adds to is read and added in f32 before that.
 * A device may also round what is a factor of a product inside attention (probabilities, gradients of scores), pre before
 * gelu is taken of it, and dz w of linear before it is multiplied by f'.
 *
 * A kernel of the name `foo_grad...` gives gradients of the summed loss.
 */
#ifndef LKS_KERNELS_OPS_H
#define LKS_KERNELS_OPS_H

#include <stdbool.h>
#include <stdint.h>

typedef enum lks_activation { LKS_IDENTITY, LKS_RELU, LKS_GELU } lks_activation;
/* gelu(x) = x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))): Hendrycks and Gimpel
 * 2016, the tanh form that GPT-2 uses. */

/* "linear": y = f(x w^T + b), x MxK, w NxK, b N.
 *     in: x, w, [b]      out: y, [pre]   pre = x w^T + b, wanted iff f is gelu and a gradient follows
 * "activation_grad": dz = dy f'(z).
 *     in: dy, saved      out: dz (=0)    saved: y for relu, pre for gelu
 * "linear_grad_input": dx = dz w; with saved (where x is f(z)) the gradient of z, (dz w) f'(saved).
 *     in: dz, w, [saved] out: dx (+= without saved)
 * "linear_grad_weight": dw = dz^T x, db = column sums of dz.
 *     in: dz, x          out: dw (+=), [db (+=)] */
typedef struct lks_linear_attributes {
    lks_activation activation;
} lks_linear_attributes;
/* attributes of "activation_grad", and of "linear_grad_input" with saved: the same, f; else NULL */

/* "attention": per head h of width D, softmax(scale Q K^T + mask) V, with
 * dropout on the probabilities; key-value heads are shared by groups of
 * heads / kv_heads query heads. qkv is B x T x (heads + 2 kv_heads) D, laid out Q heads, K
 * heads, V heads; y is B x T x heads D; lse is B x heads x T: log of the
 * softmax's denominator (of the scaled scores).
 *     in: qkv            out: y, [lse]
 * "attention_grad": the T x T matrix is computed again, never kept.
 *     in: qkv, y, lse, dy   out: dqkv (+=)
 * Dropout element index of (h, query, key): (h T + query) T + key, at the position of the sample. */
typedef struct lks_attention_attributes {
    int heads, kv_heads, width; /* width D of one head */
    bool causal;
    float scale;       /* 1/sqrt(D) */
    float dropout;     /* 0: none */
    uint32_t instance; /* number of the op: its random stream */
} lks_attention_attributes;

/* "norm": s = x + [residual]; layer: y = (s - mean) rstd gain + bias; rms:
 * y = s rstd gain. Statistics over the last axis C; rstd = 1/sqrt(var + epsilon), biased var
 * (for rms: mean square).
 *     in: x, [residual], gain, [bias]
 *     out: y, [s] (given iff residual is), [mean] (layer with gradient), [rstd] (with gradient)
 * "norm_grad": ds = [dsum] + gradient through y; dgain, dbias column sums.
 *     in: s (x where there is no residual), gain, [mean], rstd, dy, [dsum]
 *     out: ds (+=), dgain (+=), [dbias (+=)]           ds may share dsum's memory (=5) */
typedef enum lks_norm_kind { LKS_NORM_LAYER, LKS_NORM_RMS } lks_norm_kind;
typedef struct lks_norm_attributes {
    lks_norm_kind kind;
    float epsilon;
} lks_norm_attributes;

/* "embedding": y[m] = table[id[m]] + [place[m mod T]]. ids i32 of shape B x T, table V x C, place T x C.
 *     in: ids, table, [place]       out: y B x T x C
 * An id outside [0, V) is LKS_ERR_CORRUPT.
 * "embedding_grad": dtable[id] += dy; the rows of an id in a fixed order. When not accumulating, the
 * whole dtable is zeroed first.
 *     in: ids, dy                   out: dtable (+=), [dplace (+=)]
 * attributes: NULL */

/* "cross_entropy": logits M x V' (V' >= classes: the rest is padding, left out of
 * the softmax), targets i32 M (negative: masked). stats is f64[3]: {sum of -log
 * softmax[target] over valid rows, count of valid rows, count of valid rows whose largest logit
 * (the first of equals) is the target}. dlogits, the gradient of that sum, is softmax - onehot; 0 for masked rows and
 * padding.
 *     in: logits, targets           out: [dlogits (=0)], stats
 * A target >= classes is LKS_ERR_CORRUPT. */
typedef struct lks_cross_entropy_attributes {
    int64_t classes;
} lks_cross_entropy_attributes;

/* "squared_error": sum of (p - t)^2 over rows whose targets are all finite (NaN:
 * masked). stats f64[3]: {sum / K, count of valid rows, 0} for p, t of M x K.
 *     in: prediction, target        out: stats
 * "squared_error_grad": 2 (p - t) / K; 0 for masked rows.
 *     in: prediction, target        out: dprediction
 * attributes: NULL */

/* "conv2d": x B,H,W,Ci; w Co,KH,KW,Ci/groups; y B,OH,OW,Co, OH = (H + 2 pad - KH)/stride + 1.
 *     in: x, w, [b]                 out: y
 * "conv2d_grad_input":  in: dy, w   out: dx (+=)
 * "conv2d_grad_weight": in: dy, x   out: dw (+=), [db (+=)] */
typedef struct lks_conv2d_attributes {
    int stride, padding, groups;
} lks_conv2d_attributes;

/* "batch_norm": over all axes but the last. training: statistics of this micro-batch,
 * y = f((x - mean) rstd gain + bias + [residual]); f is identity or relu. else: the running ones.
 * variance_stat is the unbiased variance, as running statistics use (PyTorch's convention).
 *     in: x, gain, bias, running_mean, running_variance, [residual]
 *     out: y, [mean], [rstd], [mean_stat (+=)], [variance_stat (+=)]     all four iff training
 * "batch_norm_grad" (training only):
 *     in: x, gain, mean, rstd, y (relu's mask; absent for identity), dy
 *     out: dx (+=), dgain (+=), dbias (+=), [dresidual (+=)] */
typedef struct lks_batch_norm_attributes {
    float epsilon;
    lks_activation activation; /* LKS_IDENTITY or LKS_RELU */
    bool training;
} lks_batch_norm_attributes;

/* "pool2d": max or mean over windows; padding does not count for the mean and never wins the max.
 *     in: x B,H,W,C                 out: y B,OH,OW,C
 * "pool2d_grad": the maximum's gradient goes to the first of equals.
 *     in: x, y, dy                  out: dx (+=) */
typedef enum lks_pool_kind { LKS_POOL_MAX, LKS_POOL_MEAN } lks_pool_kind;
typedef struct lks_pool2d_attributes {
    lks_pool_kind kind;
    int size_h, size_w, stride, padding;
} lks_pool2d_attributes;

/* "image": y = (u8 x - shift[c]) scale[c].   in: x u8 B,H,W,C; shift C; scale C   out: y f32 */

/* "unary": y = f(x).                in: x              out: y (=0)
 * "unary_grad": dx = dy f'.         in: dy, x, y       out: dx (+=) (=0) */
typedef enum lks_unary_function {
    LKS_UNARY_RELU,
    LKS_UNARY_GELU,
    LKS_UNARY_SILU,
    LKS_UNARY_TANH,
    LKS_UNARY_SIGMOID,
    LKS_UNARY_EXP,
    LKS_UNARY_LOG,
    LKS_UNARY_SQRT,
    LKS_UNARY_SQUARE,
    LKS_UNARY_RECIPROCAL,
    LKS_UNARY_AFFINE, /* alpha x + beta */
} lks_unary_function;
typedef struct lks_unary_attributes {
    lks_unary_function function;
    float alpha, beta;
} lks_unary_attributes;

/* "binary": y = a op b; b's shape is a's, or a suffix of it (broadcast over the
 * leading axes).                    in: a, b           out: y (+=) (=0)
 * Gradients are composed of binary, unary and reduce. */
typedef enum lks_binary_function {
    LKS_BINARY_ADD,
    LKS_BINARY_SUBTRACT,
    LKS_BINARY_MULTIPLY,
    LKS_BINARY_DIVIDE
} lks_binary_function;
typedef struct lks_binary_attributes {
    lks_binary_function function;
} lks_binary_attributes;

/* "matmul": c = alpha op(a) op(b) over equal leading axes; op transposes the last two.
 *                                   in: a, b           out: c (+=) */
typedef struct lks_matmul_attributes {
    bool transpose_a, transpose_b;
    float alpha;
} lks_matmul_attributes;

/* "softmax": over the last axis; causal: row i of the last two axes sees columns
 * <= i.                             in: x              out: y (=0)
 * "softmax_grad": dx = y (dy - sum(dy y)).   in: dy, y out: dx (+=) (=0) */
typedef struct lks_softmax_attributes {
    bool causal;
} lks_softmax_attributes;

/* "reduce": scale times the sum over the middle axis of x viewed as outer x
 * middle x inner.                   in: x              out: y outer x inner (+=)
 * "expand": y[o, m, i] = scale x[o, i].      in: x     out: y (+=) */
typedef struct lks_reduce_attributes {
    int64_t outer, middle, inner;
    float scale;
} lks_reduce_attributes;

/* "cast": y = x in y's type.        in: x              out: y (+=), f32 */

/* "permute": axis i of y is axis order[i] of x.         in: x   out: y (+=) */
typedef struct lks_permute_attributes {
    int order[8];
} lks_permute_attributes;

/* "slice": x viewed as outer x middle x inner, y = x[:, begin:begin+length, :].
 *                                   in: x              out: y (+=)
 * "unslice": y[:, begin:begin+length, :] = x, y's other elements 0 (or kept when
 * accumulating).                    in: x              out: y (+=)
 * Any dtype of 1, 2, 4 or 8 bytes when not accumulating. */
typedef struct lks_slice_attributes {
    int64_t outer, middle, inner, begin, length;
} lks_slice_attributes;

/* "dropout": y = x keep / (1 - rate), + [residual]; keep of element e of the sample at position p is
 * uniform(word e mod 4 of lks_rng_words(key, p, e div 4)) >= rate, key =
 * lks_rng_key(seed, LKS_RNG_DROPOUT, instance). x's first axis is the sample.
 *                                   in: x, [residual]  out: y (+=) (=0) (=1)
 * Its gradient is itself, applied to dy without residual. */
typedef struct lks_dropout_attributes {
    float rate;
    uint32_t instance;
} lks_dropout_attributes;

#endif
