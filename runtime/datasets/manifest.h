/* A dataset's manifest, read and checked. README.md has the format.
 *
 * Everything in it comes from outside: after a successful read, all counts are
 * in range and agree with each other. What the shards hold is checked by shard.h.
 */
#ifndef LKS_DATASETS_MANIFEST_H
#define LKS_DATASETS_MANIFEST_H

#include "runtime/base/hash.h"
#include "runtime/base/memory.h"
#include "runtime/datasets/schema.h"

#include <jansson.h>

#define LKS_MANIFEST_FORMAT "lockstep-dataset"
#define LKS_MANIFEST_FILE "manifest.json"

enum {
    LKS_MANIFEST_VERSION = 1,
    LKS_MANIFEST_BLOCK_BYTES_MAX = 64 * 1024 * 1024,
    LKS_MANIFEST_COLUMNS = 2, /* the most that a shard holds */
};

/* One HDF5 dataset of a shard, [records, row]. */
typedef struct lks_column {
    const char *name;
    lks_dtype dtype;
    lks_shape shape; /* the whole, records first */
    uint64_t row_bytes, bytes;
    uint64_t block_bytes, block_count;
    const uint64_t *hashes; /* [block_count] */
} lks_column;

typedef struct lks_manifest_shard {
    const char *file; /* name within the directory */
    uint64_t first_record, records;
    uint64_t bytes;
    const char *sha256;
    lks_column columns[LKS_MANIFEST_COLUMNS]; /* in the order of the kind's fields */
    int column_count;
} lks_manifest_shard;

typedef struct lks_manifest {
    lks_arena *arena; /* owns all below but json */
    json_t *json;
    const char *directory, *path;
    lks_schema schema; /* fields and context are not set */
    uint64_t records;
    lks_manifest_shard *shards;
    size_t shard_count;
    uint64_t block_bytes; /* the largest of all columns */
    const char *digest;   /* as the manifest states it */
} lks_manifest;

/* A directory or manifest.json missing: LKS_ERR_USAGE. Does not check the digest. */
lks_status lks_manifest_open(lks_manifest **out, const char *directory) LKS_MUST_CHECK;
void lks_manifest_close(lks_manifest *manifest); /* NULL is fine */

/* LKS_ERR_CORRUPT when the stated digest is not that of the contents. */
lks_status lks_manifest_check_digest(const lks_manifest *manifest) LKS_MUST_CHECK;

/* SHA-256 of the compact JSON, keys sorted, without "provenance" and "digest". */
lks_status lks_manifest_digest(const json_t *json, char hex[LKS_SHA256_HEX]) LKS_MUST_CHECK;

#endif
