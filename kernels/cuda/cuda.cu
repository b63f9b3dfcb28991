#include "kernels/cuda/cuda.cuh"

extern "C" {
#include "runtime/base/text.h"
}

lks_status lks_cuda_fail(cudaError_t error, const char *what)
{
    size_t available = 0, total = 0;
    char free_text[32], total_text[32];
    (void)cudaGetLastError();
    if (error == cudaErrorMemoryAllocation && cudaMemGetInfo(&available, &total) == cudaSuccess)
        return LKS_FAIL(LKS_ERR_INTERNAL,
                        "cuda: %s: no memory; %s of the device's %s are free: make "
                        "train.micro_batch smaller, or end what else runs there",
                        what, lks_text_bytes(free_text, sizeof free_text, available),
                        lks_text_bytes(total_text, sizeof total_text, total));
    return LKS_FAIL(LKS_ERR_INTERNAL, "cuda: %s: %s (%s)", what, cudaGetErrorString(error),
                    cudaGetErrorName(error));
}
