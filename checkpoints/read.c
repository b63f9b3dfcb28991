#include "checkpoints/opened.h"

#include "checkpoints/state_file.h"
#include "runtime/base/files.h"
#include "runtime/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BAD(code, value, ...) (*(code) = (value), LKS_FAIL(LKS_ERR_CORRUPT, __VA_ARGS__))

/* --- Opening -------------------------------------------------------------------- */

static lks_status read_manifest(lks_checkpoint *c, lks_checkpoint_code *code)
{
    char *path = lks_files_join(c->path, LKS_MANIFEST_NAME);
    if (path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    lks_status status;
    if (lks_files_exists(path))
        status = lks_checkpoint_manifest_read(&c->manifest, path, code);
    else
        status = BAD(code, LKS_CHECKPOINT_NO_MANIFEST,
                     "%s has no %s: its save was never finished; use another checkpoint", c->path,
                     LKS_MANIFEST_NAME);
    free(path);
    return status;
}

static lks_status open_state(lks_checkpoint *c, uint64_t *bytes, lks_checkpoint_code *code)
{
    struct stat about;
    c->file = open(c->state_path, O_RDONLY | O_CLOEXEC);
    if (c->file >= 0 && fstat(c->file, &about) == 0 && S_ISREG(about.st_mode)) {
        *bytes = (uint64_t)about.st_size;
        return LKS_OK;
    }
    int error = c->file < 0 ? errno : EINVAL;
    *code = LKS_CHECKPOINT_UNREADABLE;
    return LKS_FAIL(error == ENOENT ? LKS_ERR_CORRUPT : LKS_ERR_IO, "cannot open %s: %s",
                    c->state_path, strerror(error));
}

static bool starts_with_zeros(int file)
{
    char start[8]; /* HDF5's signature is eight bytes */
    static const char zeros[sizeof start];
    return pread(file, start, sizeof start, 0) == (ssize_t)sizeof start &&
           memcmp(start, zeros, sizeof start) == 0;
}

/* The file is not the one that was written: finds out how it differs. It fails in any case. */
static lks_status diagnose(lks_checkpoint *c, uint64_t bytes, lks_checkpoint_code *code)
{
    const lks_state_map *map = &c->manifest.map;
    lks_status status = lks_state_file_inspect_apart(c->state_path, &c->manifest.info, map, code);
    if (status != LKS_OK && *code != LKS_CHECKPOINT_UNREADABLE)
        return status;
    if (bytes != map->file_bytes)
        return BAD(code,
                   bytes < map->file_bytes ? LKS_CHECKPOINT_TRUNCATED
                                           : LKS_CHECKPOINT_MANIFEST_MISMATCH,
                   "%s has %llu bytes, the manifest says %llu: it was %s; use another checkpoint",
                   c->state_path, (unsigned long long)bytes, (unsigned long long)map->file_bytes,
                   bytes < map->file_bytes ? "cut short" : "changed after it was saved");
    if (starts_with_zeros(c->file))
        return BAD(code, LKS_CHECKPOINT_ZERO_FILLED,
                   "%s begins with zeros where HDF5's header should be; use another checkpoint",
                   c->state_path);
    return BAD(code, LKS_CHECKPOINT_BIT_FLIP,
               "%s: the bytes between the tensors are not those that were written (expected "
               "SHA-256 %s); use another checkpoint",
               c->state_path, map->metadata);
}

static lks_status check_state(lks_checkpoint *c, lks_checkpoint_code *code)
{
    const lks_state_map *map = &c->manifest.map;
    char metadata[LKS_SHA256_HEX];
    uint64_t bytes = 0;
    LKS_TRY(open_state(c, &bytes, code));
    if (bytes != map->file_bytes)
        return diagnose(c, bytes, code);
    *code = LKS_CHECKPOINT_MANIFEST_MISMATCH;
    LKS_TRY(lks_state_map_hash_metadata(map, c->file, c->state_path, metadata));
    if (strcmp(metadata, map->metadata) != 0)
        return diagnose(c, bytes, code);
    return lks_state_file_inspect(c->state_path, &c->manifest.info, map, code);
}

static lks_status visit_nothing(lks_checkpoint *checkpoint, int group, uint32_t block, void *user)
{
    (void)checkpoint, (void)group, (void)block, (void)user;
    return LKS_OK;
}

static lks_status open_whole(lks_checkpoint *c, const char *path, lks_checkpoint_check check,
                             lks_checkpoint_code *code)
{
    c->path = strdup(path);
    c->state_path = lks_files_join(path, LKS_STATE_NAME);
    if (c->path == NULL || c->state_path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    LKS_TRY(LKS_NEW_ARRAY(&c->block, LKS_BLOCK_ELEMENTS));
    LKS_TRY(read_manifest(c, code));
    LKS_TRY(check_state(c, code));
    if (check == LKS_CHECK_ALL)
        LKS_TRY(lks_checkpoint_each_block(c, code, visit_nothing, NULL));
    *code = LKS_CHECKPOINT_OK;
    return LKS_OK;
}

bool lks_checkpoint_is_one(const char *path)
{
    const char *slash = strrchr(path, '/');
    const char *name = slash == NULL ? path : slash + 1;
    char *manifest = lks_files_join(path, LKS_MANIFEST_NAME);
    char *state = lks_files_join(path, LKS_STATE_NAME);
    bool is = lks_files_is_directory(path) &&
              (strncmp(name, "step-", 5) == 0 || (manifest != NULL && lks_files_exists(manifest)) ||
               (state != NULL && lks_files_exists(state)));
    free(manifest);
    free(state);
    return is;
}

lks_status lks_checkpoint_open_coded(lks_checkpoint **out, const char *path,
                                     lks_checkpoint_check check, lks_checkpoint_code *code)
{
    *out = NULL;
    *code = LKS_CHECKPOINT_UNREADABLE;
    if (!lks_checkpoint_is_one(path))
        return LKS_FAIL(LKS_ERR_USAGE, "%s is not a checkpoint; give a directory with %s and %s",
                        path, LKS_MANIFEST_NAME, LKS_STATE_NAME);
    lks_checkpoint *c;
    LKS_TRY(LKS_NEW(&c));
    c->file = -1;
    lks_status status = open_whole(c, path, check, code);
    if (status == LKS_OK)
        *out = c;
    else
        lks_checkpoint_close(c);
    return status;
}

lks_status lks_checkpoint_open(lks_checkpoint **out, const char *path, lks_checkpoint_check check)
{
    lks_checkpoint_code code;
    return lks_checkpoint_open_coded(out, path, check, &code);
}

void lks_checkpoint_close(lks_checkpoint *checkpoint)
{
    if (checkpoint == NULL)
        return;
    if (checkpoint->file >= 0)
        close(checkpoint->file);
    lks_checkpoint_manifest_release(&checkpoint->manifest);
    lks_memory_free(checkpoint->block);
    free(checkpoint->state_path);
    free(checkpoint->path);
    lks_memory_free(checkpoint);
}

const char *lks_checkpoint_path(const lks_checkpoint *checkpoint)
{
    return checkpoint->path;
}

uint64_t lks_checkpoint_step(const lks_checkpoint *checkpoint)
{
    return checkpoint->manifest.info.step;
}

const json_t *lks_checkpoint_manifest(const lks_checkpoint *checkpoint)
{
    return checkpoint->manifest.json;
}

const lks_layout *lks_checkpoint_layout(const lks_checkpoint *checkpoint)
{
    return checkpoint->manifest.layout;
}

/* --- Blocks --------------------------------------------------------------------- */

static lks_status read_into(lks_checkpoint *c, int group, uint32_t block, float *data,
                            lks_checkpoint_code *code)
{
    bool zeros = false;
    lks_status status = lks_state_map_read_block(&c->manifest.map, group, block, c->file,
                                                 c->state_path, data, &zeros);
    if (status != LKS_OK)
        *code = status != LKS_ERR_CORRUPT ? LKS_CHECKPOINT_UNREADABLE
                : zeros                   ? LKS_CHECKPOINT_ZERO_FILLED
                                          : LKS_CHECKPOINT_BIT_FLIP;
    return status;
}

lks_status lks_checkpoint_read_block(lks_checkpoint *checkpoint, int group, uint32_t block,
                                     lks_checkpoint_code *code)
{
    return read_into(checkpoint, group, block, checkpoint->block, code);
}

lks_status lks_checkpoint_each_block(lks_checkpoint *checkpoint, lks_checkpoint_code *code,
                                     lks_status (*visit)(lks_checkpoint *checkpoint, int group,
                                                         uint32_t block, void *user),
                                     void *user)
{
    const lks_state_map *map = &checkpoint->manifest.map;
    for (int g = 0; g < map->group_count; ++g) {
        for (uint32_t b = 0; b < map->layout->block_count; ++b) {
            if (!lks_state_map_has(map, g, map->layout->blocks[b].tensor))
                continue;
            LKS_TRY(lks_checkpoint_read_block(checkpoint, g, b, code));
            LKS_TRY(visit(checkpoint, g, b, user));
        }
    }
    return LKS_OK;
}

/* --- Into a rank's slice ----------------------------------------------------------- */

/* The first difference of two layouts whose fingerprints differ. */
static lks_status refuse_layout(const lks_checkpoint *c, const lks_layout *wanted)
{
    const lks_layout *have = c->manifest.layout;
    char a[128], b[128];
    for (uint32_t t = 0; t < have->tensor_count && t < wanted->tensor_count; ++t) {
        const lks_layout_tensor *x = &have->tensors[t], *y = &wanted->tensors[t];
        if (strcmp(x->name, y->name) != 0 || !lks_shape_equal(&x->shape, &y->shape) ||
            x->role != y->role)
            return LKS_FAIL(
                LKS_ERR_USAGE,
                "%s is of another model: tensor %u is %s %s there and %s %s here; use the "
                "model that it was made with",
                c->path, t, x->name, lks_shape_text(&x->shape, a, sizeof a), y->name,
                lks_shape_text(&y->shape, b, sizeof b));
    }
    return LKS_FAIL(
        LKS_ERR_USAGE,
        "%s is of another model: %u tensors there and %u here; use the model that it was "
        "made with",
        c->path, have->tensor_count, wanted->tensor_count);
}

lks_status lks_checkpoint_check_layout(const lks_checkpoint *checkpoint, const lks_layout *wanted)
{
    char have[LKS_SHA256_HEX], want[LKS_SHA256_HEX];
    LKS_TRY(lks_layout_fingerprint(checkpoint->manifest.layout, have));
    LKS_TRY(lks_layout_fingerprint(wanted, want));
    return strcmp(have, want) == 0 ? LKS_OK : refuse_layout(checkpoint, wanted);
}

lks_status lks_checkpoint_read(lks_checkpoint *checkpoint, const lks_layout *layout,
                               const lks_state_array *array, uint32_t first_block,
                               uint32_t end_block)
{
    lks_checkpoint_code code;
    const lks_state_map *map = &checkpoint->manifest.map;
    LKS_TRY(lks_checkpoint_check_layout(checkpoint, layout));
    int group = lks_state_map_find(map, array->group);
    if (group < 0)
        return LKS_FAIL(
            LKS_ERR_USAGE,
            "%s holds no %s: it was made with another optimizer; use the one it was made "
            "with",
            checkpoint->path, array->group);
    for (uint32_t b = first_block; b < end_block; ++b) {
        const lks_layout_block *block = &map->layout->blocks[b];
        if (lks_state_map_has(map, group, block->tensor))
            LKS_TRY(read_into(checkpoint, group, b,
                              array->data + (block->offset - array->base_offset), &code));
    }
    return LKS_OK;
}
