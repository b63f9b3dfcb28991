#include "suites.h"

#include <stdlib.h>

int main(void)
{
    SRunner *runner = srunner_create(order_suite());
    srunner_add_suite(runner, dataset_suite());
    srunner_add_suite(runner, damage_suite());
    srunner_add_suite(runner, loader_suite());
    srunner_add_suite(runner, mutation_suite());
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
