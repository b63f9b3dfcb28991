#include "runtime/datasets/idx.h"

#include "runtime/base/memory.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum {
    IDX_UNSIGNED_BYTE = 8,
    IDX_AXES_MAX = 4,
    IDX_BUFFER_BYTES = 128 << 10,
    IDX_EXTENT_MAX = 1 << 20, /* of height, width, channels */
};

struct lks_idx {
    char *path;
    gzFile file; /* zlib reads plain files, too */
    lks_idx_header header;
    uint64_t found_bytes;
};

/* Fewer bytes than asked for only at the end of the file. */
static lks_status idx_read_bytes(lks_idx *idx, unsigned char *data, uint64_t bytes, uint64_t *got)
{
    *got = 0;
    while (*got < bytes) {
        uint64_t left = bytes - *got;
        unsigned now = left < 1u << 30 ? (unsigned)left : 1u << 30;
        int count = gzread(idx->file, data + *got, now);
        int error;
        const char *message = gzerror(idx->file, &error);
        if (count < 0 && error != Z_BUF_ERROR)
            return error == Z_ERRNO
                       ? LKS_FAIL(LKS_ERR_IO, "%s: read: %s", idx->path, strerror(errno))
                       : LKS_FAIL(LKS_ERR_CORRUPT,
                                  "%s: its compressed data is damaged (%s): fetch it "
                                  "again",
                                  idx->path, message);
        if (count <= 0)
            break;
        *got += (uint64_t)count;
        idx->found_bytes += (uint64_t)count;
    }
    return LKS_OK;
}

static lks_status idx_fail_short(const lks_idx *idx, uint64_t found)
{
    return LKS_FAIL(LKS_ERR_CORRUPT,
                    "%s: cut short: found %" PRIu64 " bytes%s, its header says %" PRIu64
                    ": fetch it again",
                    idx->path, found, lks_idx_is_compressed(idx) ? " uncompressed" : "",
                    idx->header.file_bytes);
}

static lks_status idx_fail_trailing(const lks_idx *idx)
{
    return LKS_FAIL(LKS_ERR_CORRUPT,
                    "%s: has more than the %" PRIu64 " bytes that its header says: it is not what "
                    "it claims to be",
                    idx->path, idx->header.file_bytes);
}

static lks_status idx_check_magic(const lks_idx *idx, const unsigned char magic[4], uint64_t got)
{
    int axes = magic[3];
    if (got == 4 && magic[0] == 0 && magic[1] == 0 && magic[2] != IDX_UNSIGNED_BYTE && axes >= 1 &&
        axes <= IDX_AXES_MAX && magic[2] >= 9 && magic[2] <= 14)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: an IDX file of element type %02x: only unsigned bytes (08) can be "
                        "prepared",
                        idx->path, magic[2]);
    if (got < 4 || magic[0] != 0 || magic[1] != 0 || magic[2] != IDX_UNSIGNED_BYTE ||
        (axes != 1 && axes != 3 && axes != 4))
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: not an IDX file: begins with %02x%02x%02x%02x, images begin with "
                        "00000803 or 00000804, labels with 00000801",
                        idx->path, magic[0], magic[1], magic[2], magic[3]);
    return LKS_OK;
}

static lks_status idx_set_sizes(lks_idx *idx, const uint32_t sizes[IDX_AXES_MAX])
{
    lks_idx_header *h = &idx->header;
    for (int a = 0; a < h->axes; ++a) {
        if (sizes[a] == 0 || (a > 0 && sizes[a] > IDX_EXTENT_MAX))
            return LKS_FAIL(LKS_ERR_CORRUPT,
                            "%s: its header says %" PRIu32 " for axis %d, allowed are 1 to %u",
                            idx->path, sizes[a], a, a > 0 ? IDX_EXTENT_MAX : UINT32_MAX);
    }
    h->records = sizes[0];
    h->height = h->axes > 1 ? sizes[1] : 1;
    h->width = h->axes > 2 ? sizes[2] : 1;
    h->channels = h->axes > 3 ? sizes[3] : 1;
    h->record_bytes = (uint64_t)h->height * (uint64_t)h->width * (uint64_t)h->channels;
    if (h->record_bytes > INT64_MAX / 2 / h->records)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its header says more bytes than a file can hold",
                        idx->path);
    h->file_bytes = h->header_bytes + h->records * h->record_bytes;
    return LKS_OK;
}

static lks_status idx_read_header(lks_idx *idx)
{
    unsigned char bytes[4 * IDX_AXES_MAX] = {0};
    uint64_t got;
    LKS_TRY(idx_read_bytes(idx, bytes, 4, &got));
    LKS_TRY(idx_check_magic(idx, bytes, got));
    idx->header.axes = bytes[3];
    idx->header.header_bytes = 4 + 4 * (uint64_t)idx->header.axes;
    idx->header.file_bytes = idx->header.header_bytes;
    LKS_TRY(idx_read_bytes(idx, bytes, 4 * (uint64_t)idx->header.axes, &got));
    if (got < 4 * (uint64_t)idx->header.axes)
        return idx_fail_short(idx, 4 + got);
    uint32_t sizes[IDX_AXES_MAX] = {0};
    for (int a = 0; a < idx->header.axes; ++a)
        sizes[a] = (uint32_t)bytes[4 * a] << 24 | (uint32_t)bytes[4 * a + 1] << 16 |
                   (uint32_t)bytes[4 * a + 2] << 8 | bytes[4 * a + 3];
    return idx_set_sizes(idx, sizes);
}

static lks_status idx_start(lks_idx *idx, const char *path)
{
    idx->path = strdup(path);
    if (!idx->path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    errno = 0;
    idx->file = gzopen(path, "rbe");
    if (!idx->file)
        return LKS_FAIL(errno == ENOENT || errno == ENOTDIR ? LKS_ERR_USAGE : LKS_ERR_IO,
                        "%s: cannot be opened: %s", path, strerror(errno ? errno : ENOMEM));
    gzbuffer(idx->file, IDX_BUFFER_BYTES);
    return idx_read_header(idx);
}

lks_status lks_idx_open(lks_idx **out, const char *path)
{
    lks_idx *idx;
    LKS_TRY(LKS_NEW(&idx));
    lks_status status = idx_start(idx, path);
    if (status != LKS_OK)
        lks_idx_close(idx);
    else
        *out = idx;
    return status;
}

void lks_idx_close(lks_idx *idx)
{
    if (!idx)
        return;
    if (idx->file)
        gzclose(idx->file);
    free(idx->path);
    lks_memory_free(idx);
}

const lks_idx_header *lks_idx_header_of(const lks_idx *idx)
{
    return &idx->header;
}

bool lks_idx_is_compressed(const lks_idx *idx)
{
    return !gzdirect(idx->file);
}

lks_status lks_idx_read(lks_idx *idx, void *data, uint64_t bytes)
{
    uint64_t got;
    LKS_TRY(idx_read_bytes(idx, data, bytes, &got));
    return got < bytes ? idx_fail_short(idx, idx->found_bytes) : LKS_OK;
}

lks_status lks_idx_check_end(lks_idx *idx)
{
    unsigned char more;
    uint64_t got;
    LKS_TRY(idx_read_bytes(idx, &more, 1, &got));
    if (got > 0)
        return idx_fail_trailing(idx);
    int error;
    gzerror(idx->file, &error);
    if (error == Z_BUF_ERROR)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: cut short: the checksum at its end is missing: fetch it again",
                        idx->path);
    return LKS_OK;
}

lks_status lks_idx_check_size(const lks_idx *idx, uint64_t bytes)
{
    if (bytes < idx->header.file_bytes)
        return idx_fail_short(idx, bytes);
    return bytes > idx->header.file_bytes ? idx_fail_trailing(idx) : LKS_OK;
}
