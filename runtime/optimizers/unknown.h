/* The message for a name that no driver has. */
#ifndef LKS_OPTIMIZERS_UNKNOWN_H
#define LKS_OPTIMIZERS_UNKNOWN_H

#include "runtime/base/status.h"

#include <stddef.h>

lks_status optimizers_fail_unknown(const char *key, const char *name, const char *const *names,
                                   size_t count) LKS_MUST_CHECK;

#endif
