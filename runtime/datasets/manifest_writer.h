/* Writing manifest.json: the last act of making a dataset. */
#ifndef LKS_DATASETS_MANIFEST_WRITER_H
#define LKS_DATASETS_MANIFEST_WRITER_H

#include "runtime/base/status.h"

#include <jansson.h>
#include <stdint.h>

/* References stay the caller's. */
typedef struct lks_manifest_parts {
    const char *kind;
    uint64_t records;
    json_t *schema, *shards;
    json_t *statistics; /* NULL: none */
    json_t *provenance;
} lks_manifest_parts;

lks_status lks_manifest_write(const char *directory,
                              const lks_manifest_parts *parts) LKS_MUST_CHECK;

#endif
