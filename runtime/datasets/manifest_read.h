/* What manifest.c and manifest_shards.c share. */
#ifndef LKS_DATASETS_MANIFEST_READ_H
#define LKS_DATASETS_MANIFEST_READ_H

#include "runtime/datasets/manifest.h"

/* From the manifest's arena; NULL without memory. */
void *lks_manifest_allocate(lks_manifest *manifest, size_t count, size_t bytes);
lks_status lks_manifest_fail_memory(const lks_manifest *manifest) LKS_MUST_CHECK;
bool lks_manifest_is_hex(const char *text, size_t digits);

/* "shards", when the schema is known. */
lks_status lks_manifest_read_shards(lks_manifest *manifest) LKS_MUST_CHECK;

#endif
