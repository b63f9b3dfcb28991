/* Sums over f32 arrays in one fixed order: element i goes to accumulator i mod
 * 16, and the accumulators are added as a binary tree. */
#ifndef LKS_KERNELS_CPU_SUMS_H
#define LKS_KERNELS_CPU_SUMS_H

#include <math.h>
#include <stdint.h>

enum { LKS_SUM_LANES = 16 };

static inline float lks_sum_lanes(float sums[LKS_SUM_LANES])
{
    for (int width = LKS_SUM_LANES / 2; width; width /= 2)
        for (int j = 0; j < width; ++j)
            sums[j] += sums[j + width];
    return sums[0];
}

/* `term` is an expression in i; `name` a float that gets the sum over [0, count). */
#define LKS_SUM(name, i, count, term)                                                              \
    float name;                                                                                    \
    do {                                                                                           \
        float name##_sums[LKS_SUM_LANES] = {0};                                                    \
        int64_t name##_whole = (count) / LKS_SUM_LANES * LKS_SUM_LANES;                            \
        for (int64_t name##_i = 0; name##_i < name##_whole; name##_i += LKS_SUM_LANES)             \
            for (int name##_j = 0; name##_j < LKS_SUM_LANES; ++name##_j) {                         \
                int64_t i = name##_i + name##_j;                                                   \
                name##_sums[name##_j] += (term);                                                   \
            }                                                                                      \
        for (int64_t i = name##_whole; i < (count); ++i)                                           \
            name##_sums[i - name##_whole] += (term);                                               \
        name = lks_sum_lanes(name##_sums);                                                         \
    } while (0)

/* The largest of count >= 1 numbers; NaNs are passed over. */
static inline float lks_largest(const float *x, int64_t count)
{
    float largest[LKS_SUM_LANES];
    int64_t whole = count / LKS_SUM_LANES * LKS_SUM_LANES;
    for (int j = 0; j < LKS_SUM_LANES; ++j)
        largest[j] = -INFINITY;
    for (int64_t i = 0; i < whole; i += LKS_SUM_LANES)
        for (int j = 0; j < LKS_SUM_LANES; ++j)
            largest[j] = x[i + j] > largest[j] ? x[i + j] : largest[j];
    for (int64_t i = whole; i < count; ++i)
        largest[0] = x[i] > largest[0] ? x[i] : largest[0];
    for (int j = 1; j < LKS_SUM_LANES; ++j)
        largest[0] = largest[j] > largest[0] ? largest[j] : largest[0];
    return largest[0];
}

/* out[c] (+)= sum over rows of x[row * columns + c]. Rows are summed in runs of
 * 32, the runs one after the other, so that an error grows with 32 + rows / 32. */
static inline void lks_column_sums(const float *x, int64_t rows, int64_t columns, float *out,
                                   int add)
{
    enum { RUN = 32, WIDTH = 128 };
    for (int64_t first = 0; first < columns; first += WIDTH) {
        int width = columns - first < WIDTH ? (int)(columns - first) : WIDTH;
        float total[WIDTH] = {0};
        for (int64_t begin = 0; begin < rows; begin += RUN) {
            int64_t end = rows - begin < RUN ? rows : begin + RUN;
            float sums[WIDTH] = {0};
            for (int64_t row = begin; row < end; ++row)
                for (int c = 0; c < width; ++c)
                    sums[c] += x[row * columns + first + c];
            for (int c = 0; c < width; ++c)
                total[c] += sums[c];
        }
        for (int c = 0; c < width; ++c)
            out[first + c] = add ? out[first + c] + total[c] : total[c];
    }
}

#endif
