#ifndef LKS_TESTS_CONFORMANCE_TEST_KERNELS_A_H
#define LKS_TESTS_CONFORMANCE_TEST_KERNELS_A_H

#include "tests/conformance/harness.h"

TCase *linear_cases(void);
TCase *attention_cases(void);
TCase *norm_cases(void);
TCase *token_cases(void);
TCase *flat_cases(void);
TCase *vector_math_cases(void);

#endif
