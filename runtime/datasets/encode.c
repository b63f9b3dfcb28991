#include "runtime/datasets/encode.h"

#include "runtime/base/json.h"
#include "runtime/base/memory.h"
#include "runtime/base/tensor.h"
#include "runtime/datasets/csv.h"
#include "runtime/datasets/idx.h"
#include "runtime/datasets/schema.h"
#include "runtime/datasets/table_rows.h"
#include "runtime/datasets/table_rules.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char manifest_name[] = "the manifest";

struct lks_encoder {
    lks_data_kind kind;
    const json_t *manifest;
    lks_arena *arena;
    char *path; /* NULL: no input */

    int64_t context; /* text */
    FILE *text;
    uint64_t line;
    char **prompts; /* of the last batch */
    int64_t *lengths;
    size_t prompt_count, prompt_capacity, length_capacity;

    lks_idx *idx; /* images */
    uint64_t images_left;
    int64_t classes;
    const char **labels;

    lks_csv *csv; /* table */
    lks_table_rules rules;
    lks_table_binding binding;
};

static lks_status encoder_open_text(lks_encoder *encoder)
{
    encoder->text = fopen(encoder->path, "re");
    if (!encoder->text)
        return LKS_FAIL(errno == ENOENT || errno == ENOTDIR ? LKS_ERR_USAGE : LKS_ERR_IO,
                        "%s: cannot be opened: %s", encoder->path, strerror(errno));
    return LKS_OK;
}

static lks_status encoder_read_labels(lks_encoder *encoder)
{
    LKS_TRY(lks_json_get_integer(encoder->manifest, manifest_name, "schema.classes", 1, INT32_MAX,
                                 &encoder->classes));
    encoder->labels =
        lks_arena_allocate(encoder->arena, (size_t)encoder->classes * sizeof *encoder->labels);
    for (int64_t i = 0; encoder->labels && i < encoder->classes; ++i) {
        encoder->labels[i] = lks_arena_format(encoder->arena, "%" PRId64, i);
        if (!encoder->labels[i])
            encoder->labels = NULL;
    }
    return encoder->labels ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the labels");
}

static lks_status encoder_open_images(lks_encoder *encoder)
{
    lks_shape wanted = {.axes = 3};
    static const char *const keys[] = {"schema.height", "schema.width", "schema.channels"};
    for (int a = 0; a < 3; ++a)
        LKS_TRY(lks_json_get_integer(encoder->manifest, manifest_name, keys[a], 1, INT32_MAX,
                                     &wanted.size[a]));
    LKS_TRY(lks_idx_open(&encoder->idx, encoder->path));
    const lks_idx_header *header = lks_idx_header_of(encoder->idx);
    if (header->axes == 1)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: holds labels, expected images", encoder->path);
    lks_shape found = LKS_SHAPE(header->height, header->width, header->channels);
    char found_text[64], wanted_text[64];
    if (!lks_shape_equal(&found, &wanted))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its images are %s, those trained on were %s",
                        encoder->path, lks_shape_text(&found, found_text, sizeof found_text),
                        lks_shape_text(&wanted, wanted_text, sizeof wanted_text));
    encoder->images_left = header->records;
    return LKS_OK;
}

static lks_status encoder_open_table(lks_encoder *encoder)
{
    lks_csv_row header;
    LKS_TRY(lks_csv_open(&encoder->csv, encoder->path, encoder->rules.delimiter));
    LKS_TRY(lks_table_read_header(encoder->csv, &header));
    return lks_table_bind(&encoder->rules, &header, encoder->path, &encoder->binding);
}

static lks_status encoder_open_input(lks_encoder *encoder)
{
    switch (encoder->kind) {
    case LKS_DATA_TEXT:
        return encoder_open_text(encoder);
    case LKS_DATA_IMAGES:
        return encoder_open_images(encoder);
    case LKS_DATA_TABLE:
        return encoder_open_table(encoder);
    }
    return LKS_OK;
}

static lks_status encoder_start(lks_encoder *encoder, const char *path)
{
    const char *kind;
    json_t *schema;
    LKS_TRY(lks_arena_create(&encoder->arena));
    LKS_TRY(lks_json_get_string(encoder->manifest, manifest_name, "kind", &kind));
    if (!lks_data_kind_parse(kind, &encoder->kind))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its kind is \"%s\"", manifest_name, kind);
    if (encoder->kind == LKS_DATA_IMAGES)
        LKS_TRY(encoder_read_labels(encoder));
    if (encoder->kind == LKS_DATA_TABLE) {
        LKS_TRY(lks_json_get_object(encoder->manifest, manifest_name, "schema", &schema));
        LKS_TRY(lks_table_rules_read(&encoder->rules, schema, manifest_name));
    }
    if (!path)
        return LKS_OK;
    encoder->path = strdup(path);
    if (!encoder->path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    return encoder_open_input(encoder);
}

lks_status lks_encoder_open(lks_encoder **out, const json_t *manifest, const char *path,
                            int64_t context)
{
    lks_encoder *encoder;
    LKS_TRY(LKS_NEW(&encoder));
    encoder->manifest = manifest;
    encoder->context = context;
    lks_status status = encoder_start(encoder, path);
    if (status != LKS_OK)
        lks_encoder_close(encoder);
    else
        *out = encoder;
    return status;
}

static void encoder_drop_prompts(lks_encoder *encoder)
{
    for (size_t i = 0; i < encoder->prompt_count; ++i)
        free(encoder->prompts[i]);
    encoder->prompt_count = 0;
}

void lks_encoder_close(lks_encoder *encoder)
{
    if (!encoder)
        return;
    encoder_drop_prompts(encoder);
    lks_memory_free(encoder->prompts);
    lks_memory_free(encoder->lengths);
    if (encoder->text)
        fclose(encoder->text);
    lks_idx_close(encoder->idx);
    lks_csv_close(encoder->csv);
    lks_table_binding_release(&encoder->binding);
    lks_table_rules_release(&encoder->rules);
    lks_arena_destroy(encoder->arena);
    free(encoder->path);
    lks_memory_free(encoder);
}

/* The next line as prompt number prompt_count; *end when there is none. */
static lks_status encoder_read_line(lks_encoder *encoder, ssize_t *length, bool *end)
{
    char *line = NULL;
    size_t capacity = 0;
    errno = 0;
    *length = getline(&line, &capacity, encoder->text);
    *end = *length < 0;
    if (*end) {
        free(line);
        return ferror(encoder->text) || errno
                   ? LKS_FAIL(LKS_ERR_IO, "%s: read: %s", encoder->path, strerror(errno))
                   : LKS_OK;
    }
    encoder->prompts[encoder->prompt_count++] = line;
    encoder->line++;
    while (*length > 0 && (line[*length - 1] == '\n' || line[*length - 1] == '\r'))
        line[--*length] = '\0';
    if (*length == 0)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s:%" PRIu64 ": an empty line: a prompt has a byte at least",
                        encoder->path, encoder->line);
    if (strlen(line) < (size_t)*length)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s:%" PRIu64 ": a NUL byte: this is not a text file",
                        encoder->path, encoder->line);
    return LKS_OK;
}

static void encoder_fill_tokens(const lks_encoder *encoder, const char *line, int64_t length,
                                int32_t *tokens, int32_t *targets)
{
    for (int64_t i = 0; i < encoder->context; ++i) {
        tokens[i] = i < length ? (unsigned char)line[i] : 0;
        targets[i] = -1;
    }
}

static lks_status encoder_next_text(lks_encoder *encoder, int64_t max_count, void *const *fields,
                                    int64_t *count)
{
    encoder_drop_prompts(encoder);
    LKS_TRY(LKS_GROW(&encoder->prompts, &encoder->prompt_capacity, (size_t)max_count));
    LKS_TRY(LKS_GROW(&encoder->lengths, &encoder->length_capacity, (size_t)max_count));
    for (; *count < max_count; ++*count) {
        ssize_t length;
        bool end;
        LKS_TRY(encoder_read_line(encoder, &length, &end));
        if (end)
            return LKS_OK;
        int64_t kept = length < encoder->context ? length : encoder->context, at = *count;
        encoder->lengths[at] = kept;
        encoder_fill_tokens(encoder, encoder->prompts[at] + (length - kept), kept,
                            (int32_t *)fields[0] + at * encoder->context,
                            (int32_t *)fields[1] + at * encoder->context);
    }
    return LKS_OK;
}

static lks_status encoder_next_images(lks_encoder *encoder, int64_t max_count, void *const *fields,
                                      int64_t *count)
{
    uint64_t left = encoder->images_left,
             now = (uint64_t)max_count < left ? (uint64_t)max_count : left;
    if (now == 0)
        return LKS_OK;
    LKS_TRY(
        lks_idx_read(encoder->idx, fields[0], now * lks_idx_header_of(encoder->idx)->record_bytes));
    for (uint64_t i = 0; i < now; ++i)
        ((int32_t *)fields[1])[i] = -1;
    encoder->images_left -= now;
    *count = (int64_t)now;
    return encoder->images_left == 0 ? lks_idx_check_end(encoder->idx) : LKS_OK;
}

static lks_status encoder_next_table(lks_encoder *encoder, int64_t max_count, void *const *fields,
                                     int64_t *count)
{
    const lks_table_rules *rules = &encoder->rules;
    for (; *count < max_count; ++*count) {
        lks_csv_row row;
        bool end;
        LKS_TRY(lks_csv_next(encoder->csv, &row, &end));
        if (end)
            return LKS_OK;
        LKS_TRY(lks_table_check_width(encoder->path, &row, encoder->binding.field_count));
        LKS_TRY(lks_table_encode(rules, &encoder->binding, &row, encoder->path,
                                 (float *)fields[0] + *count * rules->features));
        if (rules->classes.count > 0)
            ((int32_t *)fields[1])[*count] = -1;
        else
            ((float *)fields[1])[*count] = NAN;
    }
    return LKS_OK;
}

lks_status lks_encoder_next(lks_encoder *encoder, int64_t max_count, void *const *fields,
                            int64_t *count)
{
    *count = 0;
    if (!encoder->path)
        return LKS_OK;
    switch (encoder->kind) {
    case LKS_DATA_TEXT:
        return encoder_next_text(encoder, max_count, fields, count);
    case LKS_DATA_IMAGES:
        return encoder_next_images(encoder, max_count, fields, count);
    case LKS_DATA_TABLE:
        return encoder_next_table(encoder, max_count, fields, count);
    }
    return LKS_OK;
}

int64_t lks_encoder_prompt_length(const lks_encoder *encoder, int64_t i)
{
    return encoder->lengths[i];
}

const char *lks_encoder_prompt(const lks_encoder *encoder, int64_t i)
{
    return encoder->prompts[i];
}

const char *lks_encoder_class_name(const lks_encoder *encoder, int64_t i)
{
    if (encoder->kind == LKS_DATA_IMAGES)
        return i >= 0 && i < encoder->classes ? encoder->labels[i] : NULL;
    const lks_table_words *classes = &encoder->rules.classes;
    return i >= 0 && (uint64_t)i < classes->count ? classes->words[i] : NULL;
}

double lks_encoder_number(const lks_encoder *encoder, double standardised)
{
    return standardised * encoder->rules.target_deviation + encoder->rules.target_mean;
}
