/* What a link between cuda devices needs of one beside device.h. Defined in the module that has the
 * device; for other parts of that module alone.
 */
#ifndef LKS_KERNELS_CUDA_STREAM_H
#define LKS_KERNELS_CUDA_STREAM_H

#include "kernels/device.h"

/* The cudaStream_t that kernels and copies are given to. */
void *lks_cuda_stream(const lks_device *device);
/* From here on they are given to `stream`; returns the one before. While it is not the device's own, the profile leaves
 * out what is given: the work of a link, whose end may hang on a peer. */
void *lks_cuda_use_stream(lks_device *device, void *stream);
/* "GPU-..." as nvidia-smi says. */
const char *lks_cuda_uuid(const lks_device *device);

#endif
