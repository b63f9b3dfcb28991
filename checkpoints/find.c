#include "checkpoints/directory.h"
#include "checkpoints/opened.h"

#include "runtime/base/files.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* --- Where ---------------------------------------------------------------------- */

static bool has_steps(const char *directory)
{
    uint64_t *steps;
    size_t count;
    if (lks_directory_steps(directory, &steps, &count) != LKS_OK)
        return false;
    free(steps);
    return count > 0;
}

static bool is_named_checkpoints(const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        --length;
    static const char name[] = "checkpoints";
    size_t want = sizeof name - 1;
    return length >= want && strncmp(path + length - want, name, want) == 0 &&
           (length == want || path[length - want - 1] == '/');
}

lks_status lks_checkpoint_directory_of(const char *path, char **out)
{
    *out = NULL;
    if (!lks_files_exists(path))
        return LKS_OK;
    if (!lks_files_is_directory(path))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%s is not a directory; give a run directory or a checkpoint", path);
    char *below = lks_files_join(path, "checkpoints");
    if (below == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    if (lks_files_is_directory(below)) {
        *out = below;
        return LKS_OK;
    }
    free(below);
    if (!is_named_checkpoints(path) && !has_steps(path))
        return LKS_OK;
    *out = strdup(path);
    return *out != NULL ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
}

static lks_status step_path(const char *directory, uint64_t step, char **out)
{
    char name[LKS_STEP_NAME];
    *out = lks_files_join(directory, lks_step_name(name, step));
    return *out != NULL ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
}

/* --- Find ----------------------------------------------------------------------- */

typedef struct candidate {
    uint64_t step;
    double loss;  /* infinity where there is none */
    bool damaged; /* it was looked at and does not hold */
} candidate;

/* Best first: newest, or with `by_loss` lowest loss and of equals the newest. */
static int by_step(const void *a, const void *b)
{
    uint64_t x = ((const candidate *)a)->step, y = ((const candidate *)b)->step;
    return (x < y) - (x > y);
}

static int by_loss(const void *a, const void *b)
{
    double x = ((const candidate *)a)->loss, y = ((const candidate *)b)->loss;
    return x != y ? (x > y) - (x < y) : by_step(a, b);
}

static lks_status load_candidates(const char *directory, bool best, candidate **out, size_t *count)
{
    uint64_t *steps;
    LKS_TRY(lks_directory_steps(directory, &steps, count));
    lks_status status = LKS_NEW_ARRAY(out, *count);
    for (size_t i = 0; status == LKS_OK && i < *count; ++i) {
        (*out)[i] = (candidate){.step = steps[i], .loss = INFINITY};
        char *path = NULL, *manifest = NULL;
        status = best ? step_path(directory, steps[i], &path) : LKS_OK;
        if (path != NULL)
            manifest = lks_files_join(path, LKS_MANIFEST_NAME);
        double loss =
            manifest == NULL ? (double)NAN : lks_checkpoint_manifest_validation_loss(manifest);
        if (isfinite(loss))
            (*out)[i].loss = loss;
        free(manifest);
        free(path);
    }
    free(steps);
    if (status == LKS_OK)
        qsort(*out, *count, sizeof **out, best ? by_loss : by_step);
    return status;
}

/* *out stays NULL when the checkpoint does not hold. */
static lks_status try_one(lks_checkpoint **out, const char *directory, candidate *c,
                          lks_checkpoint_check check)
{
    char *path;
    lks_checkpoint_code code;
    LKS_TRY(step_path(directory, c->step, &path));
    lks_status status = lks_checkpoint_open_coded(out, path, check, &code);
    free(path);
    /* A newer one is whole, and going back behind it would lose steps: that is for a person to decide. */
    if (status == LKS_OK || status == LKS_ERR_INTERNAL || code == LKS_CHECKPOINT_NEWER_VERSION)
        return status;
    c->damaged = status == LKS_ERR_CORRUPT;
    lks_log_warn("passed over a checkpoint: %s", lks_status_message());
    return LKS_OK;
}

/* Only when another one holds: where none does, nothing is touched. */
static lks_status set_damaged_aside(const char *directory, const candidate *candidates,
                                    size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        char *path;
        if (!candidates[i].damaged)
            continue;
        LKS_TRY(step_path(directory, candidates[i].step, &path));
        lks_status status = lks_directory_set_aside(path);
        free(path);
        LKS_TRY(status);
    }
    return LKS_OK;
}

static lks_status find_in(lks_checkpoint **out, const char *directory, lks_checkpoint_check check,
                          bool set_aside, bool best)
{
    candidate *candidates = NULL;
    size_t count, tried = 0;
    lks_status status = load_candidates(directory, best, &candidates, &count);
    while (status == LKS_OK && *out == NULL && tried < count)
        status = try_one(out, directory, &candidates[tried++], check);
    if (status == LKS_OK && *out == NULL && count > 0)
        status = LKS_FAIL(LKS_ERR_CORRUPT,
                          "none of the %zu checkpoints in %s holds; to start again from nothing, "
                          "give another run directory",
                          count, directory);
    if (status == LKS_OK && set_aside)
        status = set_damaged_aside(directory, candidates, tried);
    lks_memory_free(candidates);
    if (status != LKS_OK) {
        lks_checkpoint_close(*out);
        *out = NULL;
    }
    return status;
}

lks_status lks_checkpoint_find(lks_checkpoint **out, const char *path, lks_checkpoint_check check,
                               bool set_aside, bool best)
{
    *out = NULL;
    if (lks_checkpoint_is_one(path))
        return lks_checkpoint_open(out, path, check);
    char *directory;
    LKS_TRY(lks_checkpoint_directory_of(path, &directory));
    if (directory == NULL)
        return LKS_OK;
    lks_status status = find_in(out, directory, check, set_aside, best);
    free(directory);
    return status;
}

/* --- List ----------------------------------------------------------------------- */

static uint64_t file_bytes(const char *directory, const char *name)
{
    struct stat about;
    char *path = lks_files_join(directory, name);
    bool there = path != NULL && stat(path, &about) == 0;
    free(path);
    return there ? (uint64_t)about.st_size : 0;
}

static lks_status fill_entry(lks_checkpoint_entry *entry, uint64_t step)
{
    lks_checkpoint *checkpoint;
    entry->step = step;
    entry->validation_loss = (double)NAN;
    entry->bytes =
        file_bytes(entry->path, LKS_STATE_NAME) + file_bytes(entry->path, LKS_MANIFEST_NAME);
    lks_status status = lks_checkpoint_open(&checkpoint, entry->path, LKS_CHECK_MANIFEST);
    entry->valid = status == LKS_OK;
    if (entry->valid) {
        entry->validation_loss = checkpoint->manifest.info.validation_loss;
        lks_checkpoint_close(checkpoint);
        return LKS_OK;
    }
    entry->problem = strdup(lks_status_message());
    return entry->problem != NULL ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a list");
}

static lks_status list_in(const char *directory, lks_checkpoint_entry **out, size_t *count)
{
    uint64_t *steps;
    size_t total;
    LKS_TRY(lks_directory_steps(directory, &steps, &total));
    lks_status status = LKS_NEW_ARRAY(out, total);
    for (size_t i = 0; status == LKS_OK && i < total; ++i) {
        *count = i + 1;
        status = step_path(directory, steps[i], &(*out)[i].path);
        if (status == LKS_OK)
            status = fill_entry(&(*out)[i], steps[i]);
    }
    free(steps);
    if (status != LKS_OK)
        lks_checkpoint_list_free(*out, *count);
    return status;
}

/* `path` itself, when it is a checkpoint. */
static lks_status list_single(const char *path, lks_checkpoint_entry **out, size_t *count)
{
    lks_checkpoint *checkpoint;
    uint64_t step = 0;
    lks_status status = lks_checkpoint_open(&checkpoint, path, LKS_CHECK_MANIFEST);
    if (status == LKS_ERR_USAGE)
        return LKS_OK;
    if (status == LKS_OK) {
        step = lks_checkpoint_step(checkpoint);
        lks_checkpoint_close(checkpoint);
    }
    LKS_TRY(LKS_NEW_ARRAY(out, 1));
    *count = 1;
    (*out)->path = strdup(path);
    status = (*out)->path != NULL ? fill_entry(*out, step)
                                  : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    if (status != LKS_OK)
        lks_checkpoint_list_free(*out, *count);
    return status;
}

lks_status lks_checkpoint_list(const char *path, lks_checkpoint_entry **out, size_t *count)
{
    char *directory;
    *out = NULL;
    *count = 0;
    LKS_TRY(lks_checkpoint_directory_of(path, &directory));
    if (directory == NULL)
        return list_single(path, out, count);
    lks_status status = list_in(directory, out, count);
    free(directory);
    return status;
}

void lks_checkpoint_list_free(lks_checkpoint_entry *entries, size_t count)
{
    for (size_t i = 0; i < count; ++i) {
        free(entries[i].path);
        free(entries[i].problem);
    }
    lks_memory_free(entries);
}
