/* The native shards of a dataset: HDF5 files with contiguous datasets, read with pread.
 *
 * HDF5 is used while opening only, to learn where the datasets lie, and in a child process: it
 * crashes on some damaged files and never returns from others. Reading is thread-safe. A block is hashed
 * whole the first time that any of it is read.
 */
#ifndef LKS_DATASETS_SHARD_H
#define LKS_DATASETS_SHARD_H

#include "runtime/datasets/manifest.h"

typedef struct lks_shards lks_shards;

/* Checks the files' sizes and headers; LKS_ERR_CORRUPT when one is missing or untrue. The
 * manifest must outlive the shards. */
lks_status lks_shards_open(lks_shards **out, const lks_manifest *manifest) LKS_MUST_CHECK;
void lks_shards_close(lks_shards *shards); /* NULL is fine */

/* Memory of manifest->block_bytes to check blocks in; one per reading thread. Starts as {0},
 * allocated when first needed. */
typedef struct lks_shard_scratch {
    unsigned char *block;
} lks_shard_scratch;
lks_status lks_shards_scratch_allocate(const lks_shards *shards,
                                       lks_shard_scratch *scratch) LKS_MUST_CHECK;
void lks_shard_scratch_release(lks_shard_scratch *scratch);

/* Bytes [offset, offset + bytes) of a column of shard `index`; the range must lie inside. */
lks_status lks_shards_read(lks_shards *shards, size_t index, int column, uint64_t offset,
                           size_t bytes, void *out, lks_shard_scratch *scratch) LKS_MUST_CHECK;

/* What was found of a shard's size and HDF5 header. */
typedef struct lks_shard_header {
    lks_status status;
    char *message;                          /* why, when status is not LKS_OK */
    uint64_t offsets[LKS_MANIFEST_COLUMNS]; /* where each column begins in the file */
} lks_shard_header;

/* Examines all shards; one that is wrong says so in its header. Freed with lks_shard_headers_free. */
lks_status lks_shards_examine(const lks_manifest *manifest,
                              lks_shard_header **headers) LKS_MUST_CHECK;
void lks_shard_headers_free(lks_shard_header *headers, size_t count);

static inline size_t lks_column_block_size(const lks_column *column, uint64_t block)
{
    uint64_t left = column->bytes - block * column->block_bytes;
    return (size_t)(left < column->block_bytes ? left : column->block_bytes);
}

/* Reads a block into `out` (lks_column_block_size bytes) and compares its hash. */
lks_status lks_shard_check_block(int file, const char *path, const lks_column *column,
                                 uint64_t offset, uint64_t block, void *out) LKS_MUST_CHECK;

#endif
