/* bf16: the upper half of an f32. */
#ifndef LKS_BASE_BF16_H
#define LKS_BASE_BF16_H

#include <stdint.h>
#include <string.h>

static inline float lks_bf16_value(uint16_t bits)
{
    uint32_t word = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &word, sizeof value);
    return value;
}

/* The nearest, ties to even; a NaN stays one. */
static inline uint16_t lks_bf16_of(float value)
{
    uint32_t word;
    memcpy(&word, &value, sizeof word);
    uint32_t nearest = (word + 0x7fffu + (word >> 16 & 1u)) >> 16;
    uint32_t quiet = word >> 16 | 0x40u;
    return (uint16_t)((word & 0x7fffffffu) > 0x7f800000u ? quiet : nearest);
}

#endif
