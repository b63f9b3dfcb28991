#include "runtime/datasets/shard.h"

#include "runtime/base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

enum { EXAMINE_TIMEOUT_MS = 60 * 1000 };

/* What the child sends for each shard; the message's bytes follow. */
typedef struct reply {
    lks_status status;
    uint32_t message_bytes;
    uint64_t offsets[LKS_MANIFEST_COLUMNS];
} reply;

static hid_t h5_type(lks_dtype dtype)
{
    switch (dtype) {
    case LKS_U8:
        return H5T_STD_U8LE;
    case LKS_U16:
        return H5T_STD_U16LE;
    case LKS_I32:
        return H5T_STD_I32LE;
    case LKS_F32:
        return H5T_IEEE_F32LE;
    default:
        return H5I_INVALID_HID;
    }
}

static bool type_matches(hid_t dataset, const lks_column *column)
{
    hid_t type = H5Dget_type(dataset);
    bool equal = type >= 0 && H5Tequal(type, h5_type(column->dtype)) > 0;
    if (type >= 0)
        H5Tclose(type);
    return equal;
}

static bool shape_matches(hid_t dataset, const lks_column *column)
{
    hsize_t size[H5S_MAX_RANK];
    hid_t space = H5Dget_space(dataset);
    bool equal = space >= 0 && H5Sget_simple_extent_ndims(space) == column->shape.axes &&
                 H5Sget_simple_extent_dims(space, size, NULL) == column->shape.axes;
    for (int axis = 0; equal && axis < column->shape.axes; ++axis)
        equal = size[axis] == (hsize_t)column->shape.size[axis];
    if (space >= 0)
        H5Sclose(space);
    return equal;
}

/* Contiguous, and in this file rather than an external one. */
static bool layout_matches(hid_t dataset)
{
    hid_t list = H5Dget_create_plist(dataset);
    bool plain =
        list >= 0 && H5Pget_layout(list) == H5D_CONTIGUOUS && H5Pget_external_count(list) == 0;
    if (list >= 0)
        H5Pclose(list);
    return plain;
}

static lks_status examine_dataset(hid_t dataset, const char *path, const lks_column *column,
                                  uint64_t file_bytes, uint64_t *offset)
{
    char shape[128];
    if (!type_matches(dataset, column) || !shape_matches(dataset, column))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: dataset %s is not %s %s, as the manifest says", path,
                        column->name, lks_dtype_name(column->dtype),
                        lks_shape_text(&column->shape, shape, sizeof shape));
    if (!layout_matches(dataset))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: dataset %s is not stored contiguously in this file",
                        path, column->name);
    haddr_t found = H5Dget_offset(dataset);
    if (found == HADDR_UNDEF || found > file_bytes || column->bytes > file_bytes - found)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: dataset %s does not lie within the file: offset %" PRIu64 ", %" PRIu64
                        " bytes in a file of %" PRIu64,
                        path, column->name, (uint64_t)found, column->bytes, file_bytes);
    *offset = found;
    return LKS_OK;
}

static lks_status examine_column(hid_t file, const char *path, const lks_column *column,
                                 uint64_t file_bytes, uint64_t *offset)
{
    H5L_info_t link;
    hid_t dataset = H5I_INVALID_HID;
    if (H5Lget_info(file, column->name, &link, H5P_DEFAULT) >= 0 && link.type == H5L_TYPE_HARD)
        dataset = H5Dopen2(file, column->name, H5P_DEFAULT);
    if (dataset < 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: has no dataset %s, or a damaged one", path,
                        column->name);
    lks_status status = examine_dataset(dataset, path, column, file_bytes, offset);
    H5Dclose(dataset);
    return status;
}

/* Read-only, without the lock that some file systems refuse. */
static hid_t h5_open(const char *path)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_file_locking(access, 0, 1);
    hid_t file = H5Fopen(path, H5F_ACC_RDONLY, access);
    H5Pclose(access);
    return file;
}

static lks_status examine_header(const char *path, const lks_manifest_shard *shard,
                                 uint64_t offsets[LKS_MANIFEST_COLUMNS])
{
    hid_t file = h5_open(path);
    if (file < 0)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: HDF5 cannot open it: prepare the dataset again or restore the file",
                        path);
    lks_status status = LKS_OK;
    for (int i = 0; i < shard->column_count && status == LKS_OK; ++i)
        status = examine_column(file, path, &shard->columns[i], shard->bytes, &offsets[i]);
    H5Fclose(file);
    return status;
}

static lks_status examine_shard(const char *path, const lks_manifest_shard *shard,
                                uint64_t offsets[LKS_MANIFEST_COLUMNS])
{
    struct stat info;
    if (stat(path, &info) != 0)
        return LKS_FAIL(errno == ENOENT ? LKS_ERR_CORRUPT : LKS_ERR_IO,
                        "%s: %s, but the manifest names it: prepare the dataset again or restore "
                        "the file",
                        path, strerror(errno));
    if (!S_ISREG(info.st_mode) || (uint64_t)info.st_size != shard->bytes)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: has %" PRIu64 " bytes, the manifest says %" PRIu64
                        ": prepare the dataset again or restore the file",
                        path, (uint64_t)info.st_size, shard->bytes);
    return examine_header(path, shard, offsets);
}

static bool send_bytes(int pipe, const void *data, size_t bytes)
{
    for (const char *from = data; bytes > 0;) {
        ssize_t sent = write(pipe, from, bytes);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent <= 0)
            return false;
        from += sent;
        bytes -= (size_t)sent;
    }
    return true;
}

static bool send_reply(int pipe, const lks_manifest *manifest, size_t index)
{
    const lks_manifest_shard *shard = &manifest->shards[index];
    reply answer = {.status = LKS_ERR_INTERNAL};
    char *path = lks_files_join(manifest->directory, shard->file);
    if (path != NULL)
        answer.status = examine_shard(path, shard, answer.offsets);
    free(path);
    const char *message = answer.status == LKS_OK ? "" : lks_status_message();
    answer.message_bytes = (uint32_t)strlen(message);
    return send_bytes(pipe, &answer, sizeof answer) &&
           send_bytes(pipe, message, answer.message_bytes);
}

/* A crash ends the child alone and quietly, whatever handlers the parent has. */
static _Noreturn void child_run(int pipe, const lks_manifest *manifest, size_t first)
{
    const int fatal[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};
    for (size_t i = 0; i < sizeof fatal / sizeof *fatal; ++i)
        signal(fatal[i], SIG_DFL);
    setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
    for (size_t i = first; i < manifest->shard_count; ++i)
        if (!send_reply(pipe, manifest, i))
            break;
    _exit(0);
}

/* False at the end of the pipe, or when nothing comes in time. */
static bool receive_bytes(int pipe, void *data, size_t bytes)
{
    for (char *to = data; bytes > 0;) {
        struct pollfd wait = {.fd = pipe, .events = POLLIN};
        int ready = poll(&wait, 1, EXAMINE_TIMEOUT_MS);
        ssize_t got = ready > 0 ? read(pipe, to, bytes) : ready;
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return false;
        to += got;
        bytes -= (size_t)got;
    }
    return true;
}

static bool receive_reply(int pipe, lks_shard_header *header)
{
    reply answer;
    if (!receive_bytes(pipe, &answer, sizeof answer))
        return false;
    header->message = malloc((size_t)answer.message_bytes + 1);
    if (header->message == NULL || !receive_bytes(pipe, header->message, answer.message_bytes))
        return false;
    header->message[answer.message_bytes] = '\0';
    header->status = answer.status;
    memcpy(header->offsets, answer.offsets, sizeof header->offsets);
    return true;
}

/* Lets a child examine shards from *next on; *next is then the first that it gave no answer for. */
static lks_status examine_in_child(const lks_manifest *manifest, lks_shard_header *headers,
                                   size_t *next)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: no pipe to examine its shards: %s", manifest->directory,
                        strerror(errno));
    pid_t child = fork();
    if (child == 0)
        child_run(ends[1], manifest, *next);
    int error = errno;
    close(ends[1]);
    while (child > 0 && *next < manifest->shard_count && receive_reply(ends[0], &headers[*next]))
        ++*next;
    close(ends[0]);
    if (child < 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: no process to examine its shards: %s", manifest->directory,
                        strerror(error));
    kill(child, SIGKILL);
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    return LKS_OK;
}

/* HDF5 died of the file, or never came back from it. */
static lks_status fail_unreadable(const lks_manifest *manifest, size_t index,
                                  lks_shard_header *header)
{
    header->status = LKS_FAIL(LKS_ERR_CORRUPT,
                              "%s/%s: its HDF5 header is damaged: prepare the dataset again or "
                              "restore the file",
                              manifest->directory, manifest->shards[index].file);
    free(header->message);
    header->message = strdup(lks_status_message());
    return header->message != NULL ? LKS_OK : LKS_ERR_INTERNAL;
}

lks_status lks_shards_examine(const lks_manifest *manifest, lks_shard_header **out)
{
    lks_shard_header *headers;
    LKS_TRY(LKS_NEW_ARRAY(&headers, manifest->shard_count));
    lks_status status = LKS_OK;
    for (size_t next = 0; status == LKS_OK && next < manifest->shard_count;) {
        status = examine_in_child(manifest, headers, &next);
        if (status == LKS_OK && next < manifest->shard_count) {
            status = fail_unreadable(manifest, next, &headers[next]);
            ++next;
        }
    }
    if (status != LKS_OK) {
        lks_shard_headers_free(headers, manifest->shard_count);
        return status;
    }
    *out = headers;
    return LKS_OK;
}

void lks_shard_headers_free(lks_shard_header *headers, size_t count)
{
    for (size_t i = 0; headers != NULL && i < count; ++i)
        free(headers[i].message);
    lks_memory_free(headers);
}
