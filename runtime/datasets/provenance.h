/* Where a dataset comes from: the manifest's "provenance". */
#ifndef LKS_DATASETS_PROVENANCE_H
#define LKS_DATASETS_PROVENANCE_H

#include "runtime/datasets/format_driver.h"
#include "runtime/datasets/prepare.h"

/* Only what decides the bytes: no time, no host, no place. NULL without memory. `inputs` is from
 * lks_inputs_describe; the reference stays the caller's. */
json_t *lks_provenance(const lks_prepare_spec *spec, const lks_format_driver *driver,
                       json_t *inputs);

int64_t lks_prepare_shard_bytes(const lks_prepare_spec *spec); /* with the default applied */

#endif
