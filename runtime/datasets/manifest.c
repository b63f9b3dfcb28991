#include "runtime/datasets/manifest_read.h"

#include "runtime/base/files.h"
#include "runtime/base/json.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

enum { EXTENT_MAX = 1 << 20, VOCABULARY_MAX = 65536 };

void *lks_manifest_allocate(lks_manifest *manifest, size_t count, size_t bytes)
{
    if (count > SIZE_MAX / bytes)
        return NULL;
    return lks_arena_allocate(manifest->arena, count * bytes);
}

lks_status lks_manifest_fail_memory(const lks_manifest *manifest)
{
    return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory to read it", manifest->path);
}

bool lks_manifest_is_hex(const char *text, size_t digits)
{
    return strlen(text) == digits && strspn(text, "0123456789abcdef") == digits;
}

lks_status lks_manifest_digest(const json_t *json, char hex[LKS_SHA256_HEX])
{
    json_t *copy = json_copy((json_t *)json);
    if (copy == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a manifest's digest");
    json_object_del(copy, "provenance");
    json_object_del(copy, "digest");
    char *text = json_dumps(copy, JSON_SORT_KEYS | JSON_COMPACT | JSON_REAL_PRECISION(17));
    json_decref(copy);
    if (text == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a manifest's digest");
    lks_status status = lks_hash_sha256(text, strlen(text), hex);
    free(text);
    return status;
}

lks_status lks_manifest_check_digest(const lks_manifest *manifest)
{
    char found[LKS_SHA256_HEX];
    LKS_TRY(lks_manifest_digest(manifest->json, found));
    if (strcmp(found, manifest->digest) != 0)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: states digest %s, its contents have %s: it was changed after it was "
                        "made; prepare the dataset again or restore the file",
                        manifest->path, manifest->digest, found);
    return LKS_OK;
}

static lks_status read_header(lks_manifest *manifest)
{
    const json_t *json = manifest->json;
    const char *format, *kind;
    int64_t version, records;
    LKS_TRY(lks_json_get_string(json, manifest->path, "format", &format));
    if (strcmp(format, LKS_MANIFEST_FORMAT) != 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its format is \"%s\", expected \"%s\"",
                        manifest->path, format, LKS_MANIFEST_FORMAT);
    LKS_TRY(lks_json_get_integer(json, manifest->path, "version", 1, INT64_MAX, &version));
    if (version > LKS_MANIFEST_VERSION)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: made by a newer lockstep, as version %" PRId64
                        ", this one reads %d: use that one",
                        manifest->path, version, LKS_MANIFEST_VERSION);
    LKS_TRY(lks_json_get_string(json, manifest->path, "kind", &kind));
    if (!lks_data_kind_parse(kind, &manifest->schema.kind))
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s: its kind is \"%s\", expected \"text\", \"images\" or \"table\"",
                        manifest->path, kind);
    LKS_TRY(lks_json_get_integer(json, manifest->path, "records", 1, INT64_MAX, &records));
    manifest->records = (uint64_t)records;
    LKS_TRY(lks_json_get_string(json, manifest->path, "digest", &manifest->digest));
    if (!lks_manifest_is_hex(manifest->digest, LKS_SHA256_HEX - 1))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its digest is \"%s\", expected 64 hex digits",
                        manifest->path, manifest->digest);
    return LKS_OK;
}

static lks_status read_schema(lks_manifest *manifest)
{
    lks_schema *schema = &manifest->schema;
    const json_t *json = manifest->json;
    const char *path = manifest->path;
    switch (schema->kind) {
    case LKS_DATA_TEXT:
        if (manifest->records < 2)
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: holds 1 token, a text needs 2 at least", path);
        return lks_json_get_integer(json, path, "schema.vocabulary", 2, VOCABULARY_MAX,
                                    &schema->vocabulary);
    case LKS_DATA_IMAGES:
        LKS_TRY(lks_json_get_integer(json, path, "schema.height", 1, EXTENT_MAX, &schema->height));
        LKS_TRY(lks_json_get_integer(json, path, "schema.width", 1, EXTENT_MAX, &schema->width));
        LKS_TRY(
            lks_json_get_integer(json, path, "schema.channels", 1, EXTENT_MAX, &schema->channels));
        return lks_json_get_integer(json, path, "schema.classes", 1, INT32_MAX, &schema->classes);
    case LKS_DATA_TABLE:
        LKS_TRY(
            lks_json_get_integer(json, path, "schema.features", 1, INT32_MAX, &schema->features));
        return lks_json_get_integer(json, path, "schema.classes", 0, INT32_MAX, &schema->classes);
    }
    return LKS_OK;
}

static lks_status read_channel_numbers(lks_manifest *manifest, const char *key, const float **out)
{
    json_t *array;
    LKS_TRY(lks_json_get_array(manifest->json, manifest->path, key, &array));
    size_t count = (size_t)manifest->schema.channels;
    if (json_array_size(array) != count)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: %s has %zu numbers, expected one per channel: %zu",
                        manifest->path, key, json_array_size(array), count);
    float *numbers = lks_manifest_allocate(manifest, count, sizeof *numbers);
    if (numbers == NULL)
        return lks_manifest_fail_memory(manifest);
    for (size_t i = 0; i < count; ++i) {
        const json_t *item = json_array_get(array, i);
        double number = json_number_value(item);
        if (!json_is_number(item) || !(number >= 0 && number <= 255))
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: %s[%zu] is not a number from 0 to 255",
                            manifest->path, key, i);
        numbers[i] = (float)number;
    }
    *out = numbers;
    return LKS_OK;
}

static lks_status read_statistics(lks_manifest *manifest)
{
    if (manifest->schema.kind != LKS_DATA_IMAGES)
        return LKS_OK;
    LKS_TRY(
        read_channel_numbers(manifest, "statistics.channel_mean", &manifest->schema.channel_mean));
    return read_channel_numbers(manifest, "statistics.channel_deviation",
                                &manifest->schema.channel_deviation);
}

/* Says what the user may have meant. */
static lks_status fail_missing(const lks_manifest *manifest)
{
    if (!lks_files_is_directory(manifest->directory))
        return LKS_FAIL(
            LKS_ERR_USAGE, "%s: %s: give one that `lockstep prepare` made", manifest->directory,
            lks_files_exists(manifest->directory) ? "not a directory" : "no such directory");
    char *inner = lks_files_join(manifest->directory, "train/" LKS_MANIFEST_FILE);
    bool split = inner != NULL && lks_files_exists(inner);
    free(inner);
    if (split)
        return LKS_FAIL(LKS_ERR_USAGE, "%s: no dataset here, but in %s/train: name that one",
                        manifest->directory, manifest->directory);
    return LKS_FAIL(LKS_ERR_USAGE, "%s: no %s in it: give a directory that `lockstep prepare` made",
                    manifest->directory, LKS_MANIFEST_FILE);
}

static lks_status manifest_read(lks_manifest *manifest, const char *directory)
{
    manifest->directory = lks_arena_copy(manifest->arena, directory);
    manifest->path = lks_arena_format(manifest->arena, "%s/%s", directory, LKS_MANIFEST_FILE);
    if (manifest->directory == NULL || manifest->path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory to open it", directory);
    if (!lks_files_exists(manifest->path))
        return fail_missing(manifest);
    LKS_TRY(lks_json_load(manifest->path, &manifest->json));
    if (!json_is_object(manifest->json))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: is not a JSON object", manifest->path);
    LKS_TRY(read_header(manifest));
    LKS_TRY(read_schema(manifest));
    LKS_TRY(read_statistics(manifest));
    return lks_manifest_read_shards(manifest);
}

lks_status lks_manifest_open(lks_manifest **out, const char *directory)
{
    lks_manifest *manifest;
    LKS_TRY(LKS_NEW(&manifest));
    lks_status status = lks_arena_create(&manifest->arena);
    if (status == LKS_OK)
        status = manifest_read(manifest, directory);
    if (status != LKS_OK) {
        lks_manifest_close(manifest);
        return status;
    }
    *out = manifest;
    return LKS_OK;
}

void lks_manifest_close(lks_manifest *manifest)
{
    if (manifest == NULL)
        return;
    json_decref(manifest->json);
    lks_arena_destroy(manifest->arena);
    lks_memory_free(manifest);
}
