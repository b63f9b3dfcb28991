#include "tests/conformance/test_kernels_b.h"

int main(void)
{
    Suite *suite = suite_create("kernels b");
    suite_add_tcase(suite, unary_cases());
    suite_add_tcase(suite, binary_cases());
    suite_add_tcase(suite, matmul_cases());
    suite_add_tcase(suite, softmax_cases());
    suite_add_tcase(suite, shapes_cases());
    suite_add_tcase(suite, image_cases());
    suite_add_tcase(suite, squared_error_cases());
    suite_add_tcase(suite, conv2d_cases());
    suite_add_tcase(suite, batch_norm_cases());
    suite_add_tcase(suite, pool2d_cases());
    suite_add_tcase(suite, refusals_cases());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
