#include "checkpoints/state_map.h"

#include "runtime/base/files.h"
#include "runtime/base/memory.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
               "state files are little-endian and written from memory");

lks_status lks_state_map_init(lks_state_map *map, const lks_layout *layout, int group_count)
{
    *map = (lks_state_map){.layout = layout};
    LKS_TRY(LKS_NEW_ARRAY(&map->groups, (size_t)group_count));
    map->group_count = group_count;
    for (int g = 0; g < group_count; ++g) {
        LKS_TRY(LKS_NEW_ARRAY(&map->groups[g].offsets, layout->tensor_count));
        LKS_TRY(LKS_NEW_ARRAY(&map->groups[g].hashes, layout->block_count));
    }
    return LKS_OK;
}

void lks_state_map_release(lks_state_map *map)
{
    for (int g = 0; g < map->group_count; ++g) {
        free(map->groups[g].name);
        lks_memory_free(map->groups[g].offsets);
        lks_memory_free(map->groups[g].hashes);
    }
    lks_memory_free(map->groups);
    *map = (lks_state_map){0};
}

lks_status lks_state_map_name(lks_state_map *map, int group, const char *name, bool parameters_only)
{
    map->groups[group].parameters_only = parameters_only;
    map->groups[group].name = strdup(name);
    if (map->groups[group].name == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the name of a checkpoint's group");
    return LKS_OK;
}

lks_status lks_state_map_check_names(const lks_state_map *map)
{
    for (uint32_t t = 0; t < map->layout->tensor_count; ++t) {
        const char *name = map->layout->tensors[t].name;
        if (*name == '\0' || strchr(name, '/') != NULL || strcmp(name, ".") == 0)
            return LKS_FAIL(LKS_ERR_USAGE,
                            "tensor \"%s\" cannot be saved under that name; rename it: not empty, "
                            "not \".\" and without a slash",
                            name);
    }
    for (int g = 0; g < map->group_count; ++g) {
        const char *name = map->groups[g].name, *slash = strchr(name, '/');
        bool state = slash != NULL && strncmp(name, "optimizer/", 10) == 0 && slash[1] != '\0' &&
                     strchr(slash + 1, '/') == NULL;
        if (strcmp(name, "model") != 0 && !state)
            return LKS_FAIL(LKS_ERR_INTERNAL,
                            "a checkpoint's group is \"%s\", not model or optimizer/<state>", name);
    }
    return LKS_OK;
}

int lks_state_map_find(const lks_state_map *map, const char *group)
{
    for (int g = 0; g < map->group_count; ++g) {
        if (strcmp(map->groups[g].name, group) == 0)
            return g;
    }
    return -1;
}

bool lks_state_map_has(const lks_state_map *map, int group, uint32_t tensor)
{
    return !map->groups[group].parameters_only ||
           map->layout->tensors[tensor].role == LKS_ROLE_PARAMETER;
}

uint64_t lks_state_map_block_offset(const lks_state_map *map, int group, uint32_t block)
{
    const lks_layout_block *b = &map->layout->blocks[block];
    uint64_t within = b->offset - map->layout->tensors[b->tensor].offset;
    return map->groups[group].offsets[b->tensor] + within * sizeof(float);
}

lks_status lks_state_map_root(const lks_state_map *map, char hex[LKS_SHA256_HEX])
{
    lks_sha256 *hash;
    LKS_TRY(lks_sha256_create(&hash));
    for (int g = 0; g < map->group_count; ++g) {
        for (uint32_t b = 0; b < map->layout->block_count; ++b) {
            if (lks_state_map_has(map, g, map->layout->blocks[b].tensor))
                lks_sha256_update(hash, &map->groups[g].hashes[b], sizeof(uint64_t));
        }
    }
    lks_sha256_finish(hash, hex);
    return LKS_OK;
}

/* --- Metadata ------------------------------------------------------------------ */

typedef struct extent {
    uint64_t begin, end;
} extent;

/* What is done with the bytes between the tensors of `file`. */
typedef struct gap_visitor {
    lks_status (*visit)(const struct gap_visitor *visitor, const char *data, size_t bytes,
                        uint64_t offset);
    int file;
    lks_sha256 *hash;
    int to;
    const char *to_path;
} gap_visitor;

static lks_status visit_range(const gap_visitor *visitor, const char *path, uint64_t begin,
                              uint64_t end)
{
    char piece[16384];
    while (begin < end) {
        size_t bytes = end - begin < sizeof piece ? (size_t)(end - begin) : sizeof piece;
        LKS_TRY(lks_files_pread(visitor->file, path, piece, bytes, begin));
        LKS_TRY(visitor->visit(visitor, piece, bytes, begin));
        begin += bytes;
    }
    return LKS_OK;
}

static int extent_compare(const void *a, const void *b)
{
    uint64_t x = ((const extent *)a)->begin, y = ((const extent *)b)->begin;
    return (x > y) - (x < y);
}

/* The tensors' extents in the file, sorted; extents has room for all. */
static lks_status sorted_extents(const lks_state_map *map, const char *path, extent *extents,
                                 size_t *count)
{
    size_t n = 0;
    for (int g = 0; g < map->group_count; ++g) {
        for (uint32_t t = 0; t < map->layout->tensor_count; ++t) {
            if (!lks_state_map_has(map, g, t))
                continue;
            uint64_t begin = map->groups[g].offsets[t];
            uint64_t bytes = map->layout->tensors[t].elements * sizeof(float);
            if (begin > map->file_bytes || bytes > map->file_bytes - begin)
                return LKS_FAIL(LKS_ERR_CORRUPT, "%s: %s/%s is recorded to lie beyond its end",
                                path, map->groups[g].name, map->layout->tensors[t].name);
            extents[n++] = (extent){begin, begin + bytes};
        }
    }
    qsort(extents, n, sizeof *extents, extent_compare);
    for (size_t i = 1; i < n; ++i) {
        if (extents[i].begin < extents[i - 1].end)
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: two tensors are recorded at offset %llu", path,
                            (unsigned long long)extents[i].begin);
    }
    *count = n;
    return LKS_OK;
}

/* Calls `visit` with all bytes that are no tensor's, in order, a piece at a time. */
static lks_status each_gap(const lks_state_map *map, const char *path, const gap_visitor *visitor)
{
    extent *extents;
    size_t count = (size_t)map->group_count * map->layout->tensor_count;
    LKS_TRY(LKS_NEW_ARRAY(&extents, count + 1));
    lks_status status = sorted_extents(map, path, extents, &count);
    extents[count] = (extent){map->file_bytes, map->file_bytes};
    uint64_t at = 0;
    for (size_t i = 0; status == LKS_OK && i <= count; ++i) {
        status = visit_range(visitor, path, at, extents[i].begin);
        at = extents[i].end;
    }
    lks_memory_free(extents);
    return status;
}

static lks_status hash_piece(const gap_visitor *visitor, const char *data, size_t bytes,
                             uint64_t offset)
{
    (void)offset;
    lks_sha256_update(visitor->hash, data, bytes);
    return LKS_OK;
}

lks_status lks_state_map_hash_metadata(const lks_state_map *map, int file, const char *path,
                                       char hex[LKS_SHA256_HEX])
{
    gap_visitor visitor = {.visit = hash_piece, .file = file};
    LKS_TRY(lks_sha256_create(&visitor.hash));
    lks_status status = each_gap(map, path, &visitor);
    if (status == LKS_OK)
        lks_sha256_finish(visitor.hash, hex);
    else
        lks_sha256_destroy(visitor.hash);
    return status;
}

static lks_status copy_piece(const gap_visitor *visitor, const char *data, size_t bytes,
                             uint64_t offset)
{
    return lks_files_pwrite(visitor->to, visitor->to_path, data, bytes, offset);
}

lks_status lks_state_map_copy_metadata(const lks_state_map *map, int image, int file,
                                       const char *path)
{
    return each_gap(
        map, path, &(gap_visitor){.visit = copy_piece, .file = image, .to = file, .to_path = path});
}

/* --- Blocks -------------------------------------------------------------------- */

static bool is_hole(int file, uint64_t offset, uint64_t bytes)
{
    off_t hole = lseek(file, (off_t)offset, SEEK_HOLE);
    return hole >= 0 && (uint64_t)hole < offset + bytes;
}

static bool is_zero(const float *data, size_t count)
{
    const char *bytes = (const char *)data;
    for (size_t i = 0; i < count * sizeof(float); ++i) {
        if (bytes[i] != 0)
            return false;
    }
    return true;
}

lks_status lks_state_map_read_block(const lks_state_map *map, int group, uint32_t block, int file,
                                    const char *path, float *data, bool *zeros)
{
    const lks_layout_block *b = &map->layout->blocks[block];
    const lks_layout_tensor *tensor = &map->layout->tensors[b->tensor];
    uint64_t offset = lks_state_map_block_offset(map, group, block);
    size_t bytes = b->elements * sizeof(float);
    if (zeros != NULL)
        *zeros = false;
    LKS_TRY(lks_files_pread(file, path, data, bytes, offset));
    uint64_t found = lks_hash_xxh3(data, bytes), expected = map->groups[group].hashes[block];
    if (found == expected)
        return LKS_OK;
    bool zero = is_zero(data, b->elements) || is_hole(file, offset, bytes);
    if (zeros != NULL)
        *zeros = zero;
    return LKS_FAIL(LKS_ERR_CORRUPT,
                    "%s: %s/%s block %u of %u%s: expected hash %016llx, found %016llx; use another "
                    "checkpoint",
                    path, map->groups[group].name, tensor->name, block - tensor->first_block,
                    tensor->block_count, zero ? " is a hole or filled with zeros" : "",
                    (unsigned long long)expected, (unsigned long long)found);
}
