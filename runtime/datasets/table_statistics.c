#include "runtime/datasets/table_statistics.h"

#include "runtime/base/memory.h"
#include "runtime/datasets/table_rules.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

lks_status lks_table_statistics_init(lks_table_statistics *statistics, bool want_values,
                                     size_t most_values)
{
    *statistics = (lks_table_statistics){
        .want_values = want_values, .most_values = most_values, .numbers = true};
    if (want_values && !(statistics->values = json_object()))
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the values of a column");
    return LKS_OK;
}

void lks_table_statistics_release(lks_table_statistics *statistics)
{
    json_decref(statistics->values);
    lks_memory_free(statistics->moments);
    *statistics = (lks_table_statistics){0};
}

lks_status lks_table_statistics_start_chunk(lks_table_statistics *statistics, uint64_t chunk)
{
    LKS_TRY(
        LKS_GROW(&statistics->moments, &statistics->moment_capacity, statistics->moment_count + 1));
    statistics->moments[statistics->moment_count++] = (lks_table_moments){.chunk = chunk};
    return LKS_OK;
}

static lks_status add_value(lks_table_statistics *statistics, const char *text)
{
    json_t *values = statistics->values;
    if (!values || json_object_get(values, text))
        return LKS_OK;
    if (json_object_set_new(values, text, json_true()) != 0)
        return LKS_FAIL(LKS_ERR_CORRUPT, "a value is not UTF-8: convert the file");
    if (json_object_size(values) > statistics->most_values) {
        json_decref(values);
        statistics->values = NULL;
        statistics->too_many = true;
    }
    return LKS_OK;
}

lks_status lks_table_statistics_add(lks_table_statistics *statistics, const char *text)
{
    double value;
    if (!text) {
        statistics->missing++;
        return LKS_OK;
    }
    statistics->present++;
    statistics->numbers = statistics->numbers && lks_table_parse_number(text, &value);
    if (statistics->numbers) {
        statistics->fractions = statistics->fractions || floor(value) != value;
        lks_table_moments *m = &statistics->moments[statistics->moment_count - 1];
        double step = value - m->mean;
        m->mean += step / (double)++m->count;
        m->squares += step * (value - m->mean);
    }
    return add_value(statistics, text);
}

static json_t *moments_to_json(const lks_table_statistics *statistics)
{
    json_t *list = json_array();
    for (size_t i = 0; i < statistics->moment_count; ++i) {
        const lks_table_moments *m = &statistics->moments[i];
        bool finite = isfinite(m->mean) && isfinite(m->squares);
        json_array_append_new(list,
                              json_pack("[I, I, f, f]", (json_int_t)m->chunk, (json_int_t)m->count,
                                        finite ? m->mean : 0.0, finite ? m->squares : -1.0));
    }
    return list;
}

json_t *lks_table_statistics_to_json(const lks_table_statistics *statistics)
{
    json_t *values = json_array();
    const char *text;
    json_t *unused;
    json_object_foreach(statistics->values, text, unused)
        json_array_append_new(values, json_string(text));
    return json_pack("{s:I, s:I, s:b, s:b, s:b, s:o, s:o}", "present",
                     (json_int_t)statistics->present, "missing", (json_int_t)statistics->missing,
                     "numbers", statistics->numbers, "fractions", statistics->fractions, "too_many",
                     statistics->too_many, "values", values, "moments",
                     moments_to_json(statistics));
}

static lks_status merge_moments(lks_table_statistics *statistics, const json_t *list)
{
    size_t i;
    json_t *entry;
    json_array_foreach(list, i, entry)
    {
        LKS_TRY(lks_table_statistics_start_chunk(
            statistics, (uint64_t)json_integer_value(json_array_get(entry, 0))));
        lks_table_moments *m = &statistics->moments[statistics->moment_count - 1];
        m->count = (uint64_t)json_integer_value(json_array_get(entry, 1));
        m->mean = json_number_value(json_array_get(entry, 2));
        m->squares = json_number_value(json_array_get(entry, 3));
        if (m->squares < 0)
            m->squares = INFINITY;
    }
    return LKS_OK;
}

lks_status lks_table_statistics_merge(lks_table_statistics *statistics, const json_t *one)
{
    statistics->present += (uint64_t)json_integer_value(json_object_get(one, "present"));
    statistics->missing += (uint64_t)json_integer_value(json_object_get(one, "missing"));
    statistics->numbers = statistics->numbers && json_is_true(json_object_get(one, "numbers"));
    statistics->fractions =
        statistics->fractions || json_is_true(json_object_get(one, "fractions"));
    if (json_is_true(json_object_get(one, "too_many"))) {
        json_decref(statistics->values);
        statistics->values = NULL;
        statistics->too_many = true;
    }
    size_t i;
    json_t *value;
    json_array_foreach(json_object_get(one, "values"), i, value)
        LKS_TRY(add_value(statistics, json_string_value(value)));
    return merge_moments(statistics, json_object_get(one, "moments"));
}

static int compare_moments(const void *a, const void *b)
{
    uint64_t x = ((const lks_table_moments *)a)->chunk, y = ((const lks_table_moments *)b)->chunk;
    return x < y ? -1 : x > y;
}

void lks_table_statistics_combine(lks_table_statistics *statistics)
{
    if (statistics->moment_count > 0)
        qsort(statistics->moments, statistics->moment_count, sizeof *statistics->moments,
              compare_moments);
    lks_table_moments total = {0};
    for (size_t i = 0; i < statistics->moment_count; ++i) {
        const lks_table_moments *m = &statistics->moments[i];
        if (m->count == 0)
            continue;
        if (total.count == 0) {
            total = *m;
            continue;
        }
        double step = m->mean - total.mean, count = (double)(total.count + m->count);
        total.squares +=
            m->squares + step * step * ((double)total.count * (double)m->count / count);
        total.mean += step * ((double)m->count / count);
        total.count += m->count;
    }
    statistics->total = total;
}

double lks_table_statistics_deviation(const lks_table_statistics *statistics)
{
    const lks_table_moments *total = &statistics->total;
    double deviation = total->count > 0 ? sqrt(total->squares / (double)total->count) : 0;
    return deviation > 0 ? deviation : 1;
}

static int compare_texts(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int compare_numbers(const void *a, const void *b)
{
    double x = 0, y = 0;
    lks_table_parse_number(*(const char *const *)a, &x);
    lks_table_parse_number(*(const char *const *)b, &y);
    return x < y ? -1 : x > y ? 1 : compare_texts(a, b);
}

json_t *lks_table_statistics_sorted(const lks_table_statistics *statistics, bool numeric)
{
    size_t count = json_object_size(statistics->values), i = 0;
    const char **texts;
    if (LKS_NEW_ARRAY(&texts, count) != LKS_OK)
        return NULL;
    const char *text;
    json_t *unused;
    json_object_foreach(statistics->values, text, unused) texts[i++] = text;
    qsort(texts, count, sizeof *texts, numeric ? compare_numbers : compare_texts);
    json_t *sorted = json_array();
    for (i = 0; i < count; ++i)
        json_array_append_new(sorted, json_string(texts[i]));
    lks_memory_free(texts);
    return sorted;
}
