#include "runtime/datasets/provenance.h"

#include <string.h>

enum { SHARD_BYTES_DEFAULT = 64 << 20 };

int64_t lks_prepare_shard_bytes(const lks_prepare_spec *spec)
{
    return spec->shard_bytes > 0 ? spec->shard_bytes : SHARD_BYTES_DEFAULT;
}

static json_t *choice_value(const char *choices, int chosen)
{
    for (; chosen > 0; --chosen)
        choices = strchr(choices, '|') + 1;
    return json_stringn(choices, strcspn(choices, "|"));
}

static json_t *list_value(const lks_option_integers *list)
{
    json_t *array = json_array();
    for (size_t i = 0; i < list->count; ++i)
        json_array_append_new(array, json_integer(list->values[i]));
    return array;
}

static json_t *option_value(const lks_option *option, const void *options)
{
    const void *member = (const char *)options + option->offset;
    switch (option->type) {
    case LKS_OPTION_BOOL:
        return json_boolean(*(const bool *)member);
    case LKS_OPTION_INTEGER:
        return json_integer(*(const int64_t *)member);
    case LKS_OPTION_NUMBER:
        return json_real(*(const double *)member);
    case LKS_OPTION_TEXT:
        return json_string(*(const char *const *)member);
    case LKS_OPTION_CHOICE:
        return choice_value(option->choices, *(const int *)member);
    case LKS_OPTION_LIST:
        return list_value(member);
    }
    return NULL;
}

json_t *lks_provenance(const lks_prepare_spec *spec, const lks_format_driver *driver,
                       json_t *inputs)
{
    json_t *options = json_object();
    for (const lks_option *o = driver->options; o->name; ++o)
        json_object_set_new(options, o->name, option_value(o, spec->format_options));
    json_object_set_new(options, "split_validation", json_real(spec->validation_fraction));
    json_object_set_new(options, "shuffle",
                        spec->shuffle ? json_integer((json_int_t)spec->shuffle_seed)
                                      : json_false());
    json_object_set_new(options, "shard_bytes", json_integer(lks_prepare_shard_bytes(spec)));
    return json_pack("{s:s, s:s, s:o, s:O}", "lockstep", LKS_VERSION, "format", driver->name,
                     "options", options, "inputs", inputs);
}
