#include "tests/unit/checkpoints/suites.h"

#include <stdlib.h>
#include <unistd.h>

fixture self;

void self_open(void)
{
    ASSERT_OK(fixture_open(&self, "self", "/tmp"));
}

void self_open_quick(void)
{
    bool there = access("/dev/shm", W_OK) == 0;
    ASSERT_OK(fixture_open(&self, "self", there ? "/dev/shm" : "/tmp"));
}

void self_close(void)
{
    fixture_close(&self);
}

int main(void)
{
    Suite *suite = suite_create("checkpoints");
    TCase *cases[] = {case_faults(), case_save(), case_damage(), case_find(), case_compare(),
                      case_busy()};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        tcase_add_checked_fixture(cases[i], i == 0 ? self_open_quick : self_open, self_close);
        tcase_set_timeout(cases[i], 60);
        suite_add_tcase(suite, cases[i]);
    }
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
