/* Tables: CSV files with a header, whose columns become f32 features. */
#include "runtime/base/memory.h"
#include "runtime/datasets/format_driver.h"
#include "runtime/datasets/gather.h"
#include "runtime/datasets/table_options.h"
#include "runtime/datasets/table_rows.h"
#include "runtime/datasets/table_rules.h"
#include "runtime/datasets/table_statistics.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

enum { CHUNK_ROWS = 65536, CLASSES_GUESSED_MOST = 20 };

typedef struct table_source {
    const lks_format_job *job;
    lks_arena *arena;
    lks_table_rows *rows;
    lks_table_role *roles; /* of the header's columns */
    lks_table_words missing;
    char delimiter;
    json_t *schema;
    lks_table_rules rules;
    lks_table_binding binding;
    lks_shard_array arrays[2];
} table_source;

static void table_close(void *handle)
{
    table_source *source = handle;
    if (!source)
        return;
    lks_table_rows_close(source->rows);
    lks_table_rules_release(&source->rules);
    lks_table_binding_release(&source->binding);
    json_decref(source->schema);
    lks_arena_destroy(source->arena);
    lks_memory_free(source);
}

static lks_status table_start(table_source **out, const lks_format_job *job)
{
    const lks_table_options *options = job->options;
    table_source *source;
    LKS_TRY(LKS_NEW(&source));
    *out = source;
    source->job = job;
    LKS_TRY(lks_arena_create(&source->arena));
    if (!lks_table_parse_delimiter(options->delimiter, &source->delimiter))
        return LKS_FAIL(LKS_ERR_USAGE, "delimiter: \"%s\": give one character, or tab",
                        options->delimiter);
    return lks_table_split(source->arena, options->missing, &source->missing);
}

static lks_status table_assign(table_source *source)
{
    const lks_csv_row *header = lks_table_rows_header(source->rows);
    source->roles = lks_arena_allocate(source->arena, header->count * sizeof *source->roles);
    if (!source->roles)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the columns");
    return lks_table_assign_roles(source->job->options, header, source->arena, source->roles);
}

static lks_status table_open(void **out, const lks_format_job *job)
{
    const lks_parallel *parallel = job->parallel;
    table_source *source = NULL;
    lks_status status = parallel->agree(parallel->user, table_start(&source, job));
    if (status == LKS_OK)
        status = lks_table_rows_open(&source->rows, job, source->delimiter);
    if (status == LKS_OK)
        status = parallel->agree(parallel->user, table_assign(source));
    if (status != LKS_OK)
        table_close(source);
    else
        *out = source;
    return status;
}

static uint64_t table_records(const void *handle)
{
    return lks_table_rows_count(((const table_source *)handle)->rows);
}

static lks_status table_add_row(const table_source *source, const lks_csv_row *row,
                                const char *path, lks_table_statistics *statistics)
{
    for (size_t i = 0; i < row->count; ++i) {
        if (source->roles[i] == LKS_COLUMN_IGNORED)
            continue;
        bool missing = lks_table_words_hold(&source->missing, row->fields[i]);
        lks_status status =
            lks_table_statistics_add(&statistics[i], missing ? NULL : row->fields[i]);
        if (status == LKS_ERR_CORRUPT)
            return LKS_FAIL(status,
                            "%s:%" PRIu64 ": column %s holds text that is not UTF-8: "
                            "convert the file",
                            path, row->line, lks_table_rows_header(source->rows)->fields[i]);
        LKS_TRY(status);
    }
    return LKS_OK;
}

static lks_status table_add_chunk(table_source *source, const lks_format_part *training,
                                  uint64_t chunk, lks_table_statistics *statistics)
{
    uint64_t first = chunk * CHUNK_ROWS, end = first + CHUNK_ROWS;
    size_t columns = lks_table_rows_header(source->rows)->count;
    for (size_t i = 0; i < columns; ++i)
        LKS_TRY(lks_table_statistics_start_chunk(&statistics[i], chunk));
    for (uint64_t i = first; i < end && i < training->count; ++i) {
        lks_csv_row row;
        const char *path;
        LKS_TRY(lks_table_rows_read(source->rows, lks_format_record(training, i), &row, &path));
        LKS_TRY(table_add_row(source, &row, path, statistics));
    }
    return LKS_OK;
}

static lks_status table_init_statistics(const table_source *source,
                                        lks_table_statistics *statistics)
{
    const lks_table_options *options = source->job->options;
    for (size_t i = 0; i < lks_table_rows_header(source->rows)->count; ++i) {
        lks_table_role role = source->roles[i];
        bool want = role == LKS_COLUMN_AUTO || role == LKS_COLUMN_CATEGORY ||
                    (role == LKS_COLUMN_TARGET && options->task != LKS_TASK_NUMBER);
        size_t most = (size_t)options->max_categories;
        if (role == LKS_COLUMN_TARGET && most < CLASSES_GUESSED_MOST)
            most = CLASSES_GUESSED_MOST;
        LKS_TRY(lks_table_statistics_init(&statistics[i], want, most));
    }
    return LKS_OK;
}

static lks_status table_learn_share(table_source *source, const lks_format_part *training,
                                    lks_table_statistics *statistics, json_t *out)
{
    const lks_parallel *parallel = source->job->parallel;
    uint64_t chunks = (training->count - 1) / CHUNK_ROWS + 1;
    LKS_TRY(table_init_statistics(source, statistics));
    for (uint64_t c = (uint64_t)parallel->rank; c < chunks; c += (uint64_t)parallel->size)
        LKS_TRY(table_add_chunk(source, training, c, statistics));
    for (size_t i = 0; i < lks_table_rows_header(source->rows)->count; ++i) {
        if (json_array_append_new(out, lks_table_statistics_to_json(&statistics[i])) != 0)
            return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the statistics of a column");
    }
    return LKS_OK;
}

static void table_release_statistics(lks_table_statistics *statistics, size_t count)
{
    for (size_t i = 0; statistics && i < count; ++i)
        lks_table_statistics_release(&statistics[i]);
}

static lks_status table_merge(const table_source *source, const json_t *by_rank,
                              lks_table_statistics *statistics)
{
    size_t columns = lks_table_rows_header(source->rows)->count;
    table_release_statistics(statistics, columns);
    LKS_TRY(table_init_statistics(source, statistics));
    for (size_t i = 0; i < columns; ++i) {
        for (size_t r = 0; r < json_array_size(by_rank); ++r)
            LKS_TRY(lks_table_statistics_merge(&statistics[i],
                                               json_array_get(json_array_get(by_rank, r), i)));
        lks_table_statistics_combine(&statistics[i]);
    }
    return LKS_OK;
}

static lks_status table_check_finite(const char *name, const lks_table_statistics *statistics)
{
    if (isfinite(statistics->total.mean) && isfinite(statistics->total.squares))
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_CORRUPT,
                    "column %s: its numbers are too large to standardise: rescale them, or list it "
                    "in --ignore",
                    name);
}

/* The rule of one column; *features grows by what it gives. */
static lks_status table_column_rule(const char *name, lks_table_role role,
                                    const lks_table_statistics *statistics, int64_t most,
                                    json_t **out, int64_t *features)
{
    bool number = role == LKS_COLUMN_NUMBER || (role == LKS_COLUMN_AUTO && statistics->numbers);
    if (number) {
        LKS_TRY(table_check_finite(name, statistics));
        bool indicator = statistics->missing > 0;
        *features += indicator ? 2 : 1;
        *out = json_pack("{s:s, s:s, s:f, s:f, s:b}", "name", name, "type", "number", "mean",
                         statistics->total.mean, "deviation",
                         lks_table_statistics_deviation(statistics), "indicator", indicator);
    } else {
        if (statistics->too_many)
            return LKS_FAIL(LKS_ERR_USAGE,
                            "column %s has more than %" PRId64 " different values: list it in "
                            "--ignore, or raise --max-categories",
                            name, most);
        json_t *values = lks_table_statistics_sorted(statistics, false);
        *features += (int64_t)json_array_size(values);
        *out = json_pack("{s:s, s:s, s:o}", "name", name, "type", "category", "categories", values);
    }
    return *out ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the rule of a column");
}

static lks_status table_class_rule(const char *name, const lks_table_statistics *statistics,
                                   int64_t most, json_t **out, int64_t *classes)
{
    if (statistics->too_many || (int64_t)json_object_size(statistics->values) > most)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "target %s has more than %" PRId64 " classes: set --task regression, or "
                        "raise --max-categories",
                        name, most);
    *classes = (int64_t)json_object_size(statistics->values);
    if (*classes < 2)
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "target %s: the training part has one class alone: shuffle before the cut, "
                        "or name another target",
                        name);
    bool numeric = statistics->numbers && !statistics->fractions;
    *out = json_pack("{s:s, s:o}", "name", name, "classes",
                     lks_table_statistics_sorted(statistics, numeric));
    return LKS_OK;
}

static lks_status table_target_rule(const table_source *source, const char *name,
                                    const lks_table_statistics *statistics, json_t **out,
                                    int64_t *classes)
{
    const lks_table_options *options = source->job->options;
    if (statistics->present == 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "target %s: every value of the training part is missing",
                        name);
    bool many = statistics->too_many || json_object_size(statistics->values) > CLASSES_GUESSED_MOST;
    bool number =
        options->task == LKS_TASK_NUMBER ||
        (options->task == LKS_TASK_AUTO && statistics->numbers && (statistics->fractions || many));
    if (number) {
        *classes = 0;
        LKS_TRY(table_check_finite(name, statistics));
        *out = json_pack("{s:s, s:f, s:f}", "name", name, "mean", statistics->total.mean,
                         "deviation", lks_table_statistics_deviation(statistics));
    } else {
        LKS_TRY(table_class_rule(name, statistics, options->max_categories, out, classes));
    }
    return *out ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the rule of the target");
}

static json_t *table_missing_to_json(const table_source *source)
{
    json_t *list = json_array();
    for (size_t i = 0; i < source->missing.count; ++i)
        json_array_append_new(list, json_string(source->missing.words[i]));
    return list;
}

static lks_status table_fill_schema(const table_source *source,
                                    const lks_table_statistics *statistics, json_t *columns,
                                    json_t *schema)
{
    const lks_table_options *options = source->job->options;
    const lks_csv_row *header = lks_table_rows_header(source->rows);
    int64_t features = 0, classes = 0;
    json_t *target = NULL;
    for (size_t i = 0; i < header->count; ++i) {
        const char *name = header->fields[i];
        if (source->roles[i] == LKS_COLUMN_TARGET) {
            LKS_TRY(table_target_rule(source, name, &statistics[i], &target, &classes));
        } else if (source->roles[i] != LKS_COLUMN_IGNORED) {
            json_t *column = NULL;
            lks_status status = table_column_rule(name, source->roles[i], &statistics[i],
                                                  options->max_categories, &column, &features);
            json_array_append_new(columns, column);
            if (status != LKS_OK)
                json_decref(target);
            LKS_TRY(status);
        }
    }
    char delimiter[2] = {source->delimiter, '\0'};
    json_object_set_new(schema, "features", json_integer(features));
    json_object_set_new(schema, "classes", json_integer(classes));
    json_object_set(schema, "columns", columns);
    json_object_set_new(schema, "target", target);
    json_object_set_new(schema, "missing", table_missing_to_json(source));
    json_object_set_new(schema, "delimiter", json_string(delimiter));
    if (features == 0)
        return LKS_FAIL(LKS_ERR_USAGE, "no column is left that could predict %s", options->target);
    return LKS_OK;
}

/* The rules are read back from the schema: predict will see the same. */
static lks_status table_make_rules(table_source *source, const lks_table_statistics *statistics)
{
    json_t *columns = json_array();
    source->schema = json_object();
    lks_status status = table_fill_schema(source, statistics, columns, source->schema);
    json_decref(columns);
    LKS_TRY(status);
    LKS_TRY(lks_table_rules_read(&source->rules, source->schema, "schema"));
    LKS_TRY(lks_table_bind(&source->rules, lks_table_rows_header(source->rows),
                           source->job->inputs->files[0].path, &source->binding));
    bool classes = source->rules.classes.count > 0;
    source->arrays[0] = (lks_shard_array){
        .name = "features", .dtype = LKS_F32, .shape = LKS_SHAPE(source->rules.features)};
    source->arrays[1] = (lks_shard_array){
        .name = "target", .dtype = classes ? LKS_I32 : LKS_F32, .shape = LKS_SCALAR};
    return LKS_OK;
}

static lks_status table_learn(void *handle, const lks_format_part *training)
{
    table_source *source = handle;
    const lks_parallel *parallel = source->job->parallel;
    size_t columns = lks_table_rows_header(source->rows)->count;
    lks_table_statistics *statistics = NULL;
    json_t *mine = json_array(), *by_rank = NULL;
    lks_status status = LKS_NEW_ARRAY(&statistics, columns);
    if (status == LKS_OK)
        status = table_learn_share(source, training, statistics, mine);
    status = lks_gather_json(parallel, status, mine, &by_rank);
    json_decref(mine);
    if (status == LKS_OK) {
        status = table_merge(source, by_rank, statistics);
        if (status == LKS_OK)
            status = table_make_rules(source, statistics);
        status = parallel->agree(parallel->user, status);
        json_decref(by_rank);
    }
    table_release_statistics(statistics, columns);
    lks_memory_free(statistics);
    return status;
}

static const lks_shard_array *table_arrays(const void *handle, int *count)
{
    *count = 2;
    return ((const table_source *)handle)->arrays;
}

static lks_status table_read(void *handle, const lks_format_part *part, uint64_t index,
                             uint64_t count, void *const *data)
{
    table_source *source = handle;
    const lks_table_rules *rules = &source->rules;
    float *features = data[0];
    for (uint64_t i = 0; i < count; ++i, features += rules->features) {
        lks_csv_row row;
        const char *path;
        LKS_TRY(lks_table_rows_read(source->rows, lks_format_record(part, index + i), &row, &path));
        LKS_TRY(lks_table_encode(rules, &source->binding, &row, path, features));
        if (rules->classes.count > 0)
            LKS_TRY(lks_table_encode_class(rules, &source->binding, &row, path,
                                           (int32_t *)data[1] + i));
        else
            LKS_TRY(
                lks_table_encode_number(rules, &source->binding, &row, path, (float *)data[1] + i));
    }
    return LKS_OK;
}

static lks_status table_describe(const void *handle, json_t **schema, json_t **statistics)
{
    const table_source *source = handle;
    *schema = json_incref(source->schema);
    *statistics = NULL;
    return LKS_OK;
}

extern const lks_format_driver lks_table_format;
const lks_format_driver lks_table_format = {
    .name = "table",
    .about = "CSV files with a header and a target column",
    .options = lks_table_option_table,
    .options_bytes = sizeof(lks_table_options),
    .least_records = 1,
    .open = table_open,
    .close = table_close,
    .records = table_records,
    .learn = table_learn,
    .arrays = table_arrays,
    .read = table_read,
    .describe = table_describe,
};
