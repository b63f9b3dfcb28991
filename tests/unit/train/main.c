#include "tests/unit/train/suites.h"

#include <stdlib.h>

int main(void)
{
    Suite *suite = suite_create("train");
    suite_add_tcase(suite, case_ledger());
    suite_add_tcase(suite, case_owner());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
