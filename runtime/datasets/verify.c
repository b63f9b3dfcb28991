#include "runtime/base/files.h"
#include "runtime/base/text.h"
#include "runtime/datasets/dataset.h"
#include "runtime/datasets/shard.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct verification {
    const lks_manifest *manifest;
    void (*report)(void *user, const char *problem);
    void *user;
    uint64_t problems;
    unsigned char *block;
    lks_shard_header *headers;
} verification;

/* The thread's last message is a problem of the data. */
static void note(verification *v)
{
    ++v->problems;
    if (v->report != NULL)
        v->report(v->user, lks_status_message());
}

/* Passes on what is not about the data (no memory), notes the rest. */
static lks_status sort_out(verification *v, lks_status status)
{
    if (status == LKS_ERR_INTERNAL)
        return status;
    if (status != LKS_OK)
        note(v);
    return LKS_OK;
}

static lks_status verify_blocks(verification *v, const char *path, const lks_manifest_shard *shard,
                                const uint64_t *offsets)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return sort_out(v, LKS_FAIL(LKS_ERR_IO, "%s: cannot open: %s", path, strerror(errno)));
    for (int i = 0; i < shard->column_count; ++i) {
        const lks_column *column = &shard->columns[i];
        for (uint64_t block = 0; block < column->block_count; ++block)
            if (lks_shard_check_block(file, path, column, offsets[i], block, v->block) != LKS_OK)
                note(v);
    }
    close(file);
    return LKS_OK;
}

static lks_status check_sha256(const char *path, const lks_manifest_shard *shard)
{
    char found[LKS_SHA256_HEX];
    LKS_TRY(lks_hash_sha256_file(path, found));
    if (strcmp(found, shard->sha256) != 0)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: expected sha256 %s, found %s: prepare the dataset again or restore "
                        "the file",
                        path, shard->sha256, found);
    return LKS_OK;
}

static lks_status verify_shard(verification *v, const char *path, const lks_manifest_shard *shard,
                               const lks_shard_header *header)
{
    if (header->status != LKS_OK)
        LKS_TRY(sort_out(v, LKS_FAIL(header->status, "%s", header->message)));
    if (!lks_files_exists(path))
        return LKS_OK;
    LKS_TRY(sort_out(v, check_sha256(path, shard)));
    return header->status == LKS_OK ? verify_blocks(v, path, shard, header->offsets) : LKS_OK;
}

/* Shard i is named for its index. */
static bool is_named(const lks_manifest *manifest, const char *name)
{
    unsigned long long index = strtoull(name + strlen("shard-"), NULL, 10);
    return index < manifest->shard_count && strcmp(manifest->shards[index].file, name) == 0;
}

static bool looks_like_shard(const char *name)
{
    size_t length = strlen(name);
    return length > 3 && strncmp(name, "shard-", 6) == 0 && strcmp(name + length - 3, ".h5") == 0;
}

static lks_status verify_names(verification *v)
{
    lks_file_list list;
    LKS_TRY(lks_files_list(v->manifest->directory, &list));
    lks_status status = LKS_OK;
    for (size_t i = 0; i < list.count && status == LKS_OK; ++i)
        if (looks_like_shard(list.names[i]) && !is_named(v->manifest, list.names[i]))
            status = sort_out(v, LKS_FAIL(LKS_ERR_CORRUPT,
                                          "%s/%s: the manifest does not name this shard: move it "
                                          "away",
                                          v->manifest->directory, list.names[i]));
    lks_file_list_release(&list);
    return status;
}

static lks_status verify_contents(verification *v)
{
    const lks_manifest *manifest = v->manifest;
    LKS_TRY(LKS_NEW_ARRAY(&v->block, manifest->block_bytes));
    LKS_TRY(sort_out(v, lks_manifest_check_digest(manifest)));
    LKS_TRY(lks_shards_examine(manifest, &v->headers));
    for (size_t i = 0; i < manifest->shard_count; ++i) {
        char *path = lks_files_join(manifest->directory, manifest->shards[i].file);
        if (path == NULL)
            return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory to verify it", manifest->path);
        lks_status status = verify_shard(v, path, &manifest->shards[i], &v->headers[i]);
        free(path);
        LKS_TRY(status);
    }
    return verify_names(v);
}

lks_status lks_dataset_verify(const char *directory,
                              void (*report)(void *user, const char *problem), void *user)
{
    verification v = {.report = report, .user = user};
    lks_manifest *manifest;
    lks_status status = lks_manifest_open(&manifest, directory);
    if (status != LKS_OK) {
        if (status == LKS_ERR_CORRUPT)
            note(&v);
        return status;
    }
    v.manifest = manifest;
    status = verify_contents(&v);
    if (status == LKS_OK && v.problems > 0)
        status = LKS_FAIL(LKS_ERR_CORRUPT,
                          "%s: %" PRIu64 " problem%s found: prepare the dataset again or restore "
                          "the files",
                          directory, v.problems, v.problems == 1 ? "" : "s");
    lks_shard_headers_free(v.headers, manifest->shard_count);
    lks_memory_free(v.block);
    lks_manifest_close(manifest);
    return status;
}
