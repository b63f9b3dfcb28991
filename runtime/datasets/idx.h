/* Reading IDX files of unsigned bytes, plain or gzip-compressed, in order.
 *
 * Format (LeCun, "The MNIST database"): two zero bytes, the element type (08: unsigned byte), the
 * number of axes, then each axis' size, big-endian u32; then the elements, row-major.
 */
#ifndef LKS_DATASETS_IDX_H
#define LKS_DATASETS_IDX_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct lks_idx lks_idx;

typedef struct lks_idx_header {
    int axes;         /* 1: labels; 3: images [records, height, width]; 4: with channels */
    uint64_t records; /* >= 1 */
    int64_t height, width, channels; /* 1 where there is no such axis */
    uint64_t record_bytes;
    uint64_t header_bytes, file_bytes; /* uncompressed; the latter with the header */
} lks_idx_header;

/* Reads the header. Another magic, an axis of size 0 or a header cut short is LKS_ERR_CORRUPT. */
lks_status lks_idx_open(lks_idx **out, const char *path) LKS_MUST_CHECK;
void lks_idx_close(lks_idx *idx); /* NULL is fine */
const lks_idx_header *lks_idx_header_of(const lks_idx *idx);
bool lks_idx_is_compressed(const lks_idx *idx);

/* The next `bytes` of the elements. LKS_ERR_CORRUPT when the file is cut short (bytes found and wanted)
 * or its compressed data damaged. */
lks_status lks_idx_read(lks_idx *idx, void *data, uint64_t bytes) LKS_MUST_CHECK;
/* After the last element: anything more is LKS_ERR_CORRUPT. */
lks_status lks_idx_check_end(lks_idx *idx) LKS_MUST_CHECK;
/* For a plain file: the same checks from its size alone. */
lks_status lks_idx_check_size(const lks_idx *idx, uint64_t bytes) LKS_MUST_CHECK;

#endif
