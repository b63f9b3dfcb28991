#include "runtime/datasets/table_rules.h"

#include "runtime/base/json.h"
#include "runtime/base/memory.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

bool lks_table_parse_delimiter(const char *text, char *out)
{
    if (strcmp(text, "tab") == 0 || strcmp(text, "\\t") == 0)
        text = "\t";
    *out = text[0];
    return text[0] != '\0' && text[1] == '\0' && !strchr("\"\n\r", text[0]) &&
           (unsigned char)text[0] < 0x80;
}

bool lks_table_words_hold(const lks_table_words *words, const char *text)
{
    for (size_t i = 0; i < words->count; ++i) {
        if (strcmp(words->words[i], text) == 0)
            return true;
    }
    return false;
}

static const char *skip_digits(const char *p, bool *any)
{
    for (; *p >= '0' && *p <= '9'; ++p)
        *any = true;
    return p;
}

bool lks_table_parse_number(const char *text, double *out)
{
    bool mantissa = false, exponent = true;
    const char *p = text + (*text == '+' || *text == '-');
    p = skip_digits(p, &mantissa);
    if (*p == '.')
        p = skip_digits(p + 1, &mantissa);
    if (*p == 'e' || *p == 'E') {
        exponent = false;
        ++p;
        p = skip_digits(p + (*p == '+' || *p == '-'), &exponent);
    }
    if (!mantissa || !exponent || *p != '\0')
        return false;
    *out = strtod(text, NULL);
    return isfinite(*out);
}

static lks_status read_words(lks_table_rules *rules, const json_t *object, const char *name,
                             const char *key, lks_table_words *out)
{
    json_t *array;
    LKS_TRY(lks_json_get_array(object, name, key, &array));
    out->count = json_array_size(array);
    out->words = lks_arena_allocate(rules->arena, (out->count + 1) * sizeof *out->words);
    if (!out->words)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory for %s", name, key);
    for (size_t i = 0; i < out->count; ++i) {
        const char *text = json_string_value(json_array_get(array, i));
        if (!text)
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: %s[%zu] is not a text", name, key, i);
        out->words[i] = lks_arena_copy(rules->arena, text);
        if (!out->words[i])
            return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory for %s", name, key);
    }
    return LKS_OK;
}

static lks_status read_text(lks_table_rules *rules, const json_t *object, const char *name,
                            const char *key, const char **out)
{
    const char *text;
    LKS_TRY(lks_json_get_string(object, name, key, &text));
    *out = lks_arena_copy(rules->arena, text);
    return *out ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory for %s", name, key);
}

static lks_status read_scale(const json_t *object, const char *name, double *mean,
                             double *deviation)
{
    LKS_TRY(lks_json_get_number(object, name, "mean", mean));
    LKS_TRY(lks_json_get_number(object, name, "deviation", deviation));
    if (!(*deviation > 0))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: deviation is %g, expected a positive number", name,
                        *deviation);
    return LKS_OK;
}

static lks_status read_category(lks_table_rules *rules, const json_t *json, const char *name,
                                lks_table_column *column)
{
    LKS_TRY(read_words(rules, json, name, "categories", &column->categories));
    const lks_table_words *words = &column->categories;
    for (size_t i = 1; i < words->count; ++i) {
        if (strcmp(words->words[i - 1], words->words[i]) >= 0)
            return LKS_FAIL(LKS_ERR_CORRUPT, "%s: its categories are not in byte order", name);
    }
    column->feature_count = (int64_t)words->count;
    return LKS_OK;
}

static lks_status read_column(lks_table_rules *rules, const json_t *json, const char *name,
                              lks_table_column *column)
{
    const char *type;
    LKS_TRY(read_text(rules, json, name, "name", &column->name));
    LKS_TRY(lks_json_get_string(json, name, "type", &type));
    column->category = strcmp(type, "category") == 0;
    if (column->category)
        return read_category(rules, json, name, column);
    if (strcmp(type, "number") != 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: type is \"%s\", expected number or category", name,
                        type);
    column->indicator = json_is_true(json_object_get(json, "indicator"));
    column->feature_count = column->indicator ? 2 : 1;
    return read_scale(json, name, &column->mean, &column->deviation);
}

static lks_status read_columns(lks_table_rules *rules, const json_t *schema, const char *name)
{
    json_t *array;
    LKS_TRY(lks_json_get_array(schema, name, "columns", &array));
    rules->column_count = json_array_size(array);
    rules->columns =
        lks_arena_allocate(rules->arena, (rules->column_count + 1) * sizeof *rules->columns);
    if (!rules->columns)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory for its columns", name);
    for (size_t i = 0; i < rules->column_count; ++i) {
        lks_table_column *column = &rules->columns[i];
        const char *where = lks_arena_format(rules->arena, "%s: columns[%zu]", name, i);
        LKS_TRY(read_column(rules, json_array_get(array, i), where ? where : name, column));
        column->first_feature = rules->features;
        rules->features += column->feature_count;
    }
    int64_t stated;
    LKS_TRY(lks_json_get_integer(schema, name, "features", 1, INT32_MAX, &stated));
    if (stated != rules->features)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: says %" PRId64 " features, its columns have %" PRId64,
                        name, stated, rules->features);
    return LKS_OK;
}

typedef struct class_text {
    const char *text;
    uint32_t number;
} class_text;

static int compare_class_texts(const void *a, const void *b)
{
    return strcmp(((const class_text *)a)->text, ((const class_text *)b)->text);
}

static lks_status sort_classes(lks_table_rules *rules, const char *name)
{
    size_t count = rules->classes.count;
    class_text *texts;
    LKS_TRY(LKS_NEW_ARRAY(&texts, count));
    for (size_t i = 0; i < count; ++i)
        texts[i] = (class_text){rules->classes.words[i], (uint32_t)i};
    qsort(texts, count, sizeof *texts, compare_class_texts);
    rules->classes_by_text = lks_arena_allocate(rules->arena, (count + 1) * sizeof(uint32_t));
    for (size_t i = 0; rules->classes_by_text && i < count; ++i)
        rules->classes_by_text[i] = texts[i].number;
    lks_memory_free(texts);
    return rules->classes_by_text ? LKS_OK
                                  : LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory for classes", name);
}

static lks_status read_target(lks_table_rules *rules, const json_t *schema, const char *name)
{
    int64_t classes;
    json_t *target;
    LKS_TRY(lks_json_get_integer(schema, name, "classes", 0, INT32_MAX, &classes));
    LKS_TRY(lks_json_get_object(schema, name, "target", &target));
    LKS_TRY(read_text(rules, target, name, "name", &rules->target));
    if (classes == 0)
        return read_scale(target, name, &rules->target_mean, &rules->target_deviation);
    LKS_TRY(read_words(rules, target, name, "classes", &rules->classes));
    if ((int64_t)rules->classes.count != classes)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: says %" PRId64 " classes, its target names %zu", name,
                        classes, rules->classes.count);
    return sort_classes(rules, name);
}

static lks_status read_file_rules(lks_table_rules *rules, const json_t *schema, const char *name)
{
    const char *delimiter;
    LKS_TRY(read_words(rules, schema, name, "missing", &rules->missing));
    LKS_TRY(lks_json_get_string(schema, name, "delimiter", &delimiter));
    if (!lks_table_parse_delimiter(delimiter, &rules->delimiter))
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: delimiter is \"%s\", expected one character", name,
                        delimiter);
    return LKS_OK;
}

lks_status lks_table_rules_read(lks_table_rules *rules, const json_t *schema, const char *name)
{
    *rules = (lks_table_rules){0};
    LKS_TRY(lks_arena_create(&rules->arena));
    LKS_TRY(read_file_rules(rules, schema, name));
    LKS_TRY(read_columns(rules, schema, name));
    return read_target(rules, schema, name);
}

void lks_table_rules_release(lks_table_rules *rules)
{
    lks_arena_destroy(rules->arena);
    *rules = (lks_table_rules){0};
}

static size_t find_field(const lks_csv_row *header, const char *name)
{
    size_t i = 0;
    while (i < header->count && strcmp(header->fields[i], name) != 0)
        ++i;
    return i < header->count ? i : SIZE_MAX;
}

lks_status lks_table_bind(const lks_table_rules *rules, const lks_csv_row *header, const char *path,
                          lks_table_binding *binding)
{
    *binding = (lks_table_binding){.field_count = header->count};
    LKS_TRY(LKS_NEW_ARRAY(&binding->field_of_column, rules->column_count));
    binding->target_field = find_field(header, rules->target);
    for (size_t i = 0; i < rules->column_count; ++i) {
        binding->field_of_column[i] = find_field(header, rules->columns[i].name);
        if (binding->field_of_column[i] == SIZE_MAX)
            return LKS_FAIL(LKS_ERR_CORRUPT,
                            "%s: has no column %s, with which the dataset was prepared", path,
                            rules->columns[i].name);
    }
    return LKS_OK;
}

void lks_table_binding_release(lks_table_binding *binding)
{
    lks_memory_free(binding->field_of_column);
    binding->field_of_column = NULL;
}

lks_status lks_table_check_width(const char *path, const lks_csv_row *row, size_t field_count)
{
    if (row->count == field_count)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_CORRUPT, "%s:%" PRIu64 ": %zu field%s, the header has %zu", path,
                    row->line, row->count, row->count == 1 ? "" : "s", field_count);
}

static int compare_words(const void *key, const void *word)
{
    return strcmp(key, *(const char *const *)word);
}

/* The number in original units, standardised; LKS_ERR_CORRUPT when it is none or overflows. */
static lks_status standardise(const char *text, double mean, double deviation, const char *column,
                              const lks_csv_row *row, const char *path, float *out)
{
    double value;
    if (!lks_table_parse_number(text, &value))
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s:%" PRIu64
                        ": column %s holds numbers, found \"%s\": mend it, or list it "
                        "in `missing`, or set `types` to %s:category",
                        path, row->line, column, text, column);
    *out = (float)((value - mean) / deviation);
    if (!isfinite(*out))
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s:%" PRIu64 ": column %s: %s is too large to standardise", path,
                        row->line, column, text);
    return LKS_OK;
}

static lks_status encode_column(const lks_table_rules *rules, const lks_table_column *column,
                                const char *text, const lks_csv_row *row, const char *path,
                                float *out)
{
    memset(out, 0, (size_t)column->feature_count * sizeof *out);
    bool missing = lks_table_words_hold(&rules->missing, text);
    if (column->category) {
        const lks_table_words *words = &column->categories;
        const char **found = missing ? NULL
                                     : bsearch(text, words->words, words->count,
                                               sizeof *words->words, compare_words);
        if (found)
            out[found - words->words] = 1;
        return LKS_OK;
    }
    if (missing && column->indicator)
        out[1] = 1;
    if (missing)
        return LKS_OK;
    return standardise(text, column->mean, column->deviation, column->name, row, path, out);
}

lks_status lks_table_encode(const lks_table_rules *rules, const lks_table_binding *binding,
                            const lks_csv_row *row, const char *path, float *features)
{
    for (size_t i = 0; i < rules->column_count; ++i) {
        const lks_table_column *column = &rules->columns[i];
        const char *text = row->fields[binding->field_of_column[i]];
        LKS_TRY(encode_column(rules, column, text, row, path, features + column->first_feature));
    }
    return LKS_OK;
}

lks_status lks_table_encode_class(const lks_table_rules *rules, const lks_table_binding *binding,
                                  const lks_csv_row *row, const char *path, int32_t *out)
{
    const char *text = row->fields[binding->target_field];
    *out = -1;
    if (lks_table_words_hold(&rules->missing, text))
        return LKS_OK;
    size_t low = 0, high = rules->classes.count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        uint32_t number = rules->classes_by_text[middle];
        int order = strcmp(text, rules->classes.words[number]);
        if (order == 0) {
            *out = (int32_t)number;
            return LKS_OK;
        }
        if (order < 0)
            high = middle;
        else
            low = middle + 1;
    }
    return LKS_FAIL(LKS_ERR_CORRUPT,
                    "%s:%" PRIu64 ": the target %s is \"%s\", a class that the training part "
                    "lacks: shuffle before the cut, or leave the row out",
                    path, row->line, rules->target, text);
}

lks_status lks_table_encode_number(const lks_table_rules *rules, const lks_table_binding *binding,
                                   const lks_csv_row *row, const char *path, float *out)
{
    const char *text = row->fields[binding->target_field];
    *out = NAN;
    if (lks_table_words_hold(&rules->missing, text))
        return LKS_OK;
    return standardise(text, rules->target_mean, rules->target_deviation, rules->target, row, path,
                       out);
}
