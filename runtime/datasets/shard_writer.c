#include "runtime/datasets/shard_writer.h"

#include "runtime/base/files.h"
#include "runtime/base/hash.h"
#include "runtime/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "shards hold memory as it is");

enum { METADATA_BYTES = 64 << 10 }; /* more than HDF5 takes for its own */

typedef struct shard_stream {
    lks_shard_array array;
    uint64_t file_offset, bytes, written; /* written counts what lies in `block`, too */
    unsigned char *block; /* [LKS_SHARD_BLOCK_BYTES], filled, then hashed and written */
    size_t fill;
    json_t *hashes;
} shard_stream;

struct lks_shard_writer {
    char *path;
    int file;
    uint64_t records;
    shard_stream *streams;
    int count;
};

size_t lks_shard_array_bytes(const lks_shard_array *array)
{
    return lks_shape_elements(&array->shape) * lks_dtype_bytes(array->dtype);
}

static hid_t shard_file_type(lks_dtype dtype)
{
    switch (dtype) {
    case LKS_U8:
        return H5T_STD_U8LE;
    case LKS_I32:
        return H5T_STD_I32LE;
    case LKS_F32:
        return H5T_IEEE_F32LE;
    default:
        return H5I_INVALID_HID;
    }
}

static hid_t shard_make_dataset(hid_t file, const lks_shard_array *array, uint64_t records)
{
    hsize_t size[LKS_AXES_MAX + 1] = {records};
    for (int a = 0; a < array->shape.axes; ++a)
        size[a + 1] = (hsize_t)array->shape.size[a];
    hid_t space = H5Screate_simple(array->shape.axes + 1, size, NULL);
    hid_t create = H5Pcreate(H5P_DATASET_CREATE);
    hid_t dataset = H5I_INVALID_HID;
    if (H5Pset_layout(create, H5D_CONTIGUOUS) >= 0 &&
        H5Pset_alloc_time(create, H5D_ALLOC_TIME_EARLY) >= 0 &&
        H5Pset_fill_time(create, H5D_FILL_TIME_NEVER) >= 0 &&
        H5Pset_obj_track_times(create, 0) >= 0)
        dataset = H5Dcreate2(file, array->name, shard_file_type(array->dtype), space, H5P_DEFAULT,
                             create, H5P_DEFAULT);
    H5Pclose(create);
    H5Sclose(space);
    return dataset;
}

static bool shard_make_datasets(lks_shard_writer *writer, hid_t file)
{
    for (int i = 0; i < writer->count; ++i) {
        shard_stream *stream = &writer->streams[i];
        hid_t dataset = shard_make_dataset(file, &stream->array, writer->records);
        haddr_t offset = dataset >= 0 ? H5Dget_offset(dataset) : HADDR_UNDEF;
        if (dataset >= 0 && H5Dclose(dataset) < 0)
            offset = HADDR_UNDEF;
        if (offset == HADDR_UNDEF)
            return false;
        stream->file_offset = offset;
    }
    return true;
}

/* The format of HDF5 1.8: no symbol tables, whose unused bytes are not defined. */
static bool shard_make_file(lks_shard_writer *writer)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS), create = H5Pcreate(H5P_FILE_CREATE);
    hid_t file = H5I_INVALID_HID;
    bool made = false;
    if (H5Pset_libver_bounds(access, H5F_LIBVER_V18, H5F_LIBVER_V18) >= 0 &&
        H5Pset_obj_track_times(create, 0) >= 0)
        file = H5Fcreate(writer->path, H5F_ACC_EXCL, create, access);
    if (file >= 0) {
        made = shard_make_datasets(writer, file);
        made = H5Fclose(file) >= 0 && made;
    }
    H5Pclose(create);
    H5Pclose(access);
    return made;
}

/* HDF5 cannot recover from a file that it fails to close (it crashes at exit): find out
 * beforehand whether the file may be made and become as long as it must. */
static lks_status shard_probe(const lks_shard_writer *writer)
{
    uint64_t bytes = METADATA_BYTES;
    for (int i = 0; i < writer->count; ++i)
        bytes += writer->streams[i].bytes;
    int file = open(writer->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: open: %s", writer->path, strerror(errno));
    int error = posix_fallocate(file, 0, METADATA_BYTES);
    if (error == 0 && ftruncate(file, (off_t)bytes) != 0)
        error = errno;
    close(file);
    unlink(writer->path);
    if (error != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: no room for %" PRIu64 " bytes: %s", writer->path, bytes,
                        strerror(error));
    return LKS_OK;
}

static lks_status shard_make(lks_shard_writer *writer)
{
    LKS_TRY(shard_probe(writer));
    H5dont_atexit();
    H5E_auto2_t print;
    void *user;
    H5Eget_auto2(H5E_DEFAULT, &print, &user);
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    errno = 0;
    bool made = shard_make_file(writer);
    int cause = errno;
    H5Eset_auto2(H5E_DEFAULT, print, user);
    if (!made)
        return LKS_FAIL(LKS_ERR_IO, "%s: HDF5 could not make the shard%s%s", writer->path,
                        cause ? ": " : "", cause ? strerror(cause) : "");
    writer->file = open(writer->path, O_WRONLY | O_CLOEXEC);
    if (writer->file < 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: open: %s", writer->path, strerror(errno));
    return LKS_OK;
}

static lks_status shard_start(lks_shard_writer *writer, const char *path,
                              const lks_shard_array *arrays, int count, uint64_t records)
{
    writer->file = -1;
    writer->records = records;
    LKS_TRY(LKS_NEW_ARRAY(&writer->streams, (size_t)count));
    writer->count = count;
    for (int i = 0; i < count; ++i) {
        shard_stream *stream = &writer->streams[i];
        stream->array = arrays[i];
        stream->bytes = records * lks_shard_array_bytes(&arrays[i]);
        LKS_TRY(LKS_NEW_ARRAY(&stream->block, (size_t)LKS_SHARD_BLOCK_BYTES));
        stream->hashes = json_array();
    }
    writer->path = strdup(path);
    if (!writer->path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    return shard_make(writer);
}

lks_status lks_shard_create(lks_shard_writer **out, const char *path, const lks_shard_array *arrays,
                            int count, uint64_t records)
{
    lks_shard_writer *writer;
    LKS_TRY(LKS_NEW(&writer));
    lks_status status = shard_start(writer, path, arrays, count, records);
    if (status != LKS_OK)
        lks_shard_abandon(writer);
    else
        *out = writer;
    return status;
}

static lks_status shard_flush(lks_shard_writer *writer, shard_stream *stream)
{
    if (stream->fill == 0)
        return LKS_OK;
    char hex[17];
    snprintf(hex, sizeof hex, "%016" PRIx64, lks_hash_xxh3(stream->block, stream->fill));
    if (json_array_append_new(stream->hashes, json_string(hex)) != 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the hashes of a shard");
    uint64_t at = stream->file_offset + stream->written - stream->fill;
    LKS_TRY(lks_files_pwrite(writer->file, writer->path, stream->block, stream->fill, at));
    stream->fill = 0;
    return LKS_OK;
}

static lks_status shard_stream_append(lks_shard_writer *writer, shard_stream *stream,
                                      const unsigned char *data, uint64_t bytes)
{
    if (bytes > stream->bytes - stream->written)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: more records than the %" PRIu64 " announced",
                        writer->path, writer->records);
    while (bytes > 0) {
        size_t part = LKS_SHARD_BLOCK_BYTES - stream->fill;
        if (part > bytes)
            part = (size_t)bytes;
        memcpy(stream->block + stream->fill, data, part);
        stream->fill += part;
        stream->written += part;
        data += part;
        bytes -= part;
        if (stream->fill == LKS_SHARD_BLOCK_BYTES)
            LKS_TRY(shard_flush(writer, stream));
    }
    return LKS_OK;
}

lks_status lks_shard_append(lks_shard_writer *writer, const void *const *data, uint64_t records)
{
    for (int i = 0; i < writer->count; ++i) {
        shard_stream *stream = &writer->streams[i];
        uint64_t bytes = records * lks_shard_array_bytes(&stream->array);
        LKS_TRY(shard_stream_append(writer, stream, data[i], bytes));
    }
    return LKS_OK;
}

static json_t *shard_describe_stream(const shard_stream *stream, uint64_t records)
{
    json_t *shape = json_pack("[I]", (json_int_t)records);
    for (int a = 0; a < stream->array.shape.axes; ++a)
        json_array_append_new(shape, json_integer(stream->array.shape.size[a]));
    return json_pack("{s:s, s:s, s:o, s:i, s:O}", "name", stream->array.name, "dtype",
                     lks_dtype_name(stream->array.dtype), "shape", shape, "block_bytes",
                     (int)LKS_SHARD_BLOCK_BYTES, "xxh3", stream->hashes);
}

static lks_status shard_describe(const lks_shard_writer *writer, json_t **out)
{
    struct stat info;
    if (stat(writer->path, &info) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: stat: %s", writer->path, strerror(errno));
    char hex[LKS_SHA256_HEX];
    LKS_TRY(lks_hash_sha256_file(writer->path, hex));
    json_t *datasets = json_array();
    for (int i = 0; i < writer->count; ++i)
        json_array_append_new(datasets,
                              shard_describe_stream(&writer->streams[i], writer->records));
    const char *slash = strrchr(writer->path, '/');
    *out = json_pack("{s:s, s:I, s:I, s:s, s:o}", "file", slash ? slash + 1 : writer->path,
                     "records", (json_int_t)writer->records, "bytes", (json_int_t)info.st_size,
                     "sha256", hex, "datasets", datasets);
    if (!*out)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the entry of a shard");
    return LKS_OK;
}

static lks_status shard_complete(lks_shard_writer *writer, json_t **out)
{
    for (int i = 0; i < writer->count; ++i) {
        shard_stream *stream = &writer->streams[i];
        if (stream->written != stream->bytes)
            return LKS_FAIL(LKS_ERR_INTERNAL,
                            "%s: %" PRIu64 " bytes of %s written, %" PRIu64 " announced",
                            writer->path, stream->written, stream->array.name, stream->bytes);
        LKS_TRY(shard_flush(writer, stream));
    }
    if (fsync(writer->file) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: fsync: %s", writer->path, strerror(errno));
    int file = writer->file;
    writer->file = -1;
    if (close(file) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: close: %s", writer->path, strerror(errno));
    return shard_describe(writer, out);
}

lks_status lks_shard_finish(lks_shard_writer *writer, json_t **out)
{
    lks_status status = shard_complete(writer, out);
    lks_shard_abandon(writer);
    return status;
}

void lks_shard_abandon(lks_shard_writer *writer)
{
    if (!writer)
        return;
    for (int i = 0; i < writer->count; ++i) {
        lks_memory_free(writer->streams[i].block);
        json_decref(writer->streams[i].hashes);
    }
    lks_memory_free(writer->streams);
    if (writer->file >= 0)
        close(writer->file);
    free(writer->path);
    lks_memory_free(writer);
}
