/* What the parts of this test program share. */
#ifndef LKS_TEST_REPORT_SUITES_H
#define LKS_TEST_REPORT_SUITES_H

#include "runtime/report/report.h"

#include <check.h>

TCase *case_progress(void);
TCase *case_terminal(void);

/* A fresh run directory, and its removal; stderr goes to a file in it. */
void run_setup(void);
void run_teardown(void);
const char *run_directory(void);
/* The text of a file in it, to be freed. */
char *run_read(const char *name);

lks_step_metrics metrics_of(uint64_t step);

#define ASSERT_OK(expression)                                                                      \
    do {                                                                                           \
        lks_status got_ = (expression);                                                            \
        ck_assert_msg(got_ == LKS_OK, "%s: %s", #expression, lks_status_message());                \
    } while (0)

#endif
