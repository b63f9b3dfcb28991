#include "runtime/datasets/manifest_read.h"

#include "runtime/base/json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What the columns of a kind must be; the row's shape is in the schema. */
typedef struct column_rule {
    const char *name;
    lks_dtype dtypes[2];
    lks_shape row;
} column_rule;

static int column_rules(const lks_schema *schema, column_rule rules[LKS_MANIFEST_COLUMNS])
{
    switch (schema->kind) {
    case LKS_DATA_TEXT:
        rules[0] = (column_rule){"tokens", {LKS_U8, LKS_U16}, LKS_SCALAR};
        return 1;
    case LKS_DATA_IMAGES:
        rules[0] = (column_rule){"images",
                                 {LKS_U8, LKS_NONE},
                                 LKS_SHAPE(schema->height, schema->width, schema->channels)};
        rules[1] = (column_rule){"labels", {LKS_I32, LKS_NONE}, LKS_SCALAR};
        return 2;
    case LKS_DATA_TABLE:
        rules[0] = (column_rule){"features", {LKS_F32, LKS_NONE}, LKS_SHAPE(schema->features)};
        rules[1] = (column_rule){
            "target", {schema->classes > 0 ? LKS_I32 : LKS_F32, LKS_NONE}, LKS_SCALAR};
        return 2;
    }
    return 0;
}

/* The shape must be that of the rule, and its bytes countable. */
static lks_status read_shape(const json_t *json, const char *name, const column_rule *rule,
                             uint64_t records, lks_column *column)
{
    json_t *array;
    LKS_TRY(lks_json_get_array(json, name, "shape", &array));
    lks_shape *shape = &column->shape;
    shape->axes = rule->row.axes + 1;
    bool equal = json_array_size(array) == (size_t)shape->axes;
    column->row_bytes = lks_dtype_bytes(column->dtype);
    for (int axis = 0; axis < shape->axes; ++axis) {
        shape->size[axis] = axis == 0 ? (int64_t)records : rule->row.size[axis - 1];
        const json_t *item = json_array_get(array, (size_t)axis);
        equal = equal && json_is_integer(item) && json_integer_value(item) == shape->size[axis];
        if (axis > 0 && __builtin_mul_overflow(column->row_bytes, (uint64_t)shape->size[axis],
                                               &column->row_bytes))
            equal = false;
    }
    char text[128];
    if (!equal)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its shape is not %s, as records and schema say", name,
                        lks_shape_text(shape, text, sizeof text));
    if (__builtin_mul_overflow(column->row_bytes, records, &column->bytes) ||
        column->bytes > INT64_MAX)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: shape %s has more bytes than a file can hold", name,
                        lks_shape_text(shape, text, sizeof text));
    return LKS_OK;
}

static lks_status read_hashes(lks_manifest *manifest, const json_t *json, const char *name,
                              lks_column *column)
{
    json_t *array;
    LKS_TRY(lks_json_get_array(json, name, "xxh3", &array));
    column->block_count = (column->bytes - 1) / column->block_bytes + 1;
    if (json_array_size(array) != column->block_count)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: has %zu block hashes, expected %" PRIu64, name,
                        json_array_size(array), column->block_count);
    uint64_t *hashes = lks_manifest_allocate(manifest, column->block_count, sizeof *hashes);
    if (hashes == NULL)
        return lks_manifest_fail_memory(manifest);
    for (size_t i = 0; i < column->block_count; ++i) {
        const char *text = json_string_value(json_array_get(array, i));
        if (text == NULL || !lks_manifest_is_hex(text, 16))
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: xxh3[%zu] is not 16 hex digits", name, i);
        hashes[i] = strtoull(text, NULL, 16);
    }
    column->hashes = hashes;
    return LKS_OK;
}

static lks_status read_column(lks_manifest *manifest, const json_t *json, const char *name,
                              const column_rule *rule, uint64_t records, lks_column *column)
{
    const char *text;
    int64_t block_bytes;
    LKS_TRY(lks_json_get_string(json, name, "name", &text));
    if (strcmp(text, rule->name) != 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its name is \"%s\", expected \"%s\"", name, text,
                        rule->name);
    column->name = rule->name;
    LKS_TRY(lks_json_get_string(json, name, "dtype", &text));
    bool known = lks_dtype_parse(text, &column->dtype) && column->dtype != LKS_NONE;
    if (!known || (column->dtype != rule->dtypes[0] && column->dtype != rule->dtypes[1]))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its dtype is \"%s\", expected \"%s\"", name, text,
                        lks_dtype_name(rule->dtypes[0]));
    LKS_TRY(read_shape(json, name, rule, records, column));
    LKS_TRY(lks_json_get_integer(json, name, "block_bytes", 1, LKS_MANIFEST_BLOCK_BYTES_MAX,
                                 &block_bytes));
    column->block_bytes = (uint64_t)block_bytes;
    if (column->block_bytes > manifest->block_bytes)
        manifest->block_bytes = column->block_bytes;
    return read_hashes(manifest, json, name, column);
}

static lks_status read_columns(lks_manifest *manifest, const json_t *json, const char *name,
                               lks_manifest_shard *shard)
{
    json_t *array;
    column_rule rules[LKS_MANIFEST_COLUMNS];
    LKS_TRY(lks_json_get_array(json, name, "datasets", &array));
    shard->column_count = column_rules(&manifest->schema, rules);
    if (json_array_size(array) != (size_t)shard->column_count)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: has %zu datasets, %s have %d", name,
                        json_array_size(array), lks_data_kind_name(manifest->schema.kind),
                        shard->column_count);
    for (int i = 0; i < shard->column_count; ++i) {
        const char *column_name = lks_arena_format(manifest->arena, "%s.datasets[%d]", name, i);
        if (column_name == NULL)
            return lks_manifest_fail_memory(manifest);
        LKS_TRY(read_column(manifest, json_array_get(array, (size_t)i), column_name, &rules[i],
                            shard->records, &shard->columns[i]));
    }
    return LKS_OK;
}

static lks_status read_shard_file(const json_t *json, const char *name, size_t index,
                                  lks_manifest_shard *shard)
{
    int64_t bytes;
    char expected[32];
    snprintf(expected, sizeof expected, "shard-%05zu.h5", index);
    LKS_TRY(lks_json_get_string(json, name, "file", &shard->file));
    if (strcmp(shard->file, expected) != 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its file is \"%s\", expected \"%s\"", name,
                        shard->file, expected);
    LKS_TRY(lks_json_get_integer(json, name, "bytes", 1, INT64_MAX, &bytes));
    shard->bytes = (uint64_t)bytes;
    LKS_TRY(lks_json_get_string(json, name, "sha256", &shard->sha256));
    if (!lks_manifest_is_hex(shard->sha256, LKS_SHA256_HEX - 1))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its sha256 is not 64 hex digits", name);
    return LKS_OK;
}

static lks_status read_shard(lks_manifest *manifest, const json_t *json, size_t index)
{
    lks_manifest_shard *shard = &manifest->shards[index];
    int64_t records;
    const char *name = lks_arena_format(manifest->arena, "%s: shards[%zu]", manifest->path, index);
    if (name == NULL)
        return lks_manifest_fail_memory(manifest);
    LKS_TRY(read_shard_file(json, name, index, shard));
    LKS_TRY(lks_json_get_integer(json, name, "records", 1, INT64_MAX, &records));
    shard->records = (uint64_t)records;
    LKS_TRY(read_columns(manifest, json, name, shard));
    if (shard->columns[0].dtype != manifest->shards[0].columns[0].dtype)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its dtype is %s, that of shards[0] is %s", name,
                        lks_dtype_name(shard->columns[0].dtype),
                        lks_dtype_name(manifest->shards[0].columns[0].dtype));
    return LKS_OK;
}

lks_status lks_manifest_read_shards(lks_manifest *manifest)
{
    json_t *array;
    LKS_TRY(lks_json_get_array(manifest->json, manifest->path, "shards", &array));
    manifest->shard_count = json_array_size(array);
    manifest->shards =
        lks_manifest_allocate(manifest, manifest->shard_count + 1, sizeof *manifest->shards);
    if (manifest->shards == NULL)
        return lks_manifest_fail_memory(manifest);
    uint64_t total = 0;
    for (size_t i = 0; i < manifest->shard_count; ++i) {
        LKS_TRY(read_shard(manifest, json_array_get(array, i), i));
        manifest->shards[i].first_record = total;
        if (__builtin_add_overflow(total, manifest->shards[i].records, &total))
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its shards hold too many records to count",
                            manifest->path);
    }
    if (total != manifest->records)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: its shards hold %" PRIu64 " records, it states %" PRIu64,
                        manifest->path, total, manifest->records);
    return LKS_OK;
}
