/* For those who write a kernel: what each kernel of ops.h takes, the same on every device. `lks_shapes_expect_norm` checks the
 * attributes, types and shapes of a spec of "norm" and refuses it as spec.h does; a device checks itself only what it
 * cannot do. *compute (NULL: not wanted) is the compute type.
 */
#ifndef LKS_KERNELS_SHAPES_H
#define LKS_KERNELS_SHAPES_H

#include "kernels/ops.h"
#include "kernels/spec.h"

/* --- Rows of numbers: shapes_rows.c ------------------------------------------- */

/* x [rows, inputs], w [outputs, inputs], y and dz [rows, outputs]. */
typedef struct lks_linear_sizes {
    int64_t rows, inputs, outputs;
} lks_linear_sizes;
/* Types are the device's to check: where the cpu multiplies bf16, results are f32. */
lks_status lks_shapes_expect_linear(const lks_kernel_spec *spec,
                                    lks_linear_sizes *out) LKS_MUST_CHECK;
lks_status lks_shapes_expect_linear_grad_input(const lks_kernel_spec *spec,
                                               lks_linear_sizes *out) LKS_MUST_CHECK;
lks_status lks_shapes_expect_linear_grad_weight(const lks_kernel_spec *spec,
                                                lks_linear_sizes *out) LKS_MUST_CHECK;

lks_status lks_shapes_expect_activation_grad(const lks_kernel_spec *spec,
                                             lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_attention(const lks_kernel_spec *spec,
                                       lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_attention_grad(const lks_kernel_spec *spec,
                                            lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_norm(const lks_kernel_spec *spec, lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_norm_grad(const lks_kernel_spec *spec,
                                       lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_embedding(const lks_kernel_spec *spec,
                                       lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_embedding_grad(const lks_kernel_spec *spec,
                                            lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_cross_entropy(const lks_kernel_spec *spec,
                                           lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_squared_error(const lks_kernel_spec *spec,
                                           lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_squared_error_grad(const lks_kernel_spec *spec,
                                                lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_dropout(const lks_kernel_spec *spec,
                                     lks_dtype *compute) LKS_MUST_CHECK;

/* --- Images: shapes_images.c ---------------------------------------------------- */

typedef enum lks_conv2d_pass {
    LKS_CONV2D_FORWARD,
    LKS_CONV2D_GRAD_INPUT,
    LKS_CONV2D_GRAD_WEIGHT
} lks_conv2d_pass;
/* Of the spec, whichever the pass; or their gradients. */
typedef struct lks_conv2d_tensors {
    const lks_kernel_tensor *x, *w, *b, *y;
} lks_conv2d_tensors;
lks_status lks_shapes_expect_conv2d(const lks_kernel_spec *spec, lks_conv2d_pass pass,
                                    lks_conv2d_tensors *out, lks_dtype *compute) LKS_MUST_CHECK;

lks_status lks_shapes_expect_batch_norm(const lks_kernel_spec *spec,
                                        lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_batch_norm_grad(const lks_kernel_spec *spec,
                                             lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_pool2d(const lks_kernel_spec *spec, lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_pool2d_grad(const lks_kernel_spec *spec,
                                         lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_image(const lks_kernel_spec *spec, lks_dtype *compute) LKS_MUST_CHECK;

/* --- Primitives: shapes_primitives.c ---------------------------------------------- */

lks_status lks_shapes_expect_unary(const lks_kernel_spec *spec, lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_unary_grad(const lks_kernel_spec *spec,
                                        lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_binary(const lks_kernel_spec *spec, lks_dtype *compute) LKS_MUST_CHECK;

/* `batch` products of op(a) [m, k] and op(b) [k, n]. */
typedef struct lks_matmul_sizes {
    int64_t batch, m, n, k;
} lks_matmul_sizes;
lks_status lks_shapes_expect_matmul(const lks_kernel_spec *spec, lks_matmul_sizes *out,
                                    lks_dtype *compute) LKS_MUST_CHECK;

lks_status lks_shapes_expect_softmax(const lks_kernel_spec *spec,
                                     lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_softmax_grad(const lks_kernel_spec *spec,
                                          lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_reduce(const lks_kernel_spec *spec, lks_dtype *compute) LKS_MUST_CHECK;
lks_status lks_shapes_expect_expand(const lks_kernel_spec *spec, lks_dtype *compute) LKS_MUST_CHECK;

/* y[outer..., row, column] = x[outer..., column, row] after neighbouring axes that stay
 * neighbours are joined: along a row's index x is contiguous, along a column's y is. Where the
 * last axis stays last, there is one row and both are contiguous along the columns. */
typedef struct lks_permutation {
    int axes; /* outer ones, the innermost of y first */
    int64_t size[LKS_AXES_MAX], x_step[LKS_AXES_MAX], y_step[LKS_AXES_MAX];
    int64_t outer; /* product of size */
    int64_t rows, row_y_step;
    int64_t columns, column_x_step;
} lks_permutation;
lks_status lks_shapes_expect_permute(const lks_kernel_spec *spec, lks_permutation *out,
                                     lks_dtype *compute) LKS_MUST_CHECK;

/* Elements of one of `outer` entries: all, the range, before the range. */
typedef struct lks_slice_sizes {
    int64_t outer, whole, part, offset;
} lks_slice_sizes;
/* bf16 may become f32. */
lks_status lks_shapes_expect_slice(const lks_kernel_spec *spec,
                                   lks_slice_sizes *out) LKS_MUST_CHECK;
lks_status lks_shapes_expect_unslice(const lks_kernel_spec *spec,
                                     lks_slice_sizes *out) LKS_MUST_CHECK;

#endif
