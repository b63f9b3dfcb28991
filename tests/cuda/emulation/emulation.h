/* Between device code compiled for the emulator (lks_target.cuh) and the emulator itself. */
#ifndef LKS_TESTS_CUDA_EMULATION_H
#define LKS_TESTS_CUDA_EMULATION_H

#include <cuda_runtime_api.h>
#include <memory>
#include <stdint.h>

/* What the running thread of a kernel knows about itself. Lives on its stack. */
struct lks_emulation_thread {
    uint3 index, block;
    dim3 block_size, grid_size;
    unsigned number;     /* within the block */
    uint16_t warp_syncs; /* its last __syncwarp, counted over the warp */
};
extern lks_emulation_thread *lks_emulation_self;

/* --- Launching ----------------------------------------------------------------- */

struct lks_emulation_kernel {
    const char *name, *file;
    int line;
    const void *function;
    void (*call)(const void *arguments); /* one thread */
    std::shared_ptr<void> arguments;
    dim3 grid, block;
    size_t shared_bytes;
};

/* Errors are the launch's, as on a device: cudaGetLastError. */
void lks_emulation_launch(lks_emulation_kernel &&kernel, cudaStream_t stream);

/* --- What a thread calls ------------------------------------------------------- */

void *lks_emulation_dynamic_shared();
/* The threads of the block wait for each other; the sum of their `value`s. */
int lks_emulation_block_barrier(const char *what, int value);
/* The threads of a named barrier: bar.sync number, count. */
void lks_emulation_named_barrier(int number, int count);

/* What the lanes of a warp do together: each gives `in`, all in `mask` must come to
 * the same call, then each has its `out`. */
enum lks_emulation_collective {
    LKS_COLLECTIVE_SYNC,    /* __syncwarp: orders memory too */
    LKS_COLLECTIVE_SHUFFLE, /* in {value, source lane}, out value */
    LKS_COLLECTIVE_BALLOT,  /* in a predicate, out the lanes where it held */
    LKS_COLLECTIVE_MATCH,   /* in a value, out the lanes with the same */
    LKS_COLLECTIVE_ADD,     /* in a word, out the sum over the lanes */
    LKS_COLLECTIVE_MIN,
    LKS_COLLECTIVE_MAX,
    LKS_COLLECTIVE_MMA_BF16, /* in lks_emulation_mma, out float[4] */
    LKS_COLLECTIVE_MMA_TF32,
    LKS_COLLECTIVE_LOAD_MATRICES, /* in lks_emulation_rows, out uint32_t[4] */
};
enum { LKS_EMULATION_LANE_BYTES = 48 };
void lks_emulation_converge(lks_emulation_collective kind, const char *what, unsigned mask,
                            const void *in, size_t in_bytes, void *out, size_t out_bytes);

struct lks_emulation_mma {
    float d[4];
    uint32_t a[4], b[2];
};
struct lks_emulation_rows {
    const void *row;
    int matrices, transposed;
};

/* Copies that are seen only after the wait (and, by other threads, after a barrier). */
void lks_emulation_copy(void *shared, const void *global, int bytes, bool valid);
void lks_emulation_copy_commit();
void lks_emulation_copy_wait(int left);

/* Integer atomics read, change and write at once: a thread is never interrupted. */
void lks_emulation_atomic(const void *address, size_t bytes, const char *what);
void lks_emulation_fence();

/* Ends the kernel: `assert` and __trap. */
[[noreturn]] void lks_emulation_stop(const char *what);

#endif
