/* Stacks that take turns: the threads of a block. One scheduler, which is whoever calls enter. */
#ifndef LKS_TESTS_CUDA_FIBER_H
#define LKS_TESTS_CUDA_FIBER_H

#include <stddef.h>

enum { LKS_FIBERS_MAX = 1024, LKS_FIBER_STACK_BYTES = 128 << 10 };

/* Fiber `number` will run entry(number) from its beginning; what it did before is forgotten. */
void lks_fiber_prepare(int number, void (*entry)(int));
/* Runs a fiber until it leaves; only the scheduler calls it. */
void lks_fiber_enter(int number);
/* Back to the scheduler; the fiber that was entered last calls it. */
void lks_fiber_leave();
/* All stacks, for telling a thread's own memory. Each lies on a page that nobody may touch. */
char *lks_fiber_stacks();
size_t lks_fiber_stacks_bytes();

#endif
