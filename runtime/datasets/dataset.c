#include "runtime/datasets/dataset_read.h"

#include <inttypes.h>

static lks_status set_schema(lks_dataset *dataset, int64_t context)
{
    const lks_manifest *manifest = dataset->manifest;
    dataset->schema = manifest->schema;
    dataset->samples = manifest->records;
    if (dataset->schema.kind == LKS_DATA_TEXT) {
        if (context == 0)
            return LKS_FAIL(LKS_ERR_USAGE,
                            "%s: a dataset of kind text, and the model learns from another: want "
                            "a model that has a context, like gpt",
                            manifest->directory);
        if (context < 1 || context > INT32_MAX)
            return LKS_FAIL(LKS_ERR_USAGE,
                            "%s: context %" PRId64 " asked for, expected 1 to %d tokens",
                            manifest->directory, context, INT32_MAX);
        dataset->schema.context = context;
        dataset->samples = (manifest->records - 2) / (uint64_t)context + 1;
    }
    lks_schema_set_fields(&dataset->schema, dataset->fields);
    return LKS_OK;
}

static lks_status dataset_open(lks_dataset *dataset, const char *directory, int64_t context)
{
    LKS_TRY(lks_manifest_open(&dataset->manifest, directory));
    LKS_TRY(lks_manifest_check_digest(dataset->manifest));
    LKS_TRY(set_schema(dataset, context));
    return lks_shards_open(&dataset->shards, dataset->manifest);
}

lks_status lks_dataset_open(lks_dataset **out, const char *directory, int64_t context)
{
    lks_dataset *dataset;
    LKS_TRY(LKS_NEW(&dataset));
    lks_status status = dataset_open(dataset, directory, context);
    if (status != LKS_OK) {
        lks_dataset_close(dataset);
        return status;
    }
    *out = dataset;
    return LKS_OK;
}

void lks_dataset_close(lks_dataset *dataset)
{
    if (dataset == NULL)
        return;
    lks_shards_close(dataset->shards);
    lks_manifest_close(dataset->manifest);
    lks_memory_free(dataset);
}

const lks_schema *lks_dataset_schema(const lks_dataset *dataset)
{
    return &dataset->schema;
}

uint64_t lks_dataset_samples(const lks_dataset *dataset)
{
    return dataset->samples;
}

uint64_t lks_dataset_sample_bytes(const lks_dataset *dataset)
{
    const lks_manifest_shard *shard = &dataset->manifest->shards[0];
    if (dataset->schema.kind == LKS_DATA_TEXT)
        return (uint64_t)dataset->schema.context * shard->columns[0].row_bytes;
    uint64_t bytes = 0;
    for (int i = 0; i < shard->column_count; ++i)
        bytes += shard->columns[i].row_bytes;
    return bytes;
}

const char *lks_dataset_digest(const lks_dataset *dataset)
{
    return dataset->manifest->digest;
}

const char *lks_dataset_directory(const lks_dataset *dataset)
{
    return dataset->manifest->directory;
}

const json_t *lks_dataset_manifest(const lks_dataset *dataset)
{
    return dataset->manifest->json;
}
