/* The options of prepare table, and what they say of each column. */
#ifndef LKS_DATASETS_TABLE_OPTIONS_H
#define LKS_DATASETS_TABLE_OPTIONS_H

#include "runtime/base/options.h"
#include "runtime/datasets/csv.h"
#include "runtime/datasets/table_rules.h"

typedef enum lks_table_task { LKS_TASK_AUTO, LKS_TASK_CLASSES, LKS_TASK_NUMBER } lks_table_task;

typedef struct lks_table_options {
    const char *target;
    int task; /* lks_table_task */
    const char *types, *missing, *ignore;
    int64_t max_categories;
    const char *delimiter;
} lks_table_options;

extern const lks_option lks_table_option_table[];

typedef enum lks_table_role {
    LKS_COLUMN_AUTO,
    LKS_COLUMN_NUMBER,
    LKS_COLUMN_CATEGORY,
    LKS_COLUMN_IGNORED,
    LKS_COLUMN_TARGET,
} lks_table_role;

/* Splits at commas, in `arena`; "" is one empty word. */
lks_status lks_table_split(struct lks_arena *arena, const char *text,
                           lks_table_words *out) LKS_MUST_CHECK;
/* roles[header->count]. A name that the header lacks is LKS_ERR_USAGE, with the nearest. */
lks_status lks_table_assign_roles(const lks_table_options *options, const lks_csv_row *header,
                                  struct lks_arena *arena, lks_table_role *roles) LKS_MUST_CHECK;

#endif
