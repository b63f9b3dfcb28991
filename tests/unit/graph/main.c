#include <check.h>
#include <stdlib.h>

Suite *builder_suite(void);
Suite *gradients_suite(void);
Suite *plan_suite(void);
Suite *executor_suite(void);
Suite *deep_suite(void);

int main(void)
{
    SRunner *runner = srunner_create(builder_suite());
    srunner_add_suite(runner, gradients_suite());
    srunner_add_suite(runner, plan_suite());
    srunner_add_suite(runner, executor_suite());
    srunner_add_suite(runner, deep_suite());
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
