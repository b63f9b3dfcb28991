#include "runtime/base/config.h"

#include "runtime/base/config_internal.h"

#include <ctype.h>
#include <string.h>

lks_status lks_config_create(lks_config **out)
{
    lks_config *config;
    LKS_TRY(LKS_NEW(&config));
    lks_status status = lks_arena_create(&config->arena);
    config->entry_index = json_object();
    config->known_index = json_object();
    if (status == LKS_OK && (!config->entry_index || !config->known_index))
        status = LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the configuration");
    if (status != LKS_OK)
        lks_config_destroy(config);
    else
        *out = config;
    return status;
}

void lks_config_destroy(lks_config *config)
{
    if (!config)
        return;
    lks_arena_destroy(config->arena);
    lks_memory_free(config->entries);
    lks_memory_free(config->known);
    json_decref(config->entry_index);
    json_decref(config->known_index);
    lks_memory_free(config);
}

/* --- Settings ------------------------------------------------------------- */

config_entry *config_find_entry(const lks_config *config, const char *key)
{
    const json_t *index = json_object_get(config->entry_index, key);
    return index ? &config->entries[json_integer_value(index)] : NULL;
}

config_known *config_find_known(const lks_config *config, const char *key)
{
    const json_t *index = json_object_get(config->known_index, key);
    return index ? &config->known[json_integer_value(index)] : NULL;
}

static lks_status config_no_memory(const char *key)
{
    return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", key);
}

static bool config_is_utf8(const char *text)
{
    json_t *string = json_string(text); /* jansson refuses what is not */
    json_decref(string);
    return string != NULL;
}

static bool config_is_key(const char *key)
{
    const char *dot = strchr(key, '.');
    if (!dot || dot == key || dot[1] == '\0' || strchr(dot + 1, '.'))
        return false;
    return config_is_utf8(key);
}

static lks_status config_new_entry(lks_config *config, const char *key, config_entry **out)
{
    LKS_TRY(LKS_GROW(&config->entries, &config->entry_capacity, config->entry_count + 1));
    const char *copy = lks_arena_copy(config->arena, key);
    json_int_t index = (json_int_t)config->entry_count;
    if (!copy || json_object_set_new(config->entry_index, key, json_integer(index)) != 0)
        return config_no_memory(key);
    *out = &config->entries[config->entry_count++];
    **out = (config_entry){.key = copy};
    return LKS_OK;
}

lks_status config_put(lks_config *config, const char *key, const char *value, const char *origin,
                      config_level level, unsigned reading)
{
    if (!config_is_key(key))
        return LKS_FAIL(LKS_ERR_USAGE, "%s: the key \"%s\" is not of the form section.key", origin,
                        key);
    if (!config_is_utf8(value))
        return LKS_FAIL(LKS_ERR_USAGE, "%s: the value of %s is not UTF-8", origin, key);
    config_entry *entry = config_find_entry(config, key);
    if (entry && reading != 0 && entry->reading == reading)
        return LKS_FAIL(LKS_ERR_USAGE, "%s: %s is already set at %s, want it once", origin, key,
                        entry->origin);
    if (entry && level < entry->level)
        return LKS_OK;
    const char *value_copy = lks_arena_copy(config->arena, value);
    const char *origin_copy = lks_arena_copy(config->arena, origin);
    if (!value_copy || !origin_copy)
        return config_no_memory(key);
    if (!entry)
        LKS_TRY(config_new_entry(config, key, &entry));
    entry->value = value_copy;
    entry->origin = origin_copy;
    entry->level = level;
    entry->reading = reading;
    entry->list = false;
    return LKS_OK;
}

void config_mark_list(lks_config *config, const char *key, unsigned reading)
{
    config_entry *entry = config_find_entry(config, key);
    if (entry && entry->reading == reading)
        entry->list = true;
}

lks_status lks_config_set(lks_config *config, const char *assignment, const char *origin)
{
    const char *equals = strchr(assignment, '=');
    if (!equals)
        return LKS_FAIL(LKS_ERR_USAGE, "%s %s: want section.key=value", origin, assignment);
    char *key = lks_arena_copy(config->arena, assignment);
    if (!key)
        return config_no_memory(assignment);
    key[equals - assignment] = '\0';
    return config_put(config, key, equals + 1, origin, CONFIG_SET, 0);
}

/* LOCKSTEP_TRAIN_GLOBAL_BATCH=64: the section ends at the first underscore. */
static lks_status config_put_variable(lks_config *config, const char *variable, size_t prefix)
{
    char *name = lks_arena_copy(config->arena, variable);
    char *key = lks_arena_copy(config->arena, variable + prefix);
    if (!name || !key)
        return config_no_memory(variable);
    name[strcspn(name, "=")] = '\0';
    size_t length = strcspn(key, "=");
    const char *value = key + length + 1;
    key[length] = '\0';
    for (char *c = key; *c; ++c)
        *c = (char)tolower((unsigned char)*c);
    char *underscore = strchr(key, '_');
    if (!underscore || underscore == key || underscore[1] == '\0')
        return LKS_FAIL(LKS_ERR_USAGE,
                        "the environment has %s, want LOCKSTEP_<SECTION>_<KEY>; unset it", name);
    *underscore = '.';
    return config_put(config, key, value, name, CONFIG_ENVIRONMENT, 0);
}

lks_status lks_config_use_environment(lks_config *config, char **environment)
{
    static const char prefix[] = "LOCKSTEP_";
    for (char **variable = environment; variable && *variable; ++variable)
        if (strncmp(*variable, prefix, sizeof prefix - 1) == 0 && strchr(*variable, '='))
            LKS_TRY(config_put_variable(config, *variable, sizeof prefix - 1));
    return LKS_OK;
}

/* --- Claims --------------------------------------------------------------- */

static lks_status config_claim(lks_config *config, const char *key, config_known **out)
{
    *out = config_find_known(config, key);
    if (*out)
        return LKS_OK;
    LKS_TRY(LKS_GROW(&config->known, &config->known_capacity, config->known_count + 1));
    const char *copy = lks_arena_copy(config->arena, key);
    json_int_t index = (json_int_t)config->known_count;
    if (!copy || json_object_set_new(config->known_index, key, json_integer(index)) != 0)
        return config_no_memory(key);
    *out = &config->known[config->known_count++];
    **out = (config_known){.key = copy, .type = LKS_OPTION_TEXT};
    return LKS_OK;
}

/* The class of a key that is asked for by name, before any table is bound. */
static lks_option_change config_named_change(const char *key)
{
    bool fixed = strncmp(key, "model.", 6) == 0 || strcmp(key, "optimizer.name") == 0;
    return fixed ? LKS_OPTION_FIXED : LKS_OPTION_SCHEDULED;
}

const char *lks_config_get_default(lks_config *config, const char *key, const char *fallback)
{
    config_known *known;
    if (config_claim(config, key, &known) != LKS_OK)
        return NULL;
    if (known->bound)
        return known->value;
    const config_entry *entry = config_find_entry(config, key);
    if (fallback)
        known->fallback = lks_arena_copy(config->arena, fallback);
    known->value = entry ? entry->value : known->fallback;
    known->origin = entry ? entry->origin : "default";
    known->change = config_named_change(key);
    return known->value;
}

const char *lks_config_get(lks_config *config, const char *key)
{
    return lks_config_get_default(config, key, NULL);
}

/* --- Tables --------------------------------------------------------------- */

typedef union config_value {
    bool boolean;
    int64_t integer;
    double number;
    const char *text;
    int choice;
    lks_option_integers list;
} config_value;

static lks_status config_keep_text(lks_config *config, const lks_option *option, const void *target,
                                   const char *key, const char **out)
{
    lks_text text = {0};
    lks_option_print(option, target, &text);
    *out = text.failed || !text.data ? NULL : lks_arena_copy(config->arena, text.data);
    lks_text_release(&text);
    return *out ? LKS_OK : config_no_memory(key);
}

static const char *config_fallback(const lks_option *option)
{
    bool may_be_empty = option->type == LKS_OPTION_TEXT || option->type == LKS_OPTION_LIST;
    return !option->fallback && may_be_empty ? "" : option->fallback;
}

static lks_status config_keep_fallback(lks_config *config, const lks_option *option,
                                       const char *key, const char **out)
{
    const char *fallback = config_fallback(option);
    *out = NULL;
    if (!fallback)
        return LKS_OK;
    config_value value = {0};
    lks_option alone = *option;
    alone.offset = 0;
    LKS_TRY(lks_option_set(&alone, &value, key, fallback, "default", config->arena));
    return config_keep_text(config, &alone, &value, key, out);
}

static lks_status config_bind_option(lks_config *config, const char *section,
                                     const lks_option *option, void *target)
{
    const char *key = lks_arena_format(config->arena, "%s.%s", section, option->name);
    if (!key)
        return config_no_memory(option->name);
    const config_entry *entry = config_find_entry(config, key);
    const char *text = entry ? entry->value : config_fallback(option);
    if (!text)
        return LKS_FAIL(LKS_ERR_USAGE, "%s is not set and has no default: %s", key,
                        option->about ? option->about : "set it");
    const char *origin = entry ? entry->origin : "default";
    LKS_TRY(lks_option_set(option, target, key, text, origin, config->arena));
    config_known *known;
    LKS_TRY(config_claim(config, key, &known));
    known->origin = origin;
    known->change = option->change;
    known->type = option->type;
    known->bound = true;
    LKS_TRY(config_keep_text(config, option, target, key, &known->value));
    return config_keep_fallback(config, option, key, &known->fallback);
}

lks_status lks_config_bind(lks_config *config, const char *section, const lks_option *table,
                           void *target)
{
    for (const lks_option *option = table; option && option->name; ++option)
        LKS_TRY(config_bind_option(config, section, option, target));
    return LKS_OK;
}

/* --- Unknown keys --------------------------------------------------------- */

/* The known keys of the section of `key`, or all sections when there is no such. */
static void config_list_known(const lks_config *config, const char *key, lks_text *out)
{
    size_t section = strcspn(key, ".") + 1;
    for (size_t i = 0; i < config->known_count; ++i)
        if (strncmp(config->known[i].key, key, section) == 0)
            lks_text_append(out, "%s%s", out->length ? ", " : "", config->known[i].key + section);
    if (out->length)
        return;
    for (size_t i = 0; i < config->known_count; ++i) {
        const char *name = config->known[i].key;
        size_t length = strcspn(name, ".") + 1;
        bool seen = false;
        for (size_t j = 0; j < i && !seen; ++j)
            seen = strncmp(config->known[j].key, name, length) == 0;
        if (!seen)
            lks_text_append(out, "%s%.*s", out->length ? ", " : "", (int)length - 1, name);
    }
}

static lks_status config_fail_unknown(const lks_config *config, const config_entry *entry)
{
    const char **names;
    LKS_TRY(LKS_NEW_ARRAY(&names, config->known_count));
    for (size_t i = 0; i < config->known_count; ++i)
        names[i] = config->known[i].key;
    const char *nearest = lks_text_nearest(entry->key, names, config->known_count);
    lks_memory_free(names);
    if (nearest)
        return LKS_FAIL(LKS_ERR_USAGE, "%s: unknown key %s, did you mean %s?", entry->origin,
                        entry->key, nearest);
    lks_text known = {0};
    config_list_known(config, entry->key, &known);
    lks_status status = LKS_FAIL(LKS_ERR_USAGE, "%s: unknown key %s, known here are: %s",
                                 entry->origin, entry->key, known.data ? known.data : "none");
    lks_text_release(&known);
    return status;
}

/* Whether `option` of another driver gives way: nobody else has claimed it, and a weaker source than that of the
 * driver's name has set it. */
static bool config_gives_way(const lks_config *config, const config_entry *name,
                             const config_entry *entry)
{
    return entry && !entry->left_out && entry->level < name->level &&
           !config_find_known(config, entry->key);
}

lks_status lks_config_leave_out(lks_config *config, const char *name_key, const lks_option *table,
                                lks_text *left_out)
{
    const config_entry *name = config_find_entry(config, name_key);
    int section = (int)strcspn(name_key, ".");
    for (const lks_option *option = table; name && option && option->name; ++option) {
        const char *key =
            lks_arena_format(config->arena, "%.*s.%s", section, name_key, option->name);
        if (!key)
            return config_no_memory(option->name);
        config_entry *entry = config_find_entry(config, key);
        if (!config_gives_way(config, name, entry))
            continue;
        entry->left_out = true;
        lks_text_append(left_out, "%s%s (%s)", left_out->length ? ", " : "", key, entry->origin);
    }
    return LKS_OK;
}

lks_status lks_config_check_unknown(lks_config *config)
{
    for (size_t i = 0; i < config->entry_count; ++i) {
        const config_entry *entry = &config->entries[i];
        const config_known *known = config_find_known(config, entry->key);
        if (!known && !entry->left_out)
            return config_fail_unknown(config, entry);
        if (known && entry->list && known->type != LKS_OPTION_LIST)
            return LKS_FAIL(LKS_ERR_USAGE, "%s: %s is a list, want one value", entry->origin,
                            entry->key);
    }
    return LKS_OK;
}
