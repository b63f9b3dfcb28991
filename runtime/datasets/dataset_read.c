#include "runtime/datasets/dataset_read.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { TOKENS_AT_ONCE = 4096 };

/* The shard that holds `record` (a token of a text). */
static size_t find_shard(const lks_manifest *manifest, uint64_t record)
{
    size_t low = 0, high = manifest->shard_count;
    while (high - low > 1) {
        size_t middle = low + (high - low) / 2;
        if (manifest->shards[middle].first_record <= record)
            low = middle;
        else
            high = middle;
    }
    return low;
}

static void fill_masked(const lks_field *field, void *out)
{
    size_t elements = lks_shape_elements(&field->shape);
    memset(out, 0, lks_field_bytes(field));
    if (!field->target)
        return;
    for (size_t i = 0; i < elements; ++i) {
        if (field->dtype == LKS_I32)
            ((int32_t *)out)[i] = -1;
        else
            ((float *)out)[i] = NAN;
    }
}

/* Where a piece of the token stream goes: tokens from index `first` of a sample on. */
typedef struct token_piece {
    const unsigned char *raw;
    size_t count, first;
    lks_dtype dtype;
} token_piece;

static lks_status place_tokens(const lks_dataset *dataset, const token_piece *piece,
                               int32_t *tokens, int32_t *targets)
{
    size_t context = (size_t)dataset->schema.context;
    for (size_t i = 0; i < piece->count; ++i) {
        uint16_t token = piece->raw[i];
        if (piece->dtype == LKS_U16)
            memcpy(&token, piece->raw + 2 * i, sizeof token);
        if (token >= dataset->schema.vocabulary)
            return LKS_FAIL(LKS_ERR_CORRUPT,
                            "%s: token %u in the text, the manifest says that all are below "
                            "%" PRId64 ": prepare the dataset again",
                            dataset->manifest->directory, token, dataset->schema.vocabulary);
        size_t at = piece->first + i;
        if (at < context)
            tokens[at] = token;
        if (at > 0)
            targets[at - 1] = token;
    }
    return LKS_OK;
}

/* Tokens [sample C, sample C + C], fewer at the end of the text. */
static lks_status read_text_sample(lks_dataset *dataset, uint64_t sample, int32_t *tokens,
                                   int32_t *targets, lks_shard_scratch *scratch)
{
    const lks_manifest *manifest = dataset->manifest;
    uint64_t context = (uint64_t)dataset->schema.context;
    uint64_t start = sample * context, left = manifest->records - start;
    size_t wanted = (size_t)(left <= context ? left : context + 1);
    if (wanted <= context) {
        fill_masked(&dataset->fields[0], tokens);
        fill_masked(&dataset->fields[1], targets);
    }
    unsigned char raw[TOKENS_AT_ONCE * 2];
    for (size_t done = 0; done < wanted;) {
        size_t index = find_shard(manifest, start + done);
        const lks_manifest_shard *shard = &manifest->shards[index];
        uint64_t first = start + done - shard->first_record;
        uint64_t count = shard->records - first;
        if (count > wanted - done)
            count = wanted - done;
        if (count > TOKENS_AT_ONCE)
            count = TOKENS_AT_ONCE;
        size_t width = (size_t)shard->columns[0].row_bytes;
        LKS_TRY(lks_shards_read(dataset->shards, index, 0, first * width, (size_t)count * width,
                                raw, scratch));
        token_piece piece = {raw, (size_t)count, done, shard->columns[0].dtype};
        LKS_TRY(place_tokens(dataset, &piece, tokens, targets));
        done += (size_t)count;
    }
    return LKS_OK;
}

static lks_status check_labels(const lks_dataset *dataset, const char *column, uint64_t first,
                               const int32_t *labels, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        if (labels[i] < -1 || labels[i] >= dataset->schema.classes)
            return LKS_FAIL(LKS_ERR_CORRUPT,
                            "%s: %s[%" PRIu64 "] is %" PRId32 ", expected a class below %" PRId64
                            " or -1: prepare the dataset again",
                            dataset->manifest->directory, column, first + i, labels[i],
                            dataset->schema.classes);
    return LKS_OK;
}

/* `count` consecutive records of one shard, all columns. */
static lks_status read_rows(lks_dataset *dataset, size_t index, uint64_t first, size_t count,
                            void *const *out, lks_shard_scratch *scratch)
{
    const lks_manifest_shard *shard = &dataset->manifest->shards[index];
    for (int i = 0; i < shard->column_count; ++i) {
        const lks_column *column = &shard->columns[i];
        LKS_TRY(lks_shards_read(dataset->shards, index, i, first * column->row_bytes,
                                count * column->row_bytes, out[i], scratch));
        if (dataset->fields[i].target && column->dtype == LKS_I32)
            LKS_TRY(
                check_labels(dataset, column->name, shard->first_record + first, out[i], count));
    }
    return LKS_OK;
}

static void *field_at(const lks_dataset *dataset, void *const *fields, int field, int64_t i)
{
    return (unsigned char *)fields[field] + (size_t)i * lks_field_bytes(&dataset->fields[field]);
}

/* How many of samples[0..count) follow each other within one shard; samples[0] is a record. */
static int64_t count_consecutive(const lks_manifest_shard *shard, const uint64_t *samples,
                                 int64_t count)
{
    uint64_t end = shard->first_record + shard->records;
    int64_t run = 1;
    while (run < count && samples[run] == samples[0] + (uint64_t)run && samples[run] < end)
        ++run;
    return run;
}

/* Samples [i, i + *done), as many as one read gives. */
static lks_status read_some(lks_dataset *dataset, const uint64_t *samples, int64_t i, int64_t count,
                            void *const *fields, lks_shard_scratch *scratch, int64_t *done)
{
    void *out[LKS_SCHEMA_FIELDS];
    for (int field = 0; field < LKS_SCHEMA_FIELDS; ++field)
        out[field] = field_at(dataset, fields, field, i);
    *done = 1;
    if (samples[i] == LKS_SAMPLE_NONE) {
        for (int field = 0; field < LKS_SCHEMA_FIELDS; ++field)
            fill_masked(&dataset->fields[field], out[field]);
        return LKS_OK;
    }
    if (samples[i] >= dataset->samples)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: sample %" PRIu64 " asked for, there are %" PRIu64,
                        dataset->manifest->directory, samples[i], dataset->samples);
    if (dataset->schema.kind == LKS_DATA_TEXT)
        return read_text_sample(dataset, samples[i], out[0], out[1], scratch);
    size_t index = find_shard(dataset->manifest, samples[i]);
    const lks_manifest_shard *shard = &dataset->manifest->shards[index];
    *done = count_consecutive(shard, samples + i, count - i);
    return read_rows(dataset, index, samples[i] - shard->first_record, (size_t)*done, out, scratch);
}

lks_status lks_dataset_read_with(lks_dataset *dataset, const uint64_t *samples, int64_t count,
                                 void *const *fields, lks_shard_scratch *scratch)
{
    int64_t done = 0;
    for (int64_t i = 0; i < count; i += done)
        LKS_TRY(read_some(dataset, samples, i, count, fields, scratch, &done));
    return LKS_OK;
}

lks_status lks_dataset_read(lks_dataset *dataset, const uint64_t *samples, int64_t count,
                            void *const *fields)
{
    lks_shard_scratch scratch = {NULL};
    lks_status status = lks_dataset_read_with(dataset, samples, count, fields, &scratch);
    lks_shard_scratch_release(&scratch);
    return status;
}
