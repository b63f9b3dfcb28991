#include "tests/unit/checkpoints/suites.h"

#include <stdlib.h>

fixture self;

void self_open(void)
{
    ASSERT_OK(fixture_open(&self, "self"));
}

void self_close(void)
{
    fixture_close(&self);
}

int main(void)
{
    Suite *suite = suite_create("checkpoints");
    TCase *cases[] = {case_save(), case_damage(), case_find(), case_compare(), case_faults()};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        tcase_add_checked_fixture(cases[i], self_open, self_close);
        tcase_set_timeout(cases[i], 60);
        suite_add_tcase(suite, cases[i]);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
