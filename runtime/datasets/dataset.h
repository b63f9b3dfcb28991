/* Datasets on disk: manifest.json and shards. README.md has the format.
 *
 * Opening reads the manifest and the shards' headers; samples are read with
 * pread and every block is verified against its hash the first time it is
 * touched. Thread-safe after opening.
 */
#ifndef LKS_DATASETS_DATASET_H
#define LKS_DATASETS_DATASET_H

#include "runtime/base/status.h"
#include "runtime/datasets/schema.h"

#include <jansson.h>
#include <stdint.h>

typedef struct lks_dataset lks_dataset;

/* A directory without manifest.json, or a missing one: LKS_ERR_USAGE; a manifest
 * that is newer, torn or untrue, a shard missing or of the wrong size: LKS_ERR_CORRUPT. `context` is the
 * tokens per sample for text (>= 1), ignored otherwise. */
lks_status lks_dataset_open(lks_dataset **out, const char *directory,
                            int64_t context) LKS_MUST_CHECK;
void lks_dataset_close(lks_dataset *dataset); /* NULL is fine */

const lks_schema *lks_dataset_schema(const lks_dataset *dataset);
uint64_t lks_dataset_samples(const lks_dataset *dataset); /* N */
/* Bytes of a sample as it lies on disk, for lks_order_create. */
uint64_t lks_dataset_sample_bytes(const lks_dataset *dataset);
/* SHA-256 of the canonical manifest: the dataset's identity (64 hex digits). Independent of context and of
 * where it lies. */
const char *lks_dataset_digest(const lks_dataset *dataset);
const char *lks_dataset_directory(const lks_dataset *dataset);
const json_t *
lks_dataset_manifest(const lks_dataset *dataset); /* for show, and for predict's column rules */

/* Reads `count` samples into one array per field (fields[i] is count x shape,
 * in the field's dtype). samples[i] == LKS_SAMPLE_NONE gives a masked sample: zeros
 * and masked targets. A bad block is LKS_ERR_CORRUPT: file, block, expected and found hash. */
#define LKS_SAMPLE_NONE UINT64_MAX
lks_status lks_dataset_read(lks_dataset *dataset, const uint64_t *samples, int64_t count,
                            void *const *fields) LKS_MUST_CHECK;

/* Reads everything and checks every hash; `report` (NULL: none) is called for each problem found. Returns
 * LKS_ERR_CORRUPT when there was one. */
lks_status lks_dataset_verify(const char *directory,
                              void (*report)(void *user, const char *problem),
                              void *user) LKS_MUST_CHECK;

#endif
