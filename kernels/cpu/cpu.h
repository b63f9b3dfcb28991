/* What the files of the cpu device share.
 *
 * A kernel's file is compiled once per instruction set, so everything in it is
 * static except its const lks_kernel_driver, whose name LKS_ISA_NAME makes
 * different each time:
 *
 *     const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_norm) = {"norm", prepare, run, release};
 *
 * and it is named in meson.build's list. Prepare sees absent tensors as
 * LKS_NONE; run sees them as NULL, and may always read run->accumulate[i].
 */
#ifndef LKS_KERNELS_CPU_CPU_H
#define LKS_KERNELS_CPU_CPU_H

#include "kernels/device_driver.h"
#include "kernels/ops.h"
#include "runtime/base/memory.h"

#include <dnnl.h>

#ifdef LKS_ISA
#define LKS_ISA_PASTE(name, isa) name##_##isa
#define LKS_ISA_EXPAND(name, isa) LKS_ISA_PASTE(name, isa)
#define LKS_ISA_NAME(name) LKS_ISA_EXPAND(name, LKS_ISA)
#endif

/* The arithmetic on flat arrays; see device.h. */
typedef struct lks_cpu_flat {
    void (*sum_blocks)(const lks_sum *sum);
    void (*add)(uint64_t elements, const float *from, float *into);
    void (*round)(uint64_t elements, const float *from, uint16_t *to);
    void (*widen)(uint64_t elements, const uint16_t *from, float *to);
    void (*update)(const lks_update *update, uint64_t elements, const float *gradient,
                   float *parameter, float *state0, float *state1);
} lks_cpu_flat;

/* All that was compiled for one instruction set. */
typedef struct lks_cpu_isa {
    const char *name; /* "x86-64-v4", "baseline" */
    const lks_kernel_driver *const *kernels;
    const lks_cpu_flat *flat;
} lks_cpu_isa;

/* The best first; NULL-terminated; written by Meson. */
extern const lks_cpu_isa *const lks_cpu_isas[];
bool lks_cpu_isa_supported(const lks_cpu_isa *isa);

/* The instance behind the handle: lks_cpu_of(device). */
typedef struct lks_cpu_device {
    const lks_cpu_isa *isa;
    dnnl_engine_t engine;
    dnnl_stream_t stream;
    bool native_bf16; /* matrix products read bf16 as it is */
    char *arithmetic;
} lks_cpu_device;

static inline lks_cpu_device *lks_cpu_of(const lks_device *device)
{
    return lks_device_instance(device);
}

/* bf16.c: takes every spec with bf16 in it; inputs (bit i) that a kernel reads as bf16 itself. */
extern const lks_kernel_driver lks_cpu_bf16;
unsigned lks_cpu_reads_bf16(const char *kernel);

/* --- Checking a spec --------------------------------------------------------- */

/* LKS_ERR_INTERNAL: the kernel, `format`, and all shapes of the spec. */
lks_status lks_cpu_refuse(const lks_kernel_spec *spec, const char *format, ...) LKS_PRINTF(2, 3);

/* One letter per tensor: f f32, h f32 or bf16, d f64, i i32, u u8, x any; in upper case it may
 * be absent. "ffF" is x, w, [b] of linear. Tensors beyond are refused, and so are those with no
 * elements. */
lks_status lks_cpu_expect_types(const lks_kernel_spec *spec, const char *inputs,
                                const char *outputs) LKS_MUST_CHECK;

/* The number of elements of a tensor that is there; absent ones pass. */
lks_status lks_cpu_expect_elements(const lks_kernel_spec *spec, const char *name,
                                   const lks_kernel_tensor *tensor,
                                   int64_t elements) LKS_MUST_CHECK;
/* The exact shape of a tensor that is there; absent ones pass. */
lks_status lks_cpu_expect_shape(const lks_kernel_spec *spec, const char *name,
                                const lks_kernel_tensor *tensor,
                                const lks_shape *shape) LKS_MUST_CHECK;
/* Attributes must be there. */
lks_status lks_cpu_expect_attributes(const lks_kernel_spec *spec) LKS_MUST_CHECK;

static inline bool lks_cpu_present(const lks_kernel_tensor *tensor)
{
    return tensor->dtype != LKS_NONE;
}
static inline int64_t lks_cpu_elements(const lks_kernel_tensor *tensor)
{
    return (int64_t)lks_shape_elements(&tensor->shape);
}
/* The last axis, and all before it flattened; a scalar is 1 x 1. */
static inline int64_t lks_cpu_columns(const lks_kernel_tensor *tensor)
{
    return tensor->shape.axes ? tensor->shape.size[tensor->shape.axes - 1] : 1;
}
static inline int64_t lks_cpu_rows(const lks_kernel_tensor *tensor)
{
    return lks_cpu_elements(tensor) / lks_cpu_columns(tensor);
}

#endif
