/* What a sample of a dataset is: the fields that the loader delivers. */
#ifndef LKS_DATASETS_SCHEMA_H
#define LKS_DATASETS_SCHEMA_H

#include "runtime/base/tensor.h"

#include <stdbool.h>

typedef enum lks_data_kind { LKS_DATA_TEXT, LKS_DATA_IMAGES, LKS_DATA_TABLE } lks_data_kind;

/* Fields by kind, in this order:
 *   text:    "tokens" i32 [context], "targets" i32 [context] (the token after; -1: none, masked)
 *   images:  "image" u8 [height, width, channels], "target" i32 [] (-1: masked)
 *   table:   "features" f32 [features] (standardised, one-hot), "target": classes > 0: i32 [] (-1:
 *            masked); regression: f32 [1], standardised (NaN: masked) */
typedef struct lks_field {
    const char *name;
    lks_dtype dtype;
    lks_shape shape; /* of one sample, without the batch axis */
    bool target;
} lks_field;

enum { LKS_SCHEMA_FIELDS = 2 }; /* of every kind: what goes in, and the target */

typedef struct lks_schema {
    lks_data_kind kind;
    const lks_field *fields;
    int field_count;
    int64_t vocabulary;              /* text: ids are below it */
    int64_t context;                 /* text: tokens per sample, as asked for when opened */
    int64_t height, width, channels; /* images */
    int64_t features;                /* table */
    int64_t classes;                 /* images and classification tables; 0: regression or text */
    /* images: statistics over the training part, u8 scale, [channels]; NULL for other kinds */
    const float *channel_mean, *channel_deviation;
} lks_schema;

const char *lks_data_kind_name(lks_data_kind kind); /* "text", "images", "table" */
bool lks_data_kind_parse(const char *name, lks_data_kind *out);

/* Sets the schema's fields from its kind and sizes; `fields` must live as long as the schema. */
void lks_schema_set_fields(lks_schema *schema, lks_field fields[LKS_SCHEMA_FIELDS]);

/* Bytes of one value of a field, over its whole shape. */
size_t lks_field_bytes(const lks_field *field);

#endif
