/* The factors that dropout multiplies with: 0 or 1 / (1 - rate). */
#ifndef LKS_KERNELS_CPU_DROPOUT_H
#define LKS_KERNELS_CPU_DROPOUT_H

#include "runtime/base/rng.h"

/* factor[i] of elements [first, first + count) of the sample at `position`. */
static inline void lks_dropout_factors(uint64_t key, uint64_t position, uint64_t first,
                                       int64_t count, float rate, float *factor)
{
    enum { BLOCKS = 64 }; /* Philox vectorises over blocks of four words */
    float scale = 1.0f / (1.0f - rate), kept[BLOCKS * 4];
    uint64_t end = first + (uint64_t)count;
    for (uint64_t block = first / 4; block * 4 < end; block += BLOCKS) {
        uint64_t last = (end + 3) / 4;
        int blocks = last - block < BLOCKS ? (int)(last - block) : BLOCKS;
#pragma omp simd
        for (int b = 0; b < blocks; ++b) {
            lks_rng_block words = lks_rng_words(key, position, block + (uint64_t)b);
            kept[4 * b + 0] = lks_rng_uniform(words.word[0]) >= rate ? scale : 0.0f;
            kept[4 * b + 1] = lks_rng_uniform(words.word[1]) >= rate ? scale : 0.0f;
            kept[4 * b + 2] = lks_rng_uniform(words.word[2]) >= rate ? scale : 0.0f;
            kept[4 * b + 3] = lks_rng_uniform(words.word[3]) >= rate ? scale : 0.0f;
        }
        uint64_t from = block * 4 > first ? block * 4 : first;
        uint64_t to = (block + BLOCKS) * 4 < end ? (block + BLOCKS) * 4 : end;
        for (uint64_t e = from; e < to; ++e)
            factor[e - first] = kept[e - block * 4];
    }
}

#endif
