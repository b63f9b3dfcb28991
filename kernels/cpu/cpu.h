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
 * The t of shapes.h is f32 here: bf16 has been widened, but for what lks_cpu_reads_bf16 names.
 */
#ifndef LKS_KERNELS_CPU_CPU_H
#define LKS_KERNELS_CPU_CPU_H

#include "kernels/device_driver.h"
#include "kernels/ops.h"
#include "kernels/shapes.h"
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

#endif
