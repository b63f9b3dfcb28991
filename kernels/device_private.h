/* What device.c, kernel.c and flat.c share. */
#ifndef LKS_KERNELS_DEVICE_PRIVATE_H
#define LKS_KERNELS_DEVICE_PRIVATE_H

#include "kernels/device_driver.h"
#include "kernels/profile.h"

typedef enum lks_flat_call {
    LKS_FLAT_SUM,
    LKS_FLAT_ADD,
    LKS_FLAT_ROUND,
    LKS_FLAT_SUM_STATS,
    LKS_FLAT_TOTAL,
    LKS_FLAT_UPDATE,
    LKS_FLAT_COPY,
    LKS_FLAT_CALLS
} lks_flat_call;

struct lks_device {
    const lks_device_driver *driver;
    void *instance;
    lks_profile profile;
    lks_profile_line flat[LKS_FLAT_CALLS];
};

#endif
