#include "checkpoints/memory_file.h"

#include "runtime/base/hash.h"
#include "runtime/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(lks_memory_header) <= LKS_MEMORY_PAGE, "the header is one page");

static const char magic[8] = "LKSCOPY";

static void copy_text(char *out, size_t size, const char *text)
{
    snprintf(out, size, "%s", text);
}

static uint64_t hash_groups(const lks_state_array *arrays, int count)
{
    uint64_t hash = 0;
    for (int g = 0; g < count; ++g)
        hash = hash * 31 + lks_hash_xxh3(arrays[g].group, strlen(arrays[g].group)) +
               arrays[g].parameters_only;
    return hash;
}

void lks_memory_identity_init(lks_memory_identity *out, const lks_memory_spec *spec)
{
    *out = (lks_memory_identity){
        .layout = spec->layout, .arrays = spec->arrays, .group_count = spec->array_count};
    lks_memory_header *common = &out->common;
    memcpy(common->magic, magic, sizeof magic);
    common->version = LKS_MEMORY_VERSION;
    common->block_count = spec->layout->block_count;
    common->group_count = (uint32_t)spec->array_count;
    common->seed = spec->seed;
    common->run_hash = lks_hash_xxh3(spec->run_directory, strlen(spec->run_directory));
    common->groups_hash = hash_groups(spec->arrays, spec->array_count);
    copy_text(common->run_id, sizeof common->run_id, spec->run_id);
    copy_text(common->model_fingerprint, sizeof common->model_fingerprint, spec->model_fingerprint);
    copy_text(common->dataset_digest, sizeof common->dataset_digest, spec->dataset_digest);
    copy_text(common->arithmetic, sizeof common->arithmetic, spec->arithmetic);
}

lks_memory_shape lks_memory_shape_of(const lks_memory_identity *identity, uint32_t first_block,
                                     uint32_t end_block)
{
    lks_memory_shape shape = {.first_block = first_block, .end_block = end_block};
    size_t groups = (size_t)identity->group_count;
    if (first_block < end_block) {
        const lks_layout_block *blocks = identity->layout->blocks;
        shape.base = blocks[first_block].offset;
        shape.span = blocks[end_block - 1].offset + blocks[end_block - 1].elements - shape.base;
    }
    shape.data_at =
        lks_round_up(LKS_MEMORY_PAGE + groups * (end_block - first_block) * 8, LKS_MEMORY_PAGE);
    shape.bytes = shape.data_at + groups * shape.span * sizeof(float);
    return shape;
}

float *lks_memory_data(const lks_memory_shape *shape, void *map, int group)
{
    return (float *)((char *)map + shape->data_at) + (uint64_t)group * shape->span;
}

static const float *data_of(const lks_memory_shape *shape, const void *map, int group)
{
    return (const float *)((const char *)map + shape->data_at) + (uint64_t)group * shape->span;
}

static bool has_block(const lks_memory_identity *identity, int group, uint32_t block)
{
    const lks_layout *layout = identity->layout;
    return !identity->arrays[group].parameters_only ||
           layout->tensors[layout->blocks[block].tensor].role == LKS_ROLE_PARAMETER;
}

void lks_memory_fill(const lks_memory_identity *identity, const lks_memory_shape *shape, void *map,
                     const lks_state_array *arrays)
{
    for (int g = 0; g < identity->group_count; ++g) {
        float *data = lks_memory_data(shape, map, g);
        for (uint32_t b = shape->first_block; b < shape->end_block; ++b) {
            const lks_layout_block *block = &identity->layout->blocks[b];
            if (has_block(identity, g, b))
                memcpy(data + (block->offset - shape->base),
                       arrays[g].data + (block->offset - arrays[g].base_offset),
                       block->elements * sizeof(float));
        }
    }
}

static uint64_t hash_block(const lks_memory_identity *identity, const lks_memory_shape *shape,
                           const void *map, int group, uint32_t b)
{
    const lks_layout_block *block = &identity->layout->blocks[b];
    if (!has_block(identity, group, b))
        return 0;
    return lks_hash_xxh3(data_of(shape, map, group) + (block->offset - shape->base),
                         block->elements * sizeof(float));
}

static size_t table_bytes(const lks_memory_identity *identity, const lks_memory_shape *shape)
{
    return (size_t)identity->group_count * (shape->end_block - shape->first_block) * 8;
}

void lks_memory_seal(const lks_memory_identity *identity, const lks_memory_shape *shape, void *map,
                     const lks_memory_header *header)
{
    uint64_t *table = (uint64_t *)((char *)map + LKS_MEMORY_PAGE), *at = table;
    for (int g = 0; g < identity->group_count; ++g)
        for (uint32_t b = shape->first_block; b < shape->end_block; ++b)
            *at++ = hash_block(identity, shape, map, g, b);
    lks_memory_header sealed = *header;
    sealed.first_block = shape->first_block;
    sealed.end_block = shape->end_block;
    sealed.file_bytes = shape->bytes;
    sealed.table_hash = lks_hash_xxh3(table, table_bytes(identity, shape));
    sealed.header_hash = lks_hash_xxh3(&sealed, offsetof(lks_memory_header, header_hash));
    memcpy(map, &sealed, sizeof sealed);
}

/* --- Checking --------------------------------------------------------------------- */

static lks_status check_sealed(const lks_memory_header *h, size_t bytes, const char *path)
{
    if (bytes < LKS_MEMORY_PAGE || memcmp(h->magic, magic, sizeof magic) != 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: torn: it has no header", path);
    if (h->version != LKS_MEMORY_VERSION)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: version %u, want %d", path, h->version,
                        LKS_MEMORY_VERSION);
    if (h->header_hash != lks_hash_xxh3(h, offsetof(lks_memory_header, header_hash)))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its header's hash does not hold", path);
    if (h->file_bytes != bytes)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: it has %zu bytes, want %llu", path, bytes,
                        (unsigned long long)h->file_bytes);
    return LKS_OK;
}

static lks_status check_common(const lks_memory_header *h, const lks_memory_header *want,
                               const char *path)
{
    const char *what = NULL;
    if (strcmp(h->run_id, want->run_id) != 0 || h->run_hash != want->run_hash)
        what = "run";
    else if (strcmp(h->model_fingerprint, want->model_fingerprint) != 0 ||
             h->block_count != want->block_count)
        what = "model";
    else if (h->group_count != want->group_count || h->groups_hash != want->groups_hash)
        what = "optimizer";
    else if (strcmp(h->dataset_digest, want->dataset_digest) != 0)
        what = "dataset";
    else if (h->seed != want->seed)
        what = "seed";
    if (what != NULL)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: it belongs to another %s", path, what);
    return LKS_OK;
}

lks_status lks_memory_check_header(const lks_memory_identity *identity, const void *map,
                                   size_t bytes, const char *path)
{
    const lks_memory_header *h = map;
    LKS_TRY(check_sealed(h, bytes, path));
    LKS_TRY(check_common(h, &identity->common, path));
    if (h->first_block > h->end_block || h->end_block > h->block_count || h->rank >= h->world_size)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: blocks %u to %u of %u, rank %u of %u", path,
                        h->first_block, h->end_block, h->block_count, h->rank, h->world_size);
    lks_memory_shape shape = lks_memory_shape_of(identity, h->first_block, h->end_block);
    if (shape.bytes != bytes)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: it has %zu bytes, its blocks need %zu", path, bytes,
                        shape.bytes);
    if (h->table_hash !=
        lks_hash_xxh3((const char *)map + LKS_MEMORY_PAGE, table_bytes(identity, &shape)))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: the hash of its block hashes does not hold", path);
    return LKS_OK;
}

lks_status lks_memory_check_data(const lks_memory_identity *identity, const void *map,
                                 const char *path)
{
    const lks_memory_header *h = map;
    const uint64_t *want = (const uint64_t *)((const char *)map + LKS_MEMORY_PAGE);
    lks_memory_shape shape = lks_memory_shape_of(identity, h->first_block, h->end_block);
    for (int g = 0; g < identity->group_count; ++g) {
        for (uint32_t b = shape.first_block; b < shape.end_block; ++b, ++want) {
            uint64_t found = hash_block(identity, &shape, map, g, b);
            uint32_t tensor = identity->layout->blocks[b].tensor;
            if (found != *want)
                return LKS_FAIL(LKS_ERR_CORRUPT,
                                "%s: block %u of %s/%s: expected %016llx, found %016llx", path,
                                b - identity->layout->tensors[tensor].first_block,
                                identity->arrays[g].group, identity->layout->tensors[tensor].name,
                                (unsigned long long)*want, (unsigned long long)found);
        }
    }
    return LKS_OK;
}

/* --- Mapping ---------------------------------------------------------------------- */

lks_status lks_memory_map_file(const char *path, void **map, size_t *bytes)
{
    struct stat about;
    *map = NULL;
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (file < 0 || fstat(file, &about) != 0) {
        int error = errno;
        if (file >= 0)
            close(file);
        return LKS_FAIL(LKS_ERR_IO, "%s: cannot open: %s", path, strerror(error));
    }
    *bytes = (size_t)about.st_size;
    if (about.st_uid != geteuid()) {
        close(file);
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: it belongs to another user", path);
    }
    void *memory =
        *bytes < LKS_MEMORY_PAGE ? NULL : mmap(NULL, *bytes, PROT_READ, MAP_SHARED, file, 0);
    int error = errno;
    close(file);
    if (memory == NULL)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: torn: it has %zu bytes", path, *bytes);
    if (memory == MAP_FAILED)
        return LKS_FAIL(LKS_ERR_IO, "%s: cannot map: %s", path, strerror(error));
    *map = memory;
    return LKS_OK;
}

void lks_memory_unmap_file(void *map, size_t bytes)
{
    if (map != NULL)
        munmap(map, bytes);
}
