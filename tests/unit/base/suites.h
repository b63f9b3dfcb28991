/* The parts of this test program. */
#ifndef LKS_TEST_BASE_SUITES_H
#define LKS_TEST_BASE_SUITES_H

#include "runtime/base/status.h"

#include <check.h>
#include <string.h>

TCase *case_config(void);
TCase *case_config_resume(void);
TCase *case_files(void);
TCase *case_json(void);
TCase *case_layout(void);
TCase *case_log(void);
TCase *case_memory(void);
TCase *case_node_memory(void);
TCase *case_options(void);
TCase *case_rng_hash(void);
TCase *case_text(void);
TCase *case_yaml_text(void);

#define ASSERT_OK(expression)                                                                      \
    do {                                                                                           \
        lks_status got_ = (expression);                                                            \
        ck_assert_msg(got_ == LKS_OK, "%s: %s", #expression, lks_status_message());                \
    } while (0)

/* The call fails with `status` and its message contains `part`. */
#define ASSERT_FAILS(expression, status, part)                                                     \
    do {                                                                                           \
        ck_assert_int_eq((expression), (status));                                                  \
        ck_assert_msg(strstr(lks_status_message(), (part)),                                        \
                      "message is \"%s\", want \"%s\" in it", lks_status_message(), (part));       \
    } while (0)

#endif
