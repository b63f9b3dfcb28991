/* The draws of an emulated launch: SplitMix64 (Steele et al., OOPSLA 2014). */
#ifndef LKS_TESTS_CUDA_RANDOM_H
#define LKS_TESTS_CUDA_RANDOM_H

#include <stddef.h>
#include <stdint.h>

class lks_random
{
    uint64_t state;
    bool ordered;

  public:
    explicit lks_random(uint64_t seed) : state(seed), ordered(seed == 0) {}
    bool in_order() const { return ordered; } /* seed 0: below is 0 always */
    size_t below(size_t count)
    {
        if (ordered)
            return 0;
        uint64_t z = state += 0x9E3779B97F4A7C15u;
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
        z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
        z ^= z >> 31;
        return (size_t)(((z >> 32) * count) >> 32); /* count < 2^32 */
    }
};

#endif
