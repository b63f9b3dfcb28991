#include "tests/conformance/test_kernels_a.h"

#include <stdlib.h>

int main(void)
{
    Suite *suite = suite_create("kernels a");
    if (harness_on_cpu())
        suite_add_tcase(suite, vector_math_cases());
    suite_add_tcase(suite, flat_cases());
    suite_add_tcase(suite, linear_cases());
    suite_add_tcase(suite, norm_cases());
    suite_add_tcase(suite, token_cases());
    suite_add_tcase(suite, attention_cases());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
