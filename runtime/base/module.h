/* Modules: parts of lockstep in shared objects of their own, opened when asked for, so that a program
 * without them starts as fast and runs where their libraries are missing.
 *
 * Module `name` is liblockstep-<name>.so: in the directory that LKS_MODULES names, if set, else
 * where the library's own search path says (lib/lockstep beside the library). It stays open.
 */
#ifndef LKS_BASE_MODULE_H
#define LKS_BASE_MODULE_H

#include "runtime/base/status.h"

#include <stdbool.h>

/* LKS_ERR_USAGE: no such module here, or what the system's loader said of it. */
lks_status lks_module_symbol(const char *name, const char *symbol, const void **out) LKS_MUST_CHECK;

#endif
