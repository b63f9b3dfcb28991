/* Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random
 * numbers: as easy as 1, 2, 3", SC 2011).
 *
 * A number is a pure function of what it is for: (seed, purpose, position,
 * element). Never of a rank, of time or of the order of calls.
 */
#ifndef LKS_BASE_RNG_H
#define LKS_BASE_RNG_H

#include <stdint.h>

/* Set before the first include where the functions are for another kind of processor too. */
#ifndef LKS_RNG_QUALIFIER
#define LKS_RNG_QUALIFIER
#endif

/* Purposes; a stream is (purpose << 32 | instance), instance being an op, a
 * parameter or an epoch. */
typedef enum lks_rng_purpose {
    LKS_RNG_INIT = 1,    /* instance: parameter's index in declaration order */
    LKS_RNG_DROPOUT = 2, /* instance: number of the op in the graph */
    LKS_RNG_ORDER = 3,   /* instance: level */
    LKS_RNG_SAMPLE = 4,  /* text generation */
    LKS_RNG_SPLIT = 5,   /* prepare --shuffle */
    LKS_RNG_TEST = 6,
} lks_rng_purpose;

typedef struct lks_rng_block {
    uint32_t word[4];
} lks_rng_block;

/* The 128-bit counter is (element block, position), 96 bits used of purpose
 * and instance are mixed into the key with the seed. */
static inline LKS_RNG_QUALIFIER lks_rng_block lks_rng_philox(uint64_t key, uint64_t counter_low,
                                                             uint64_t counter_high)
{
    uint32_t c0 = (uint32_t)counter_low, c1 = (uint32_t)(counter_low >> 32);
    uint32_t c2 = (uint32_t)counter_high, c3 = (uint32_t)(counter_high >> 32);
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
    for (int round = 0; round < 10; ++round) {
        uint64_t p0 = (uint64_t)0xD2511F53u * c0;
        uint64_t p1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0;
        uint32_t n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)p1;
        c3 = (uint32_t)p0;
        c0 = n0;
        c2 = n2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return (lks_rng_block){{c0, c1, c2, c3}};
}

/* The key of a stream: SplitMix64's finaliser (Steele et al., OOPSLA 2014) over
 * seed, purpose and instance. */
static inline LKS_RNG_QUALIFIER uint64_t lks_rng_key(uint64_t seed, lks_rng_purpose purpose,
                                                     uint32_t instance)
{
    uint64_t z = seed + 0x9E3779B97F4A7C15u * (((uint64_t)purpose << 32 | instance) + 1);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

/* Four words for elements [4*element_block, 4*element_block + 4) at a position. */
static inline LKS_RNG_QUALIFIER lks_rng_block lks_rng_words(uint64_t key, uint64_t position,
                                                            uint64_t element_block)
{
    return lks_rng_philox(key, element_block, position);
}

/* [0, 1) with 24 bits. */
static inline LKS_RNG_QUALIFIER float lks_rng_uniform(uint32_t word)
{
    return (float)(word >> 8) * 0x1p-24f;
}

/* Fills `out` with `count` standard normal numbers (Box-Muller in f64, rounded
 * to f32): element i depends on (key, i) alone. */
void lks_rng_normal(uint64_t key, uint64_t first_element, uint64_t count, float *out);
void lks_rng_uniform_fill(uint64_t key, uint64_t first_element, uint64_t count, float *out);

#endif
