/* Each access of a kernel to memory that is not its thread's own: is it to memory that it may touch, and is it
 * ordered with those of other threads? */
#ifndef LKS_TESTS_CUDA_ACCESS_H
#define LKS_TESTS_CUDA_ACCESS_H

#include <stddef.h>

enum lks_access { LKS_ACCESS_READ, LKS_ACCESS_WRITE, LKS_ACCESS_ATOMIC };

/* By the running thread; by the lane of its warp. Raises a fault. */
void lks_access_check(const void *address, size_t bytes, lks_access access);
void lks_access_check_for(int lane, const void *address, size_t bytes, lks_access access);

/* A kernel begins: what earlier ones did is in order with it. `races`: look for them. */
void lks_access_begin(bool races);
void lks_access_end();

#endif
