/* Arithmetic on flat memory on the device; see kernels/device.h. */
#ifndef LKS_KERNELS_CUDA_FLAT_H
#define LKS_KERNELS_CUDA_FLAT_H

#include "kernels/cuda/cuda.cuh"

lks_status lks_cuda_sum_blocks(void *instance, const lks_sum *sum) LKS_MUST_CHECK;
lks_status lks_cuda_add(void *instance, uint64_t elements, const float *from,
                        float *into) LKS_MUST_CHECK;
lks_status lks_cuda_round(void *instance, uint64_t elements, const float *from,
                          uint16_t *to) LKS_MUST_CHECK;
lks_status lks_cuda_update(void *instance, const lks_update *update, uint64_t elements,
                           const float *gradient, float *parameter, float *state0,
                           float *state1) LKS_MUST_CHECK;

#endif
