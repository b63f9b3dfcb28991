#include "runtime/datasets/manifest_writer.h"

#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/datasets/manifest.h"

#include <stdlib.h>

static lks_status manifest_complete(json_t *manifest, const lks_manifest_parts *parts)
{
    char hex[LKS_SHA256_HEX];
    if (parts->statistics && json_object_set(manifest, "statistics", parts->statistics) != 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the manifest");
    LKS_TRY(lks_manifest_digest(manifest, hex));
    if (json_object_set(manifest, "provenance", parts->provenance) != 0 ||
        json_object_set_new(manifest, "digest", json_string(hex)) != 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the manifest");
    return LKS_OK;
}

static lks_status manifest_save(const char *directory, const json_t *manifest)
{
    char *path = lks_files_join(directory, LKS_MANIFEST_FILE);
    if (!path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    lks_status status = lks_json_save(path, manifest);
    free(path);
    return status;
}

lks_status lks_manifest_write(const char *directory, const lks_manifest_parts *parts)
{
    json_t *manifest =
        json_pack("{s:s, s:i, s:s, s:I, s:O, s:O}", "format", LKS_MANIFEST_FORMAT, "version",
                  (int)LKS_MANIFEST_VERSION, "kind", parts->kind, "records",
                  (json_int_t)parts->records, "schema", parts->schema, "shards", parts->shards);
    if (!manifest)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the manifest");
    lks_status status = manifest_complete(manifest, parts);
    if (status == LKS_OK)
        status = manifest_save(directory, manifest);
    json_decref(manifest);
    return status;
}
