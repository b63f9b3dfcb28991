#include "support.h"

#include <stdlib.h>

int main(void)
{
    Suite *suite = suite_create("prepare");
    TCase *(*const cases[])(void) = {csv_tests,   idx_tests,    text_tests,  images_tests,
                                     table_tests, encode_tests, output_tests};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        TCase *tcase = cases[i]();
        tcase_set_timeout(tcase, 110);
        tcase_add_checked_fixture(tcase, enter_directory, leave_directory);
        suite_add_tcase(suite, tcase);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
