#include "checkpoints/manifest.h"

#include "checkpoints/state_file.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MANIFEST_LIMIT = 1 << 28 };

#define BAD(code, value, ...) (*(code) = (value), LKS_FAIL(LKS_ERR_CORRUPT, __VA_ARGS__))

static lks_status check_format(const json_t *json, const char *path, lks_checkpoint_code *code)
{
    const char *format = json_string_value(json_object_get(json, "format"));
    if (format != NULL && strcmp(format, LKS_MANIFEST_FORMAT) != 0)
        return LKS_FAIL(LKS_ERR_USAGE, "%s is a manifest of \"%s\", not of a checkpoint", path,
                        format);
    int64_t version;
    LKS_TRY(lks_json_get_integer(json, path, "format_version", 1, INT64_MAX, &version));
    if (version > LKS_CHECKPOINT_FORMAT)
        return BAD(
            code, LKS_CHECKPOINT_NEWER_VERSION,
            "%s was made by a newer lockstep (format %lld, this one reads up to %d); use that "
            "version",
            path, (long long)version, LKS_CHECKPOINT_FORMAT);
    if (format == NULL)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: has no \"format\": \"%s\"", path,
                        LKS_MANIFEST_FORMAT);
    return LKS_OK;
}

static lks_status check_seal(const char *path, const char *text, size_t bytes)
{
    char seal[LKS_SHA256_HEX], expected[LKS_MANIFEST_SEAL_BYTES + 1];
    size_t covered = bytes < LKS_MANIFEST_SEAL_BYTES ? 0 : bytes - LKS_MANIFEST_SEAL_BYTES;
    LKS_TRY(lks_hash_sha256(text, covered, seal));
    snprintf(expected, sizeof expected, LKS_MANIFEST_SEAL, seal);
    if (bytes >= LKS_MANIFEST_SEAL_BYTES &&
        memcmp(text + covered, expected, LKS_MANIFEST_SEAL_BYTES) == 0)
        return LKS_OK;
    return LKS_FAIL(
        LKS_ERR_CORRUPT,
        "%s was changed after it was written, its seal does not hold; use another checkpoint",
        path);
}

/* What checkpoints of older versions lack. */
static lks_status read_later_info(lks_checkpoint_info *info, const json_t *json, const char *path)
{
    if (json_object_get(json, "ledger") != NULL) {
        LKS_TRY(lks_json_get_string(json, path, "ledger", &info->ledger));
        if (strlen(info->ledger) != 64 || strspn(info->ledger, "0123456789abcdef") != 64)
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: ledger is not 64 hex digits", path);
    }
    if (json_object_get(json, "epoch") != NULL) {
        int64_t epoch;
        LKS_TRY(lks_json_get_integer(json, path, "epoch", 1, INT64_MAX, &epoch));
        info->epoch = (uint64_t)epoch;
    }
    return LKS_OK;
}

static lks_status read_info(lks_checkpoint_info *info, const json_t *json, const char *path)
{
    int64_t step, position;
    LKS_TRY(lks_json_get_integer(json, path, "step", 0, INT64_MAX, &step));
    LKS_TRY(lks_json_get_integer(json, path, "position", 0, INT64_MAX, &position));
    LKS_TRY(lks_json_get_string(json, path, "run_id", &info->run_id));
    LKS_TRY(lks_json_get_string(json, path, "model_fingerprint", &info->model_fingerprint));
    LKS_TRY(lks_json_get_string(json, path, "dataset_digest", &info->dataset_digest));
    LKS_TRY(lks_json_get_string(json, path, "arithmetic", &info->arithmetic));
    LKS_TRY(lks_json_get_string(json, path, "config_yaml", &info->config_yaml));
    const json_t *seed = json_object_get(json, "seed");
    if (!json_is_integer(seed))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: seed is not an integer", path);
    const json_t *loss = json_object_get(json, "validation_loss");
    info->step = (uint64_t)step;
    info->position = (uint64_t)position;
    info->seed = (uint64_t)json_integer_value(seed);
    info->validation_loss = json_is_number(loss) ? json_number_value(loss) : (double)NAN;
    info->config_json = json_object_get(json, "config");
    return read_later_info(info, json, path);
}

/* A state file of `bytes` cannot hold a larger one. */
static lks_status read_shape(lks_shape *shape, int64_t bytes, const json_t *entry, const char *path)
{
    json_t *sizes;
    LKS_TRY(lks_json_get_array(entry, path, "shape", &sizes));
    *shape = LKS_SCALAR;
    if (json_array_size(sizes) > LKS_AXES_MAX)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: a shape has more than %d axes", path, LKS_AXES_MAX);
    shape->axes = (int)json_array_size(sizes);
    int64_t elements = 1;
    for (int i = 0; i < shape->axes; ++i) {
        shape->size[i] = json_integer_value(json_array_get(sizes, (size_t)i));
        if (shape->size[i] < 1 || __builtin_mul_overflow(elements, shape->size[i], &elements) ||
            elements > bytes / (int64_t)sizeof(float))
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: a shape is not possible", path);
    }
    return LKS_OK;
}

static lks_status read_layout(lks_layout *layout, const json_t *json, const char *path)
{
    json_t *tensors, *entry;
    size_t i;
    int64_t bytes;
    LKS_TRY(lks_json_get_array(json, path, "layout", &tensors));
    LKS_TRY(lks_json_get_integer(json, path, "state.bytes", 0, INT64_MAX, &bytes));
    json_array_foreach(tensors, i, entry)
    {
        const char *name, *role;
        lks_shape shape;
        LKS_TRY(lks_json_get_string(entry, path, "name", &name));
        LKS_TRY(lks_json_get_string(entry, path, "role", &role));
        LKS_TRY(read_shape(&shape, bytes, entry, path));
        bool decay = json_is_true(json_object_get(entry, "decay"));
        LKS_TRY(lks_layout_add(layout, name, shape,
                               strcmp(role, "buffer") == 0 ? LKS_ROLE_BUFFER : LKS_ROLE_PARAMETER,
                               decay, NULL));
    }
    return LKS_OK;
}

static lks_status read_tensor(lks_state_group *group, const lks_layout_tensor *tensor, uint32_t t,
                              const json_t *entry, const char *path)
{
    const char *name;
    json_t *blocks;
    int64_t offset;
    LKS_TRY(lks_json_get_string(entry, path, "name", &name));
    LKS_TRY(lks_json_get_integer(entry, path, "offset", 0, INT64_MAX, &offset));
    LKS_TRY(lks_json_get_array(entry, path, "blocks", &blocks));
    if (strcmp(name, tensor->name) != 0 || json_array_size(blocks) != tensor->block_count)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: %s/%s is not there with its %u blocks", path,
                        group->name, tensor->name, tensor->block_count);
    group->offsets[t] = (uint64_t)offset;
    for (uint32_t b = 0; b < tensor->block_count; ++b) {
        const char *hex = json_string_value(json_array_get(blocks, b));
        char *end = NULL;
        group->hashes[tensor->first_block + b] = hex == NULL ? 0 : strtoull(hex, &end, 16);
        if (hex == NULL || strlen(hex) != 16 || *end != '\0')
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: a block hash of %s/%s is not 16 hex digits", path,
                            group->name, tensor->name);
    }
    return LKS_OK;
}

static lks_status read_group(lks_state_map *map, int g, const json_t *entry, const char *path)
{
    const char *name;
    json_t *tensors;
    LKS_TRY(lks_json_get_string(entry, path, "name", &name));
    LKS_TRY(lks_json_get_array(entry, path, "tensors", &tensors));
    LKS_TRY(
        lks_state_map_name(map, g, name, json_is_true(json_object_get(entry, "parameters_only"))));
    size_t next = 0;
    for (uint32_t t = 0; t < map->layout->tensor_count; ++t) {
        if (lks_state_map_has(map, g, t))
            LKS_TRY(read_tensor(&map->groups[g], &map->layout->tensors[t], t,
                                json_array_get(tensors, next++), path));
    }
    if (next != json_array_size(tensors))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: %s has %zu tensors, the layout %zu", path, name,
                        json_array_size(tensors), next);
    return LKS_OK;
}

static lks_status read_map(lks_checkpoint_manifest_data *m, const char *path)
{
    json_t *groups;
    const char *metadata, *root, *hash;
    int64_t bytes, block_elements;
    char found[LKS_SHA256_HEX];
    LKS_TRY(lks_json_get_array(m->json, path, "groups", &groups));
    LKS_TRY(lks_json_get_integer(m->json, path, "state.bytes", 0, INT64_MAX, &bytes));
    LKS_TRY(lks_json_get_string(m->json, path, "state.metadata_sha256", &metadata));
    LKS_TRY(lks_json_get_integer(m->json, path, "block_elements", 1, INT64_MAX, &block_elements));
    LKS_TRY(lks_json_get_string(m->json, path, "block_hash", &hash));
    LKS_TRY(lks_json_get_string(m->json, path, "root", &root));
    if (block_elements != LKS_BLOCK_ELEMENTS || strcmp(hash, LKS_CHECKPOINT_BLOCK_HASH) != 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: blocks of %lld elements hashed by %s, not %d by %s",
                        path, (long long)block_elements, hash, LKS_BLOCK_ELEMENTS,
                        LKS_CHECKPOINT_BLOCK_HASH);
    LKS_TRY(lks_state_map_init(&m->map, m->layout, (int)json_array_size(groups)));
    m->map.file_bytes = (uint64_t)bytes;
    snprintf(m->map.metadata, sizeof m->map.metadata, "%s", metadata);
    for (int g = 0; g < m->map.group_count; ++g)
        LKS_TRY(read_group(&m->map, g, json_array_get(groups, (size_t)g), path));
    LKS_TRY(lks_state_map_root(&m->map, found));
    if (strcmp(found, root) != 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: root is %s, its block hashes give %s", path, root,
                        found);
    return LKS_OK;
}

static lks_status read_text(lks_checkpoint_manifest_data *m, const char *path, const char *text,
                            size_t bytes, lks_checkpoint_code *code)
{
    *code = LKS_CHECKPOINT_UNREADABLE;
    LKS_TRY(lks_json_parse(text, bytes, path, &m->json));
    *code = LKS_CHECKPOINT_MANIFEST_MISMATCH;
    LKS_TRY(check_format(m->json, path, code));
    LKS_TRY(check_seal(path, text, bytes));
    LKS_TRY(read_info(&m->info, m->json, path));
    LKS_TRY(lks_layout_create(&m->layout));
    LKS_TRY(read_layout(m->layout, m->json, path));
    LKS_TRY(read_map(m, path));
    *code = LKS_CHECKPOINT_OK;
    return LKS_OK;
}

lks_status lks_checkpoint_manifest_read(lks_checkpoint_manifest_data *out, const char *path,
                                        lks_checkpoint_code *code)
{
    char *text;
    size_t bytes;
    *out = (lks_checkpoint_manifest_data){0};
    *code = LKS_CHECKPOINT_UNREADABLE;
    LKS_TRY(lks_files_read(path, MANIFEST_LIMIT, &text, &bytes));
    lks_status status = read_text(out, path, text, bytes, code);
    free(text);
    if (status != LKS_OK)
        lks_checkpoint_manifest_release(out);
    return status;
}

void lks_checkpoint_manifest_release(lks_checkpoint_manifest_data *manifest)
{
    lks_state_map_release(&manifest->map);
    lks_layout_destroy(manifest->layout);
    json_decref(manifest->json);
    *manifest = (lks_checkpoint_manifest_data){0};
}

double lks_checkpoint_manifest_validation_loss(const char *path)
{
    json_t *json;
    if (lks_json_load(path, &json) != LKS_OK)
        return (double)NAN;
    const json_t *loss = json_object_get(json, "validation_loss");
    double value = json_is_number(loss) ? json_number_value(loss) : (double)NAN;
    json_decref(json);
    return value;
}
