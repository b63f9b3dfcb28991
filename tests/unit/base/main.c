#include "suites.h"

#include <stdlib.h>

int main(void)
{
    Suite *suite = suite_create("base");
    suite_add_tcase(suite, case_text());
    suite_add_tcase(suite, case_yaml_text());
    suite_add_tcase(suite, case_memory());
    suite_add_tcase(suite, case_node_memory());
    suite_add_tcase(suite, case_rng_hash());
    suite_add_tcase(suite, case_files());
    suite_add_tcase(suite, case_json());
    suite_add_tcase(suite, case_layout());
    suite_add_tcase(suite, case_log());
    suite_add_tcase(suite, case_options());
    suite_add_tcase(suite, case_config());
    suite_add_tcase(suite, case_config_resume());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
