/* Arithmetic on flat memory on the device; see kernels/device.h. */
#ifndef LKS_KERNELS_CUDA_FLAT_H
#define LKS_KERNELS_CUDA_FLAT_H

#include "kernels/cuda/cuda.cuh"

lks_status lks_cuda_sum_blocks(void *instance, const lks_sum *sum) LKS_MUST_CHECK;
lks_status lks_cuda_add(void *instance, uint64_t elements, const float *from,
                        float *into) LKS_MUST_CHECK;
lks_status lks_cuda_round(void *instance, uint64_t elements, const float *from,
                          uint16_t *to) LKS_MUST_CHECK;
lks_status lks_cuda_sum_stats(void *instance, uint32_t lanes, uint32_t micro_batches,
                              const double *stats, double *sums) LKS_MUST_CHECK;
lks_status lks_cuda_total(void *instance, const lks_totals_spec *spec,
                          lks_totals *out) LKS_MUST_CHECK;
lks_status lks_cuda_update(void *instance, const lks_update *update,
                           const lks_update_blocks *what) LKS_MUST_CHECK;

#endif
