/* Writing one shard: an HDF5 file with one contiguous dataset per array.
 *
 * The file is made by HDF5, whose datasets' offsets are then filled with plain pwrite. Equal
 * records give equal bytes: no times, one format version, no fill.
 */
#ifndef LKS_DATASETS_SHARD_WRITER_H
#define LKS_DATASETS_SHARD_WRITER_H

#include "runtime/base/status.h"
#include "runtime/base/tensor.h"

#include <jansson.h>
#include <stdint.h>

enum { LKS_SHARD_BLOCK_BYTES = 262144 }; /* the unit that is hashed */

typedef struct lks_shard_array {
    const char *name;
    lks_dtype dtype;
    lks_shape shape; /* of one record */
} lks_shard_array;

size_t lks_shard_array_bytes(const lks_shard_array *array); /* of one record */

typedef struct lks_shard_writer lks_shard_writer;

/* Makes the file for exactly `records` >= 1 records; it must not exist. */
lks_status lks_shard_create(lks_shard_writer **out, const char *path, const lks_shard_array *arrays,
                            int count, uint64_t records) LKS_MUST_CHECK;
/* The next `records` records; data[i] belongs to array i. */
lks_status lks_shard_append(lks_shard_writer *writer, const void *const *data,
                            uint64_t records) LKS_MUST_CHECK;
/* fsyncs and frees the writer, whatever comes out. *out: the manifest's entry of the shard
 * ({"file", "records", "bytes", "sha256", "datasets"}). */
lks_status lks_shard_finish(lks_shard_writer *writer, json_t **out) LKS_MUST_CHECK;
/* Instead of finish: the file is left as it is, for the caller to remove. NULL is fine. */
void lks_shard_abandon(lks_shard_writer *writer);

#endif
