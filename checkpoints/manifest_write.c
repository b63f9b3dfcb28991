#include "checkpoints/manifest.h"

#include "checkpoints/state_file.h"
#include "runtime/base/clock.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *role_name(lks_tensor_role role)
{
    return role == LKS_ROLE_BUFFER ? "buffer" : "parameter";
}

/* Takes over `value`. */
static bool add(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

static json_t *shape_to_json(const lks_shape *shape)
{
    json_t *sizes = json_array();
    for (int i = 0; i < shape->axes; ++i)
        json_array_append_new(sizes, json_integer(shape->size[i]));
    return sizes;
}

static bool add_layout(json_t *manifest, const lks_layout *layout)
{
    json_t *tensors = json_array();
    for (uint32_t t = 0; t < layout->tensor_count; ++t) {
        const lks_layout_tensor *tensor = &layout->tensors[t];
        json_t *entry = json_pack("{s:s, s:o, s:s, s:b}", "name", tensor->name, "shape",
                                  shape_to_json(&tensor->shape), "role", role_name(tensor->role),
                                  "decay", tensor->decay);
        if (json_array_append_new(tensors, entry) != 0)
            return json_decref(tensors), false;
    }
    return add(manifest, "layout", tensors);
}

static bool add_info(json_t *manifest, const lks_checkpoint_info *info, int world_size)
{
    char wall[32];
    json_t *config = info->config_json == NULL ? json_null() : json_deep_copy(info->config_json);
    return add(manifest, "format", json_string(LKS_MANIFEST_FORMAT)) &&
           add(manifest, "format_version", json_integer(LKS_CHECKPOINT_FORMAT)) &&
           add(manifest, "lockstep", json_string(LKS_VERSION)) &&
           add(manifest, "written_at", json_string(lks_clock_wall(wall, sizeof wall))) &&
           add(manifest, "world_size", json_integer(world_size)) &&
           add(manifest, "run_id", json_string(info->run_id)) &&
           add(manifest, "step", json_integer((json_int_t)info->step)) &&
           add(manifest, "position", json_integer((json_int_t)info->position)) &&
           add(manifest, "seed", json_integer((json_int_t)info->seed)) &&
           add(manifest, "validation_loss",
               isfinite(info->validation_loss) ? json_real(info->validation_loss) : json_null()) &&
           (info->ledger == NULL || add(manifest, "ledger", json_string(info->ledger))) &&
           (info->epoch == 0 || add(manifest, "epoch", json_integer((json_int_t)info->epoch))) &&
           add(manifest, "model_fingerprint", json_string(info->model_fingerprint)) &&
           add(manifest, "dataset_digest", json_string(info->dataset_digest)) &&
           add(manifest, "arithmetic", json_string(info->arithmetic)) &&
           add(manifest, "config", config) &&
           add(manifest, "config_yaml", json_string(info->config_yaml));
}

lks_status lks_checkpoint_manifest_begin(json_t **out, const lks_checkpoint_info *info,
                                         const lks_layout *layout, int world_size)
{
    json_t *manifest = json_object();
    if (manifest != NULL && add_info(manifest, info, world_size) && add_layout(manifest, layout)) {
        *out = manifest;
        return LKS_OK;
    }
    json_decref(manifest);
    return LKS_FAIL(LKS_ERR_INTERNAL, "cannot make a manifest: a text in it is not UTF-8");
}

static json_t *hashes_to_json(const lks_state_group *group, const lks_layout_tensor *tensor)
{
    json_t *hashes = json_array();
    char hex[17];
    for (uint32_t b = 0; b < tensor->block_count; ++b) {
        snprintf(hex, sizeof hex, "%016llx",
                 (unsigned long long)group->hashes[tensor->first_block + b]);
        json_array_append_new(hashes, json_string(hex));
    }
    return hashes;
}

static json_t *group_to_json(const lks_state_map *map, int g)
{
    const lks_state_group *group = &map->groups[g];
    json_t *tensors = json_array();
    for (uint32_t t = 0; t < map->layout->tensor_count; ++t) {
        if (!lks_state_map_has(map, g, t))
            continue;
        const lks_layout_tensor *tensor = &map->layout->tensors[t];
        json_array_append_new(tensors, json_pack("{s:s, s:I, s:o}", "name", tensor->name, "offset",
                                                 (json_int_t)group->offsets[t], "blocks",
                                                 hashes_to_json(group, tensor)));
    }
    return json_pack("{s:s, s:b, s:o}", "name", group->name, "parameters_only",
                     group->parameters_only, "tensors", tensors);
}

static lks_status add_map(json_t *manifest, const lks_state_map *map)
{
    char root[LKS_SHA256_HEX];
    LKS_TRY(lks_state_map_root(map, root));
    json_t *groups = json_array();
    for (int g = 0; g < map->group_count; ++g)
        json_array_append_new(groups, group_to_json(map, g));
    bool good = add(manifest, "state",
                    json_pack("{s:s, s:I, s:s}", "file", LKS_STATE_NAME, "bytes",
                              (json_int_t)map->file_bytes, "metadata_sha256", map->metadata)) &&
                add(manifest, "block_elements", json_integer(LKS_BLOCK_ELEMENTS)) &&
                add(manifest, "block_hash", json_string(LKS_CHECKPOINT_BLOCK_HASH)) &&
                add(manifest, "groups", groups) && add(manifest, "root", json_string(root));
    return good ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a checkpoint's manifest");
}

static lks_status write_sealed(const char *path, char *text)
{
    size_t length = strlen(text) - 2; /* without the closing "\n}" */
    char seal[LKS_SHA256_HEX];
    char *sealed = realloc(text, length + 2 + LKS_MANIFEST_SEAL_BYTES + 1);
    if (sealed == NULL) {
        free(text);
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a checkpoint's manifest");
    }
    memcpy(sealed + length, ",\n", 3);
    lks_status status = lks_hash_sha256(sealed, length + 2, seal);
    if (status == LKS_OK) {
        snprintf(sealed + length + 2, LKS_MANIFEST_SEAL_BYTES + 1, LKS_MANIFEST_SEAL, seal);
        status = lks_files_write_atomically(path, sealed, length + 2 + LKS_MANIFEST_SEAL_BYTES);
    }
    free(sealed);
    return status;
}

lks_status lks_checkpoint_manifest_write(json_t *manifest, const lks_state_map *map,
                                         const char *path)
{
    LKS_TRY(add_map(manifest, map));
    char *text = json_dumps(manifest, JSON_INDENT(1) | JSON_REAL_PRECISION(17));
    if (text == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for %s", path);
    return write_sealed(path, text);
}
