/* The parts of this test program. */
#ifndef LKS_TESTS_TRAIN_SUITES_H
#define LKS_TESTS_TRAIN_SUITES_H

#include "runtime/base/status.h"

#include <check.h>
#include <stdio.h>
#include <string.h>

TCase *case_ledger(void);
TCase *case_owner(void);

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
