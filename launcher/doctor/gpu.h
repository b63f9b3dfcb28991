/* What the check of GPUs has found, for others. */
#ifndef LKS_LAUNCHER_DOCTOR_GPU_H
#define LKS_LAUNCHER_DOCTOR_GPU_H

#include "launcher/doctor/check.h"

/* Bytes that are free on the GPU that the rank will take; NAN: not known. */
double lks_doctor_gpu_free(const lks_doctor *d, int rank);

#endif
