/* The parts of this test program. */
#ifndef LKS_TESTS_CHECKPOINTS_SUITES_H
#define LKS_TESTS_CHECKPOINTS_SUITES_H

#include "tests/unit/checkpoints/fixture.h"

#include <check.h>
#include <string.h>

TCase *case_save(void);
TCase *case_damage(void);
TCase *case_find(void);
TCase *case_compare(void);
TCase *case_faults(void);
TCase *case_busy(void);

/* The fixture of the running test, world of one. */
extern fixture self;
void self_open(void);
void self_open_quick(void); /* where fsync costs nothing, if there is such a place */
void self_close(void);

#define ASSERT_OK(expression)                                                                      \
    do {                                                                                           \
        lks_status got_ = (expression);                                                            \
        ck_assert_msg(got_ == LKS_OK, "%s: %s", #expression, lks_status_message());                \
    } while (0)

/* The call fails with `status` and its message contains `part`. */
#define ASSERT_FAILS(expression, status, part)                                                     \
    do {                                                                                           \
        ck_assert_int_eq((expression), (status));                                                  \
        ck_assert_msg(strstr(lks_status_message(), (part)) != NULL,                                \
                      "message is \"%s\", want \"%s\" in it", lks_status_message(), (part));       \
    } while (0)

#endif
