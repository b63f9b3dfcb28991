/* kernels/cpu/vector_math.h over arrays, compiled once per instruction set. */
#ifndef LKS_TESTS_CONFORMANCE_VECTOR_ARRAYS_H
#define LKS_TESTS_CONFORMANCE_VECTOR_ARRAYS_H

#include <stddef.h>

typedef void vector_function(const float *x, float *y, size_t count);

/* In the order of lks_cpu_isas. */
typedef struct vector_arrays {
    vector_function *exp, *expm1, *tanh, *sigmoid, *gelu, *gelu_derivative;
} vector_arrays;
extern const vector_arrays *const vector_arrays_all[];

#endif
