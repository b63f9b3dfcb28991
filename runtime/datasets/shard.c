#include "runtime/datasets/shard.h"

#include "runtime/base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "shards are little-endian and read as they lie"
#endif

enum { LEAST_OPEN_FILES = 8 };

typedef struct shard {
    const lks_manifest_shard *manifest;
    char *path;
    uint64_t offsets[LKS_MANIFEST_COLUMNS];
    _Atomic uint64_t *verified[LKS_MANIFEST_COLUMNS]; /* a bit per block */
    int file;                                         /* -1: not open now */
    int readers;                                      /* that hold `file` */
    dev_t device;
    ino_t inode; /* of the file that was examined */
} shard;

/* A big dataset has more shards than a process may hold files: only some are open at a time. */
struct lks_shards {
    const lks_manifest *manifest;
    shard *items;         /* [manifest->shard_count] */
    pthread_mutex_t lock; /* of file, readers and what follows */
    size_t open_count, open_limit;
    size_t hand; /* where the search for an idle file goes on */
};

lks_status lks_shards_scratch_allocate(const lks_shards *shards, lks_shard_scratch *scratch)
{
    if (scratch->block != NULL)
        return LKS_OK;
    return LKS_NEW_ARRAY(&scratch->block, shards->manifest->block_bytes);
}

void lks_shard_scratch_release(lks_shard_scratch *scratch)
{
    lks_memory_free(scratch->block);
    scratch->block = NULL;
}

static size_t open_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur / 4 < LEAST_OPEN_FILES)
        return LEAST_OPEN_FILES;
    return limit.rlim_cur / 4;
}

static lks_status shard_init(shard *item, const lks_manifest *manifest, size_t index,
                             const lks_shard_header *header)
{
    if (header->status != LKS_OK)
        return LKS_FAIL(header->status, "%s", header->message);
    memcpy(item->offsets, header->offsets, sizeof item->offsets);
    item->manifest = &manifest->shards[index];
    item->path = lks_files_join(manifest->directory, item->manifest->file);
    if (item->path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory to open it", manifest->path);
    for (int i = 0; i < item->manifest->column_count; ++i) {
        size_t words = (item->manifest->columns[i].block_count + 63) / 64;
        LKS_TRY(LKS_NEW_ARRAY(&item->verified[i], words));
    }
    struct stat info;
    if (stat(item->path, &info) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: cannot stat: %s", item->path, strerror(errno));
    item->device = info.st_dev;
    item->inode = info.st_ino;
    return LKS_OK;
}

lks_status lks_shards_open(lks_shards **out, const lks_manifest *manifest)
{
    lks_shards *shards;
    LKS_TRY(LKS_NEW(&shards));
    shards->manifest = manifest;
    shards->open_limit = open_file_limit();
    pthread_mutex_init(&shards->lock, NULL);
    lks_shard_header *headers = NULL;
    lks_status status = LKS_NEW_ARRAY(&shards->items, manifest->shard_count);
    for (size_t i = 0; status == LKS_OK && i < manifest->shard_count; ++i)
        shards->items[i].file = -1;
    if (status == LKS_OK)
        status = lks_shards_examine(manifest, &headers);
    for (size_t i = 0; status == LKS_OK && i < manifest->shard_count; ++i)
        status = shard_init(&shards->items[i], manifest, i, &headers[i]);
    lks_shard_headers_free(headers, manifest->shard_count);
    if (status != LKS_OK) {
        lks_shards_close(shards);
        return status;
    }
    *out = shards;
    return LKS_OK;
}

void lks_shards_close(lks_shards *shards)
{
    if (shards == NULL)
        return;
    for (size_t i = 0; shards->items != NULL && i < shards->manifest->shard_count; ++i) {
        shard *item = &shards->items[i];
        if (item->file >= 0)
            close(item->file);
        free(item->path);
        for (int column = 0; column < LKS_MANIFEST_COLUMNS; ++column)
            lks_memory_free(item->verified[column]);
    }
    pthread_mutex_destroy(&shards->lock);
    lks_memory_free(shards->items);
    lks_memory_free(shards);
}

static lks_status shard_open_file(shard *item)
{
    struct stat info;
    int file = open(item->path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &info) != 0) {
        int error = errno;
        if (file >= 0)
            close(file);
        return LKS_FAIL(LKS_ERR_IO, "%s: cannot open: %s", item->path, strerror(error));
    }
    if (info.st_dev != item->device || info.st_ino != item->inode ||
        (uint64_t)info.st_size != item->manifest->bytes) {
        close(file);
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: was replaced or changed while in use: restore the file", item->path);
    }
    item->file = file;
    return LKS_OK;
}

/* Closes one file that nobody reads; all being read, one more is opened beyond the limit. */
static void close_an_idle_file(lks_shards *shards)
{
    size_t count = shards->manifest->shard_count;
    for (size_t tried = 0; tried < count; ++tried) {
        shard *item = &shards->items[shards->hand];
        shards->hand = (shards->hand + 1) % count;
        if (item->file >= 0 && item->readers == 0) {
            close(item->file);
            item->file = -1;
            --shards->open_count;
            return;
        }
    }
}

static lks_status shard_acquire(lks_shards *shards, shard *item)
{
    lks_status status = LKS_OK;
    pthread_mutex_lock(&shards->lock);
    if (item->file < 0) {
        if (shards->open_count >= shards->open_limit)
            close_an_idle_file(shards);
        status = shard_open_file(item);
        shards->open_count += status == LKS_OK;
    }
    item->readers += status == LKS_OK;
    pthread_mutex_unlock(&shards->lock);
    return status;
}

static void shard_release(lks_shards *shards, shard *item)
{
    pthread_mutex_lock(&shards->lock);
    --item->readers;
    pthread_mutex_unlock(&shards->lock);
}

lks_status lks_shard_check_block(int file, const char *path, const lks_column *column,
                                 uint64_t offset, uint64_t block, void *out)
{
    size_t bytes = lks_column_block_size(column, block);
    LKS_TRY(lks_files_pread(file, path, out, bytes, offset + block * column->block_bytes));
    uint64_t found = lks_hash_xxh3(out, bytes);
    if (found != column->hashes[block])
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: dataset %s, block %" PRIu64 ": expected xxh3 %016" PRIx64
                        ", found %016" PRIx64 ": prepare the dataset again or restore the file",
                        path, column->name, block, column->hashes[block], found);
    return LKS_OK;
}

/* Bytes [start, start + bytes) of one block. */
static lks_status read_from_block(lks_shards *shards, shard *item, int index, uint64_t block,
                                  size_t start, size_t bytes, void *out, lks_shard_scratch *scratch)
{
    const lks_column *column = &item->manifest->columns[index];
    _Atomic uint64_t *word = &item->verified[index][block / 64];
    uint64_t bit = (uint64_t)1 << (block % 64);
    uint64_t offset = item->offsets[index];
    if (atomic_load_explicit(word, memory_order_acquire) & bit)
        return lks_files_pread(item->file, item->path, out, bytes,
                               offset + block * column->block_bytes + start);
    LKS_TRY(lks_shards_scratch_allocate(shards, scratch));
    LKS_TRY(lks_shard_check_block(item->file, item->path, column, offset, block, scratch->block));
    memcpy(out, scratch->block + start, bytes);
    atomic_fetch_or_explicit(word, bit, memory_order_release);
    return LKS_OK;
}

lks_status lks_shards_read(lks_shards *shards, size_t index, int column, uint64_t offset,
                           size_t bytes, void *out, lks_shard_scratch *scratch)
{
    shard *item = &shards->items[index];
    uint64_t block_bytes = item->manifest->columns[column].block_bytes;
    unsigned char *to = out;
    LKS_TRY(shard_acquire(shards, item));
    lks_status status = LKS_OK;
    while (bytes > 0 && status == LKS_OK) {
        size_t start = (size_t)(offset % block_bytes);
        size_t piece = (size_t)block_bytes - start;
        if (piece > bytes)
            piece = bytes;
        status =
            read_from_block(shards, item, column, offset / block_bytes, start, piece, to, scratch);
        to += piece;
        offset += piece;
        bytes -= piece;
    }
    shard_release(shards, item);
    return status;
}
