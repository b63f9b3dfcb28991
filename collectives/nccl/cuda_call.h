/* Calls of CUDA's in a link. */
#ifndef LKS_COLLECTIVES_NCCL_CUDA_CALL_H
#define LKS_COLLECTIVES_NCCL_CUDA_CALL_H

#include "runtime/base/status.h"

#include <cuda_runtime_api.h>

/* LKS_ERR_INTERNAL with CUDA's name of the error. */
static inline LKS_MUST_CHECK lks_status lks_link_cuda_check(cudaError_t error, const char *call)
{
    if (error == cudaSuccess)
        return LKS_OK;
    (void)cudaGetLastError(); /* else the next launch is told of it, where the link gives way */
    return LKS_FAIL(LKS_ERR_INTERNAL, "CUDA: %s (%s): %s", cudaGetErrorString(error),
                    cudaGetErrorName(error), call);
}

#define LKS_LINK_CUDA(call) LKS_TRY(lks_link_cuda_check((call), #call))

#endif
