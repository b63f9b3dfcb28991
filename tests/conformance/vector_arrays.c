#include "tests/conformance/vector_arrays.h"

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"

#define ARRAY_FUNCTION(name, function)                                                             \
    static void name(const float *x, float *y, size_t count)                                       \
    {                                                                                              \
        for (size_t i = 0; i < count; ++i)                                                         \
            y[i] = function(x[i]);                                                                 \
    }
ARRAY_FUNCTION(array_exp, lks_exp)
ARRAY_FUNCTION(array_expm1, lks_expm1_small)
ARRAY_FUNCTION(array_tanh, lks_tanh)
ARRAY_FUNCTION(array_sigmoid, lks_sigmoid)
ARRAY_FUNCTION(array_gelu, lks_gelu)
ARRAY_FUNCTION(array_gelu_derivative, lks_gelu_derivative)

extern const vector_arrays LKS_ISA_NAME(vector_arrays);
const vector_arrays LKS_ISA_NAME(vector_arrays) = {
    array_exp, array_expm1, array_tanh, array_sigmoid, array_gelu, array_gelu_derivative};
