#include "runtime/datasets/schema.h"

#include <string.h>

static const char *const kind_names[] = {
    [LKS_DATA_TEXT] = "text",
    [LKS_DATA_IMAGES] = "images",
    [LKS_DATA_TABLE] = "table",
};

const char *lks_data_kind_name(lks_data_kind kind)
{
    return kind_names[kind];
}

bool lks_data_kind_parse(const char *name, lks_data_kind *out)
{
    for (size_t kind = 0; kind < sizeof kind_names / sizeof *kind_names; ++kind) {
        if (strcmp(name, kind_names[kind]) == 0) {
            *out = (lks_data_kind)kind;
            return true;
        }
    }
    return false;
}

static void set_target(lks_field *field, const lks_schema *schema)
{
    bool regression = schema->kind == LKS_DATA_TABLE && schema->classes == 0;
    *field = (lks_field){.name = "target",
                         .dtype = regression ? LKS_F32 : LKS_I32,
                         .shape = regression ? LKS_SHAPE(1) : LKS_SCALAR,
                         .target = true};
}

void lks_schema_set_fields(lks_schema *schema, lks_field fields[LKS_SCHEMA_FIELDS])
{
    set_target(&fields[1], schema);
    switch (schema->kind) {
    case LKS_DATA_TEXT:
        fields[0] = (lks_field){"tokens", LKS_I32, LKS_SHAPE(schema->context), false};
        fields[1] = (lks_field){"targets", LKS_I32, LKS_SHAPE(schema->context), true};
        break;
    case LKS_DATA_IMAGES:
        fields[0] = (lks_field){"image", LKS_U8,
                                LKS_SHAPE(schema->height, schema->width, schema->channels), false};
        break;
    case LKS_DATA_TABLE:
        fields[0] = (lks_field){"features", LKS_F32, LKS_SHAPE(schema->features), false};
        break;
    }
    schema->fields = fields;
    schema->field_count = LKS_SCHEMA_FIELDS;
}

size_t lks_field_bytes(const lks_field *field)
{
    return lks_shape_elements(&field->shape) * lks_dtype_bytes(field->dtype);
}
