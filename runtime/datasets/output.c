#include "runtime/datasets/output.h"

#include "runtime/base/files.h"
#include "runtime/base/log.h"
#include "runtime/datasets/gather.h"
#include "runtime/datasets/manifest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PARTIAL_TRIES = 1000 };

/* A directory with a manifest and shards and nothing else; or an empty one. */
static bool holds_dataset(const char *path, const lks_file_list *list)
{
    bool manifest = list->count == 0;
    for (size_t i = 0; i < list->count; ++i) {
        const char *name = list->names[i];
        size_t length = strlen(name);
        bool shard =
            strncmp(name, "shard-", 6) == 0 && length > 9 && strcmp(name + length - 3, ".h5") == 0;
        if (strcmp(name, LKS_MANIFEST_FILE) == 0)
            manifest = true;
        else if (!shard)
            return false;
    }
    return manifest && lks_files_is_directory(path);
}

static bool is_dataset(const char *path)
{
    lks_file_list list = {0};
    if (!lks_files_is_directory(path) || lks_files_list(path, &list) != LKS_OK)
        return false;
    bool is = holds_dataset(path, &list);
    lks_file_list_release(&list);
    return is;
}

static bool is_split_pair(const char *path)
{
    lks_file_list list = {0};
    if (!lks_files_is_directory(path) || lks_files_list(path, &list) != LKS_OK)
        return false;
    bool is = list.count == 2 && strcmp(list.names[0], "train") == 0 &&
              strcmp(list.names[1], "validation") == 0;
    lks_file_list_release(&list);
    char *train = lks_files_join(path, "train"), *validation = lks_files_join(path, "validation");
    is = is && train && validation && is_dataset(train) && is_dataset(validation);
    free(train);
    free(validation);
    return is;
}

static lks_status output_check_path(const char *path, bool force)
{
    struct stat info;
    if (lstat(path, &info) != 0)
        return LKS_OK;
    if (!force)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%s: exists already: give another --output, or --force to replace it",
                        path);
    if (!is_dataset(path) && !is_split_pair(path))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%s: holds something other than a dataset, so --force does not replace "
                        "it: give another --output",
                        path);
    return LKS_OK;
}

/* "a/b" of "a/b/c"; NULL when there is none, or no memory. */
static char *parent_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        return NULL;
    return strndup(path, (size_t)(slash - path));
}

/* The topmost directory above `path` that is missing. */
static char *topmost_missing(const char *path)
{
    char *missing = NULL, *parent = parent_of(path);
    while (parent && !lks_files_exists(parent)) {
        free(missing);
        missing = parent;
        parent = parent_of(missing);
    }
    free(parent);
    return missing;
}

static lks_status output_make(lks_output *output)
{
    output->parent = topmost_missing(output->path);
    char *parent = parent_of(output->path);
    lks_status status = parent ? lks_files_make_directories(parent) : LKS_OK;
    free(parent);
    for (int n = 0; status == LKS_OK && n < PARTIAL_TRIES; ++n) {
        char suffix[16] = "";
        if (n > 0)
            snprintf(suffix, sizeof suffix, "-%d", n);
        char *partial;
        if (asprintf(&partial, "%s.partial-%ld%s", output->path, (long)getpid(), suffix) < 0)
            return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
        if (mkdir(partial, 0777) == 0) {
            output->partial = partial;
            return LKS_OK;
        }
        if (errno != EEXIST || n + 1 == PARTIAL_TRIES)
            status = LKS_FAIL(LKS_ERR_IO, "%s: cannot be made: %s", output->path, strerror(errno));
        free(partial);
    }
    return status;
}

static char *without_slashes(const char *path)
{
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/')
        --length;
    return strndup(path, length);
}

static lks_status output_begin_root(lks_output *output)
{
    if (!output->path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    if (output->path[0] == '\0')
        return LKS_FAIL(LKS_ERR_USAGE, "no --output: name the directory to make");
    LKS_TRY(output_check_path(output->path, output->force));
    return output_make(output);
}

lks_status lks_output_begin(lks_output *output, const char *path, bool force,
                            const lks_parallel *parallel)
{
    *output = (lks_output){
        .path = without_slashes(path), .force = force, .root = lks_gather_is_mine(parallel, 0)};
    lks_status status = output->root ? output_begin_root(output) : LKS_OK;
    void *name;
    size_t bytes, mine = output->partial ? strlen(output->partial) + 1 : 0;
    status = lks_gather_bytes(parallel, status, output->partial, mine, &name, &bytes);
    if (status != LKS_OK) {
        lks_output_discard(output);
        return status;
    }
    free(output->partial);
    output->partial = name;
    return LKS_OK;
}

/* Moves what is in the way aside, so that a failure can put it back. */
static lks_status output_replace(lks_output *output)
{
    char *aside;
    if (asprintf(&aside, "%s.replaced", output->partial) < 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    lks_status status = LKS_OK;
    if (rename(output->path, aside) != 0) {
        status = LKS_FAIL(LKS_ERR_IO, "%s: cannot be renamed: %s", output->path, strerror(errno));
    } else if (rename(output->partial, output->path) != 0) {
        status = LKS_FAIL(LKS_ERR_IO, "%s: cannot be renamed to %s: %s", output->partial,
                          output->path, strerror(errno));
        if (rename(aside, output->path) != 0)
            lks_log_warn("the dataset that was at %s is now at %s", output->path, aside);
    } else if (lks_files_remove_tree(aside) != LKS_OK) {
        lks_log_warn("%s: the replaced dataset could not be removed", aside);
    }
    free(aside);
    return status;
}

static lks_status output_place(lks_output *output)
{
    if (output->force && lks_files_exists(output->path))
        return output_replace(output);
    if (rename(output->partial, output->path) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: cannot be renamed to %s: %s", output->partial,
                        output->path, strerror(errno));
    return LKS_OK;
}

lks_status lks_output_commit(lks_output *output)
{
    LKS_TRY(lks_files_sync_directory(output->partial));
    LKS_TRY(output_place(output));
    free(output->partial);
    output->partial = NULL;
    char *parent = parent_of(output->path);
    const char *above = output->path[0] == '/' ? "/" : ".";
    lks_status status = lks_files_sync_directory(parent ? parent : above);
    free(parent);
    return status;
}

void lks_output_discard(lks_output *output)
{
    if (!output->root)
        return;
    char *message = strdup(lks_status_message());
    if (output->partial && lks_files_remove_tree(output->partial) != LKS_OK)
        lks_log_warn("%s: could not be removed", output->partial);
    char *made = output->parent ? parent_of(output->path) : NULL;
    while (made && strlen(made) >= strlen(output->parent) && rmdir(made) == 0) {
        char *above = parent_of(made);
        free(made);
        made = above;
    }
    free(made);
    if (message)
        lks_status_set_message(message);
    free(message);
}

void lks_output_release(lks_output *output)
{
    free(output->path);
    free(output->partial);
    free(output->parent);
    *output = (lks_output){0};
}
