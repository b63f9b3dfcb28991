#include "checkpoints/opened.h"

#include "runtime/base/json.h"

#include <math.h>
#include <string.h>

const char *lks_checkpoint_code_name(lks_checkpoint_code code)
{
    static const char *const names[] = {
        [LKS_CHECKPOINT_OK] = "ok",
        [LKS_CHECKPOINT_TRUNCATED] = "truncated",
        [LKS_CHECKPOINT_ZERO_FILLED] = "zero_filled",
        [LKS_CHECKPOINT_BIT_FLIP] = "bit_flip",
        [LKS_CHECKPOINT_NO_MANIFEST] = "no_manifest",
        [LKS_CHECKPOINT_MANIFEST_MISMATCH] = "manifest_mismatch",
        [LKS_CHECKPOINT_MISSING_TENSOR] = "missing_tensor",
        [LKS_CHECKPOINT_EXTRA_TENSOR] = "extra_tensor",
        [LKS_CHECKPOINT_WRONG_MODEL] = "wrong_model",
        [LKS_CHECKPOINT_WRONG_DATASET] = "wrong_dataset",
        [LKS_CHECKPOINT_NOT_FINITE] = "not_finite",
        [LKS_CHECKPOINT_NEWER_VERSION] = "newer_version",
        [LKS_CHECKPOINT_UNREADABLE] = "unreadable",
    };
    return names[code];
}

static lks_status check_finite(lks_checkpoint *checkpoint, int group, uint32_t block, void *user)
{
    lks_checkpoint_code *code = user;
    const lks_state_map *map = &checkpoint->manifest.map;
    const lks_layout_block *b = &map->layout->blocks[block];
    const lks_layout_tensor *tensor = &map->layout->tensors[b->tensor];
    for (uint32_t i = 0; i < b->elements; ++i) {
        if (isfinite(checkpoint->block[i]))
            continue;
        *code = LKS_CHECKPOINT_NOT_FINITE;
        return LKS_FAIL(LKS_ERR_NOT_FINITE, "%s: %s/%s block %u of %u holds %f at element %llu",
                        checkpoint->state_path, map->groups[group].name, tensor->name,
                        block - tensor->first_block, tensor->block_count,
                        (double)checkpoint->block[i],
                        (unsigned long long)(b->offset - tensor->offset + i));
    }
    return LKS_OK;
}

static lks_status check_model(const lks_checkpoint *checkpoint,
                              const lks_checkpoint_expectation *expected)
{
    const char *have = json_string_value(
        json_object_get(lks_checkpoint_manifest(checkpoint), "model_fingerprint"));
    if (expected->model_fingerprint == NULL || strcmp(have, expected->model_fingerprint) == 0)
        return LKS_OK;
    if (expected->layout != NULL)
        LKS_TRY(lks_checkpoint_check_layout(checkpoint, expected->layout));
    return LKS_FAIL(LKS_ERR_USAGE,
                    "%s is of another model: its fingerprint is %.16s..., that of %s is %.16s...; "
                    "use the model that it was made with",
                    checkpoint->path, have, expected->source, expected->model_fingerprint);
}

static lks_status check_dataset(const lks_checkpoint *checkpoint,
                                const lks_checkpoint_expectation *expected)
{
    const char *have =
        json_string_value(json_object_get(lks_checkpoint_manifest(checkpoint), "dataset_digest"));
    if (expected->dataset_digest == NULL || strcmp(have, expected->dataset_digest) == 0)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_USAGE,
                    "%s is of other data: its dataset's digest is %.16s..., that of %s is "
                    "%.16s...; use the data that it was made with",
                    checkpoint->path, have, expected->source, expected->dataset_digest);
}

static lks_status check_expected(const lks_checkpoint *checkpoint,
                                 const lks_checkpoint_expectation *expected,
                                 lks_checkpoint_code *code)
{
    if (expected == NULL)
        return LKS_OK;
    *code = LKS_CHECKPOINT_WRONG_MODEL;
    LKS_TRY(check_model(checkpoint, expected));
    *code = LKS_CHECKPOINT_WRONG_DATASET;
    LKS_TRY(check_dataset(checkpoint, expected));
    *code = LKS_CHECKPOINT_OK;
    return LKS_OK;
}

lks_status lks_checkpoint_check_report(const char *path, const lks_checkpoint_expectation *expected,
                                       json_t **out)
{
    lks_checkpoint *checkpoint;
    lks_checkpoint_code code;
    lks_status status = lks_checkpoint_open_coded(&checkpoint, path, LKS_CHECK_ALL, &code);
    if (status == LKS_ERR_USAGE || status == LKS_ERR_INTERNAL)
        return status;
    if (status == LKS_OK) {
        status = check_expected(checkpoint, expected, &code);
        if (status == LKS_OK)
            status = lks_checkpoint_each_block(checkpoint, &code, check_finite, &code);
        lks_checkpoint_close(checkpoint);
    }
    *out = json_pack("{s:o, s:b, s:s, s:o}", "path", lks_json_text(path), "valid",
                     status == LKS_OK || code == LKS_CHECKPOINT_NOT_FINITE, "code",
                     lks_checkpoint_code_name(code), "message",
                     lks_json_text(status == LKS_OK ? "everything holds" : lks_status_message()));
    return *out != NULL ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a report on %s", path);
}
