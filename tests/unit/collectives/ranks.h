/* For programs that run under mpirun: a rank whose check fails ends all. */
#ifndef LKS_TESTS_RANKS_H
#define LKS_TESTS_RANKS_H

#include "collectives/comm.h"
#include "runtime/base/log.h"

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            lks_log_error("%s:%d: %s does not hold; last failure: %s", __FILE__, __LINE__,         \
                          #condition, lks_status_message());                                       \
            lks_comm_abort(comm, LKS_ERR_INTERNAL);                                                \
        }                                                                                          \
    } while (0)

#define MUST_OK(call) MUST((call) == LKS_OK)

#endif
