/* One instruction set: the kernels and flat functions compiled for it. */
#include "kernels/cpu/cpu.h"

extern const lks_kernel_driver *const LKS_ISA_NAME(lks_cpu_kernels)[];
extern const lks_cpu_flat LKS_ISA_NAME(lks_cpu_flat);
extern const lks_cpu_isa LKS_ISA_NAME(lks_cpu_isa);

const lks_cpu_isa LKS_ISA_NAME(lks_cpu_isa) = {
    .name = LKS_ISA_TEXT,
    .kernels = LKS_ISA_NAME(lks_cpu_kernels),
    .flat = &LKS_ISA_NAME(lks_cpu_flat),
};
