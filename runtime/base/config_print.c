#include "runtime/base/config_internal.h"
#include "runtime/base/yaml_text.h"

#include <string.h>

/* --- YAML ----------------------------------------------------------------- */

static bool config_is_plain(const char *text)
{
    static const char plain[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./+-";
    size_t length = strlen(text);
    return length > 0 && strspn(text, plain) == length && text[0] != '-' &&
           strcmp(text, "null") != 0;
}

static void config_print_value(const config_known *known, lks_text *out)
{
    lks_option_type type = known->type;
    bool number = type == LKS_OPTION_INTEGER || type == LKS_OPTION_NUMBER;
    if (type == LKS_OPTION_LIST)
        lks_text_append(out, "[");
    if (type == LKS_OPTION_LIST || number || config_is_plain(known->value)) {
        for (const char *c = known->value; *c; ++c)
            lks_text_append(out, *c == ',' ? ", " : "%c", *c);
    } else {
        lks_yaml_append_quoted(out, known->value);
    }
    if (type == LKS_OPTION_LIST)
        lks_text_append(out, "]");
}

static void config_print_origin(const char *origin, lks_text *out)
{
    lks_text_append(out, "  # ");
    for (; *origin; ++origin) /* a comment needs no more than to stay one line of YAML */
        lks_text_append(out, "%c", *origin < 0x20 || *origin == 0x7f ? '?' : *origin);
}

static void config_print_section(const lks_config *config, size_t first, bool origins,
                                 lks_text *out)
{
    const char *section = config->known[first].key;
    size_t length = strcspn(section, ".") + 1;
    lks_text_append(out, "%.*s:\n", (int)length - 1, section);
    for (size_t i = first; i < config->known_count; ++i) {
        const config_known *known = &config->known[i];
        if (!known->value || strncmp(known->key, section, length) != 0)
            continue;
        lks_text_append(out, "  %s: ", known->key + length);
        config_print_value(known, out);
        if (origins)
            config_print_origin(known->origin, out);
        lks_text_append(out, "\n");
    }
}

static bool config_section_is_done(const lks_config *config, size_t index)
{
    const char *key = config->known[index].key;
    size_t length = strcspn(key, ".") + 1;
    for (size_t i = 0; i < index; ++i)
        if (config->known[i].value && strncmp(config->known[i].key, key, length) == 0)
            return true;
    return false;
}

void lks_config_print_yaml(const lks_config *config, bool origins, lks_text *out)
{
    for (size_t i = 0; i < config->known_count; ++i)
        if (config->known[i].value && !config_section_is_done(config, i))
            config_print_section(config, i, origins, out);
}

/* --- JSON ----------------------------------------------------------------- */

static json_t *config_known_to_json(const config_known *known)
{
    json_t *origin = json_string(known->origin); /* NULL when a path is not UTF-8 */
    json_t *object = json_pack("{s:s, s:o, s:s}", "value", known->value, "origin",
                               origin ? origin : json_string("file"), "change",
                               lks_option_change_name(known->change));
    if (object && known->fallback)
        json_object_set_new(object, "default", json_string(known->fallback));
    return object;
}

json_t *lks_config_to_json(const lks_config *config)
{
    json_t *all = json_object();
    for (size_t i = 0; all && i < config->known_count; ++i) {
        const config_known *known = &config->known[i];
        if (!known->value)
            continue;
        if (json_object_set_new(all, known->key, config_known_to_json(known)) != 0) {
            json_decref(all);
            return NULL;
        }
    }
    return all;
}

/* --- Resuming ------------------------------------------------------------- */

static const char *config_recorded(const json_t *recorded, const char *key, const char *member)
{
    return json_string_value(json_object_get(json_object_get(recorded, key), member));
}

static lks_status config_compare(const char *key, lks_option_change change, const char *old,
                                 const char *new, const char *origin, lks_text *changes)
{
    if (strcmp(old ? old : "", new ? new : "") == 0 || change == LKS_OPTION_FREE)
        return LKS_OK;
    if (change == LKS_OPTION_FIXED)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%s is %s (%s), but this job began with %s and it cannot change: set it "
                        "back or start a new run",
                        key, new ? new : "not set", origin, old && old[0] ? old : "none");
    lks_text_append(changes, "%s%s: %s -> %s (%s)", changes->length ? ", " : "", key,
                    old ? old : "not set", new ? new : "not set", origin);
    return LKS_OK;
}

/* Keys that only the record has: of another driver, or of another version. */
static lks_status config_check_gone(const lks_config *config, const json_t *recorded,
                                    lks_text *changes)
{
    const char *key;
    json_t *member;
    json_object_foreach((json_t *)recorded, key, member)
    {
        const config_known *known = config_find_known(config, key);
        if (known && known->value)
            continue;
        const char *value = config_recorded(recorded, key, "value");
        const char *fallback = config_recorded(recorded, key, "default");
        const char *change = config_recorded(recorded, key, "change");
        if (!value || !change || (fallback && strcmp(value, fallback) == 0))
            continue;
        lks_option_change class = strcmp(change, "fixed") == 0       ? LKS_OPTION_FIXED
                                  : strcmp(change, "scheduled") == 0 ? LKS_OPTION_SCHEDULED
                                                                     : LKS_OPTION_FREE;
        LKS_TRY(config_compare(key, class, value, NULL, "now", changes));
    }
    return LKS_OK;
}

lks_status lks_config_check_resume(const lks_config *config, const json_t *recorded,
                                   lks_text *changes)
{
    for (size_t i = 0; i < config->known_count; ++i) {
        const config_known *known = &config->known[i];
        const char *old = config_recorded(recorded, known->key, "value");
        if (!known->value)
            continue;
        if (!old)
            old = known->fallback;
        LKS_TRY(
            config_compare(known->key, known->change, old, known->value, known->origin, changes));
    }
    return config_check_gone(config, recorded, changes);
}
