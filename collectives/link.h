/* Which link serves. */
#ifndef LKS_COLLECTIVES_LINK_H
#define LKS_COLLECTIVES_LINK_H

#include "collectives/link_driver.h"

/* (collective) Opens the link `name`, or for "auto" the first that serves here; those that were passed over though they
 * looked usable are warned of. An unknown name, or a link that cannot serve: LKS_ERR_USAGE. */
lks_status lks_link_open(const lks_link_driver **driver, void **instance, lks_link_arrays *arrays,
                         const char *name, const lks_link_spec *spec) LKS_MUST_CHECK;

#endif
