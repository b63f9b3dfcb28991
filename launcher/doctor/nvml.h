/* NVIDIA's management library, opened at run time. */
#ifndef LKS_LAUNCHER_DOCTOR_NVML_H
#define LKS_LAUNCHER_DOCTOR_NVML_H

#include <jansson.h>

/* {"driver": "550.54", "gpus": [{"uuid", "name", "total", "free" (bytes), "ecc" (bool), "ecc_errors" (uncorrected since the
 * driver was loaded), "throttle" (reasons, a text; absent: none), "pid" (a process that uses it; absent: none)}]}. What the
 * library does not tell is absent. Without a driver {"problem": why}. */
json_t *lks_nvml_look(void);

#endif
