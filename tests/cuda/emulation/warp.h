/* What the lanes of a warp compute together. */
#ifndef LKS_TESTS_CUDA_WARP_H
#define LKS_TESTS_CUDA_WARP_H

#include "emulation.h"

struct lks_warp_lane {
    lks_emulation_collective kind;
    unsigned mask;
    alignas(16) unsigned char in[LKS_EMULATION_LANE_BYTES], out[16];
};

/* The lanes that take part (32, NULL where one does not); all have the same kind and mask. */
void lks_warp_complete(lks_warp_lane *const *lanes);

#endif
