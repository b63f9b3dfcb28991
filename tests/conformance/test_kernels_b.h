/* The kernels of convolutional networks and the primitive ones, against f64.
 *
 * u is 2^-24. A sum of n products in f32, in whatever order, is off by at most n u
 * sum|a b| (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1, to first
 * order); each further rounding adds one u. The c of every check is counted so.
 */
#ifndef LKS_TESTS_CONFORMANCE_TEST_KERNELS_B_H
#define LKS_TESTS_CONFORMANCE_TEST_KERNELS_B_H

#include "tests/conformance/harness.h"

#include "runtime/base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TCase *unary_cases(void);
TCase *binary_cases(void);
TCase *matmul_cases(void);
TCase *softmax_cases(void);
TCase *shapes_cases(void);
TCase *image_cases(void);
TCase *squared_error_cases(void);
TCase *conv2d_cases(void);
TCase *batch_norm_cases(void);
TCase *pool2d_cases(void);
TCase *refusals_cases(void);

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* f64 arrays that go together. */
typedef struct pool {
    double *block[24];
    int count;
} pool;

static inline double *take(pool *p, size_t count)
{
    ck_assert_int_lt(p->count, COUNT(p->block));
    return p->block[p->count++] = harness_f64(count);
}

static inline double *take_copy(pool *p, const harness_tensor *tensor)
{
    ck_assert_int_lt(p->count, COUNT(p->block));
    return p->block[p->count++] = harness_to_f64(tensor);
}

static inline void drop(pool *p)
{
    while (p->count)
        free(p->block[--p->count]);
}

/* low <= value < high, a pure function of its arguments. */
static inline int pick(uint64_t seed, uint64_t index, int low, int high)
{
    uint64_t key = lks_rng_key(seed, LKS_RNG_TEST, 9);
    return low + (int)(lks_rng_words(key, 0, index).word[0] % (uint32_t)(high - low));
}

static inline harness_call call_of(const char *kernel, const void *attributes, harness_tensor *in,
                                   int in_count, harness_tensor *out, int out_count)
{
    return (harness_call){kernel, attributes, in, in_count, out, out_count, NULL};
}

/* Two f64 gradients agree: the analytic one and the differences of the reference. */
static inline void agree(const char *what, const double *analytic, const double *differences,
                         size_t count)
{
    for (size_t i = 0; i < count; ++i)
        ck_assert_msg(fabs(analytic[i] - differences[i]) <= 1e-7 * (1 + fabs(analytic[i])),
                      "%s[%zu]: analytic %.12g, differences %.12g", what, i, analytic[i],
                      differences[i]);
}

static inline void fill_bytes(harness_tensor *tensor, uint64_t seed)
{
    size_t bytes = harness_count(tensor) * lks_dtype_bytes(tensor->spec.dtype);
    for (size_t i = 0; i < bytes; ++i)
        ((unsigned char *)tensor->data)[i] = (unsigned char)pick(seed, i, 0, 256);
}

#endif
