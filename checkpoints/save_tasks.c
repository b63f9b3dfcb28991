#include "checkpoints/directory.h"
#include "checkpoints/manifest.h"
#include "checkpoints/save.h"

#include "runtime/base/files.h"
#include "runtime/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

lks_status lks_save_warm(void *user)
{
    lks_checkpoints *c = user;
    for (int i = 0; i < c->stats.buffers; ++i) {
        if (c->snapshots[i].staging != NULL)
            memset(c->snapshots[i].staging, 0, c->span_bytes * (uint64_t)c->map.group_count);
    }
    return LKS_OK;
}

static lks_status open_state(const lks_checkpoints *c, int flags, char **path, int *file)
{
    *path = lks_files_join(c->partial_path, LKS_STATE_NAME);
    if (*path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    *file = open(*path, flags | O_CLOEXEC);
    if (*file >= 0)
        return LKS_OK;
    lks_status status = LKS_FAIL(LKS_ERR_IO, "cannot open %s: %s", *path, strerror(errno));
    free(*path);
    return status;
}

static lks_status write_block(lks_checkpoints *c, int group, uint32_t block, int file,
                              const char *path)
{
    const lks_layout_block *b = &c->layout->blocks[block];
    uint64_t within = b->offset - c->layout->blocks[c->first_block].offset;
    const char *data =
        lks_save_first(c)->staging + (uint64_t)group * c->span_bytes + within * sizeof(float);
    size_t bytes = b->elements * sizeof(float);
    size_t own = c->end_block - c->first_block;
    lks_save_own_report(c)->hashes[(size_t)group * own + block - c->first_block] =
        lks_hash_xxh3(data, bytes);
    return lks_files_pwrite(file, path, data, bytes,
                            lks_state_map_block_offset(&c->map, group, block));
}

static lks_status write_all(lks_checkpoints *c, int file, const char *path)
{
    if (c->root)
        LKS_TRY(lks_state_map_copy_metadata(&c->map, c->image, file, path));
    for (int g = 0; g < c->map.group_count; ++g) {
        for (uint32_t b = c->first_block; b < c->end_block; ++b) {
            if (lks_state_map_has(&c->map, g, c->layout->blocks[b].tensor))
                LKS_TRY(write_block(c, g, b, file, path));
        }
    }
    if (fsync(file) != 0)
        return LKS_FAIL(LKS_ERR_IO, "cannot fsync %s: %s", path, strerror(errno));
    return LKS_OK;
}

lks_status lks_save_write(void *user)
{
    lks_checkpoints *c = user;
    char *path;
    int file;
    LKS_TRY(open_state(c, O_WRONLY, &path, &file));
    lks_status status = write_all(c, file, path);
    if (close(file) != 0 && status == LKS_OK)
        status = LKS_FAIL(LKS_ERR_IO, "cannot close %s: %s", path, strerror(errno));
    free(path);
    return status;
}

/* --- Commit --------------------------------------------------------------------- */

/* What all ranks have written, as it is now in the file. */
static lks_status read_back(lks_checkpoints *c, int file, const char *path, float *block)
{
    char metadata[LKS_SHA256_HEX];
    LKS_TRY(lks_state_map_hash_metadata(&c->map, file, path, metadata));
    if (strcmp(metadata, c->map.metadata) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: what was written between the tensors is not what it holds",
                        path);
    for (int g = 0; g < c->map.group_count; ++g) {
        for (uint32_t b = 0; b < c->layout->block_count; ++b) {
            if (lks_state_map_has(&c->map, g, c->layout->blocks[b].tensor))
                LKS_TRY(lks_state_map_read_block(&c->map, g, b, file, path, block, NULL));
        }
    }
    return LKS_OK;
}

static lks_status check_written(lks_checkpoints *c)
{
    char *path;
    int file;
    float *block;
    LKS_TRY(LKS_NEW_ARRAY(&block, LKS_BLOCK_ELEMENTS));
    lks_status status;
    LKS_TRY_GOTO(status, open_state(c, O_RDONLY, &path, &file), free_block);
    status = read_back(c, file, path, block);
    close(file);
    free(path);
free_block:
    lks_memory_free(block);
    return status;
}

static lks_status write_manifest(lks_checkpoints *c)
{
    char *path = lks_files_join(c->partial_path, LKS_MANIFEST_NAME);
    if (path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    lks_status status = lks_checkpoint_manifest_write(c->manifest, &c->map, path);
    free(path);
    return status;
}

static lks_status write_latest(const lks_checkpoints *c)
{
    char line[LKS_STEP_NAME + 1], name[LKS_STEP_NAME];
    char *path = lks_files_join(c->directory, "LATEST");
    if (path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    int length = snprintf(line, sizeof line, "%s\n", lks_step_name(name, c->plan->step));
    lks_status status = lks_files_write_atomically(path, line, (size_t)length);
    free(path);
    return status;
}

static lks_status commit(lks_checkpoints *c)
{
    LKS_TRY(check_written(c));
    LKS_TRY(write_manifest(c));
    if (c->may_commit != NULL)
        LKS_TRY(c->may_commit(c->user));
    return lks_directory_commit(c->directory, c->partial, c->plan->step);
}

lks_status lks_save_commit(void *user)
{
    lks_checkpoints *c = user;
    lks_status status = commit(c);
    if (status != LKS_OK) {
        char message[LKS_WORKER_MESSAGE];
        snprintf(message, sizeof message, "%s", lks_status_message());
        lks_status discarded = lks_save_discard(c);
        (void)discarded; /* the first failure is the one to tell; open removes what is left */
        return LKS_FAIL(status, "%s", message);
    }
    lks_text_clear(&c->afterwards);
    if (write_latest(c) != LKS_OK)
        lks_text_append(&c->afterwards, "%s", lks_status_message());
    if (lks_directory_retain(c->directory, c->plan->step, c->keep, c->keep_best) != LKS_OK)
        lks_text_append(&c->afterwards, "%s%s", c->afterwards.length > 0 ? "; " : "",
                        lks_status_message());
    return LKS_OK;
}

lks_status lks_save_discard(void *user)
{
    lks_checkpoints *c = user;
    return lks_files_remove_tree(c->partial_path);
}
