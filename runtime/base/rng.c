#include "runtime/base/rng.h"

#include <math.h>

/* Elements 4b .. 4b+3 come from the four words of block b, in two pairs. */
static void rng_normal_block(uint64_t key, uint64_t block, float out[4])
{
    static const double two_pi = 6.283185307179586476925286766559;
    lks_rng_block words = lks_rng_words(key, 0, block);
    for (int pair = 0; pair < 2; ++pair) {
        /* Both in (0, 1), so that the logarithm is finite. */
        double u = ((double)words.word[2 * pair] + 0.5) * 0x1p-32;
        double v = ((double)words.word[2 * pair + 1] + 0.5) * 0x1p-32;
        double radius = sqrt(-2.0 * log(u));
        out[2 * pair] = (float)(radius * cos(two_pi * v));
        out[2 * pair + 1] = (float)(radius * sin(two_pi * v));
    }
}

static void rng_uniform_block(uint64_t key, uint64_t block, float out[4])
{
    lks_rng_block words = lks_rng_words(key, 0, block);
    for (int i = 0; i < 4; ++i)
        out[i] = lks_rng_uniform(words.word[i]);
}

static void rng_fill(void (*make)(uint64_t key, uint64_t block, float out[4]), uint64_t key,
                     uint64_t first_element, uint64_t count, float *out)
{
    for (uint64_t i = 0; i < count;) {
        float values[4];
        uint64_t element = first_element + i;
        make(key, element / 4, values);
        for (uint64_t j = element % 4; j < 4 && i < count; ++j)
            out[i++] = values[j];
    }
}

void lks_rng_normal(uint64_t key, uint64_t first_element, uint64_t count, float *out)
{
    rng_fill(rng_normal_block, key, first_element, count, out);
}

void lks_rng_uniform_fill(uint64_t key, uint64_t first_element, uint64_t count, float *out)
{
    rng_fill(rng_uniform_block, key, first_element, count, out);
}
