#include "runtime/datasets/inputs.h"

#include "runtime/base/files.h"
#include "runtime/base/hash.h"
#include "runtime/base/memory.h"
#include "runtime/datasets/gather.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static lks_status inputs_add_file(lks_inputs *inputs, const char *path, const char *name,
                                  const struct stat *info)
{
    if (!S_ISREG(info->st_mode))
        return LKS_FAIL(LKS_ERR_USAGE, "%s: is neither a file nor a directory", path);
    if (info->st_size == 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: is empty", path);
    if (access(path, R_OK) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: cannot be read: %s", path, strerror(errno));
    LKS_TRY(LKS_GROW(&inputs->files, &inputs->capacity, inputs->count + 1));
    lks_input *file = &inputs->files[inputs->count];
    file->path = lks_arena_copy(inputs->arena, path);
    file->name = lks_arena_copy(inputs->arena, name);
    file->bytes = (uint64_t)info->st_size;
    if (!file->path || !file->name)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the list of inputs");
    inputs->count++;
    return LKS_OK;
}

static lks_status inputs_add_directory(lks_inputs *inputs, const char *directory,
                                       const char *prefix);

static lks_status inputs_add_entry(lks_inputs *inputs, const char *directory, const char *prefix,
                                   const char *entry)
{
    const char *path = lks_arena_format(inputs->arena, "%s/%s", directory, entry);
    const char *name = lks_arena_format(inputs->arena, "%s%s", prefix, entry);
    if (!path || !name)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the list of inputs");
    struct stat link, info;
    if (lstat(path, &link) != 0 || stat(path, &info) != 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: cannot be looked at: %s", path, strerror(errno));
    if (!S_ISDIR(info.st_mode))
        return inputs_add_file(inputs, path, name, &info);
    if (S_ISLNK(link.st_mode))
        return LKS_OK;
    const char *deeper = lks_arena_format(inputs->arena, "%s/", name);
    if (!deeper)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the list of inputs");
    return inputs_add_directory(inputs, path, deeper);
}

static lks_status inputs_add_directory(lks_inputs *inputs, const char *directory,
                                       const char *prefix)
{
    lks_file_list list = {0};
    LKS_TRY(lks_files_list(directory, &list));
    lks_status status = LKS_OK;
    for (size_t i = 0; i < list.count && status == LKS_OK; ++i) {
        if (list.names[i][0] != '.')
            status = inputs_add_entry(inputs, directory, prefix, list.names[i]);
    }
    lks_file_list_release(&list);
    return status;
}

static lks_status inputs_add(lks_inputs *inputs, const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        bool missing = errno == ENOENT || errno == ENOTDIR;
        return LKS_FAIL(missing ? LKS_ERR_USAGE : LKS_ERR_IO, "%s: cannot be opened: %s", path,
                        strerror(errno));
    }
    if (!S_ISDIR(info.st_mode)) {
        const char *slash = strrchr(path, '/');
        return inputs_add_file(inputs, path, slash ? slash + 1 : path, &info);
    }
    size_t before = inputs->count;
    LKS_TRY(inputs_add_directory(inputs, path, ""));
    if (inputs->count == before)
        return LKS_FAIL(LKS_ERR_USAGE, "%s: the directory holds no file", path);
    return LKS_OK;
}

lks_status lks_inputs_resolve(lks_inputs *inputs, const char *const *paths, int count)
{
    *inputs = (lks_inputs){0};
    if (count < 1)
        return LKS_FAIL(LKS_ERR_USAGE, "no input: name the files to prepare");
    LKS_TRY(lks_arena_create(&inputs->arena));
    for (int i = 0; i < count; ++i)
        LKS_TRY(inputs_add(inputs, paths[i]));
    return LKS_OK;
}

void lks_inputs_release(lks_inputs *inputs)
{
    lks_memory_free(inputs->files);
    lks_arena_destroy(inputs->arena);
    *inputs = (lks_inputs){0};
}

/* {"<index>": "<sha256>"} of the files that are this rank's to hash. */
static lks_status inputs_hash(const lks_inputs *inputs, const lks_parallel *parallel, json_t *out)
{
    for (size_t i = (size_t)parallel->rank; i < inputs->count; i += (size_t)parallel->size) {
        char hex[LKS_SHA256_HEX], key[24];
        LKS_TRY(lks_hash_sha256_file(inputs->files[i].path, hex));
        snprintf(key, sizeof key, "%zu", i);
        if (json_object_set_new(out, key, json_string(hex)) != 0)
            return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the hashes of the inputs");
    }
    return LKS_OK;
}

static json_t *inputs_list(const lks_inputs *inputs, const json_t *hashes)
{
    json_t *list = json_array();
    for (size_t i = 0; i < inputs->count; ++i) {
        char key[24];
        snprintf(key, sizeof key, "%zu", i);
        const json_t *by_rank = json_array_get(hashes, i % json_array_size(hashes));
        json_t *entry =
            json_pack("{s:s, s:I, s:O}", "name", inputs->files[i].name, "bytes",
                      (json_int_t)inputs->files[i].bytes, "sha256", json_object_get(by_rank, key));
        if (!entry || json_array_append_new(list, entry) != 0) {
            json_decref(list);
            return NULL;
        }
    }
    return list;
}

lks_status lks_inputs_describe(const lks_inputs *inputs, const lks_parallel *parallel, json_t **out)
{
    json_t *mine = json_object(), *hashes = NULL;
    lks_status status = inputs_hash(inputs, parallel, mine);
    status = lks_gather_json(parallel, status, mine, &hashes);
    json_decref(mine);
    LKS_TRY(status);
    *out = inputs_list(inputs, hashes);
    json_decref(hashes);
    if (!*out)
        status = LKS_FAIL(LKS_ERR_CORRUPT, "the name of an input is not UTF-8: rename it");
    return parallel->agree(parallel->user, status);
}
