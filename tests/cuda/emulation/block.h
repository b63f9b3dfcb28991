/* Running a kernel: blocks one after the other, the threads of a block in turns. */
#ifndef LKS_TESTS_CUDA_BLOCK_H
#define LKS_TESTS_CUDA_BLOCK_H

#include "emulation.h"

/* False when the kernel was ended by a fault, which lks_fault_text tells. `seed` draws the order of blocks
 * and, between waits, of threads; 0 is in order. */
bool lks_block_run_grid(const lks_emulation_kernel &kernel, uint64_t seed);

/* Time as far as it is in order for all threads: an era begins with each block and ends with each of its
 * barriers. Eras are numbered over all launches. */
struct lks_block_eras {
    uint32_t launch, block, now; /* the first of the launch, the first of the block, this one */
};
extern lks_block_eras lks_block_era;
bool lks_block_running(); /* a kernel is */
bool lks_block_owns_shared(const char *address, size_t bytes);
/* Offset of a shared address: dynamic memory first, then the variables; and where they end. */
size_t lks_block_shared_offset(const char *address);
size_t lks_block_shared_end();
enum { LKS_BLOCK_SHARED_BYTES = 227 << 10 };

/* Ends the running kernel with a message that begins with kernel, block and thread. In a thread it does not
 * return. The first message stays until lks_fault_clear. */
void lks_fault_raise(const char *format, ...) __attribute__((format(printf, 1, 2)));
const char *lks_fault_text(); /* "": none */
void lks_fault_clear();

#endif
