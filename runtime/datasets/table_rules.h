/* How a row of a table becomes numbers: fixed on the training part, kept in the manifest's schema,
 * and used unchanged for the validation part and by predict.
 *
 * Features stand in the order of the columns: a number gives (x - mean) / deviation and, where the
 * training part had missing values, an indicator after it (1: missing, the number is 0 then); a
 * category gives one feature per value of the training part, all 0 for a missing or unseen value.
 */
#ifndef LKS_DATASETS_TABLE_RULES_H
#define LKS_DATASETS_TABLE_RULES_H

#include "runtime/base/status.h"
#include "runtime/datasets/csv.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

struct lks_arena;

typedef struct lks_table_words {
    const char **words;
    size_t count;
} lks_table_words;

typedef struct lks_table_column {
    const char *name;
    bool category;
    double mean, deviation;
    bool indicator;
    lks_table_words categories; /* in byte order */
    int64_t first_feature, feature_count;
} lks_table_column;

typedef struct lks_table_rules {
    lks_table_column *columns;
    size_t column_count;
    int64_t features;
    const char *target;
    lks_table_words classes;   /* count 0: regression */
    uint32_t *classes_by_text; /* the classes' numbers in byte order of their texts */
    double target_mean, target_deviation;
    lks_table_words missing; /* texts that mean a missing value */
    char delimiter;
    struct lks_arena *arena; /* owns all */
} lks_table_rules;

/* `name` (a file) is for messages. Release in either case. */
lks_status lks_table_rules_read(lks_table_rules *rules, const json_t *schema,
                                const char *name) LKS_MUST_CHECK;
void lks_table_rules_release(lks_table_rules *rules);

/* Where the columns lie in one file. */
typedef struct lks_table_binding {
    size_t *field_of_column; /* [column_count] */
    size_t target_field;     /* SIZE_MAX: the file has none */
    size_t field_count;
} lks_table_binding;

/* A column that the header lacks is LKS_ERR_CORRUPT. */
lks_status lks_table_bind(const lks_table_rules *rules, const lks_csv_row *header, const char *path,
                          lks_table_binding *binding) LKS_MUST_CHECK;
void lks_table_binding_release(lks_table_binding *binding);

/* LKS_ERR_CORRUPT "path:line: 4 fields, the header has 5". */
lks_status lks_table_check_width(const char *path, const lks_csv_row *row,
                                 size_t field_count) LKS_MUST_CHECK;
/* features[rules->features]. Text in a number's column is LKS_ERR_CORRUPT. */
lks_status lks_table_encode(const lks_table_rules *rules, const lks_table_binding *binding,
                            const lks_csv_row *row, const char *path,
                            float *features) LKS_MUST_CHECK;
/* Missing: -1. A class that the training part lacks is LKS_ERR_CORRUPT. */
lks_status lks_table_encode_class(const lks_table_rules *rules, const lks_table_binding *binding,
                                  const lks_csv_row *row, const char *path,
                                  int32_t *out) LKS_MUST_CHECK;
/* Missing: NaN. */
lks_status lks_table_encode_number(const lks_table_rules *rules, const lks_table_binding *binding,
                                   const lks_csv_row *row, const char *path,
                                   float *out) LKS_MUST_CHECK;

/* [+-] digits [. digits] [e [+-] digits], finite, nothing before or after. */
bool lks_table_parse_number(const char *text, double *out);
bool lks_table_words_hold(const lks_table_words *words, const char *text);
/* "," "tab" and other single bytes; false for a text that cannot be a delimiter. */
bool lks_table_parse_delimiter(const char *text, char *out);

#endif
