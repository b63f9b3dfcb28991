/* For those who write a kernel: its prepare checks the spec with these. A spec here is one that a driver sees: it has all
 * LKS_KERNEL_TENSORS_MAX inputs and outputs, absent ones LKS_NONE.
 */
#ifndef LKS_KERNELS_SPEC_H
#define LKS_KERNELS_SPEC_H

#include "kernels/device.h"

/* LKS_ERR_INTERNAL: the kernel, `format`, and all types and shapes of the spec. */
lks_status lks_spec_refuse(const lks_kernel_spec *spec, const char *format, ...) LKS_PRINTF(2, 3);

/* One letter per tensor: t the compute type (f32 or bf16, the same in all t's), g that or f32 (a sum that may be
 * a parameter's gradient), f f32, d f64, i i32, u u8, x any; in upper case it may be absent. "ttT" is x, w, [b] of
 * linear. Tensors beyond are refused, and so are those with no elements. *compute (NULL: not wanted) is the type of
 * the t's, LKS_NONE without any. */
lks_status lks_spec_expect_types(const lks_kernel_spec *spec, const char *inputs,
                                 const char *outputs, lks_dtype *compute) LKS_MUST_CHECK;
/* Attributes must be there. */
lks_status lks_spec_expect_attributes(const lks_kernel_spec *spec) LKS_MUST_CHECK;

/* Of one tensor of the spec, which `name` is in messages; an absent one passes. */
lks_status lks_spec_expect_elements(const lks_kernel_spec *spec, const char *name,
                                    const lks_kernel_tensor *tensor,
                                    int64_t elements) LKS_MUST_CHECK;
lks_status lks_spec_expect_shape(const lks_kernel_spec *spec, const char *name,
                                 const lks_kernel_tensor *tensor,
                                 const lks_shape *shape) LKS_MUST_CHECK;

static inline bool lks_spec_present(const lks_kernel_tensor *tensor)
{
    return tensor->dtype != LKS_NONE;
}
static inline int64_t lks_spec_elements(const lks_kernel_tensor *tensor)
{
    return (int64_t)lks_shape_elements(&tensor->shape);
}
/* The last axis, and all before it flattened; a scalar is 1 x 1. */
static inline int64_t lks_spec_columns(const lks_kernel_tensor *tensor)
{
    return tensor->shape.axes ? tensor->shape.size[tensor->shape.axes - 1] : 1;
}
static inline int64_t lks_spec_rows(const lks_kernel_tensor *tensor)
{
    return lks_spec_elements(tensor) / lks_spec_columns(tensor);
}

#endif
