#include "runtime/base/json.h"

#include "runtime/base/files.h"
#include "runtime/base/text.h"

#include <stdlib.h>
#include <string.h>

enum { JSON_FILE_LIMIT = 256 << 20 };

lks_status lks_json_parse(const char *text, size_t bytes, const char *name, json_t **out)
{
    json_error_t error;
    json_t *json = json_loadb(text, bytes, JSON_REJECT_DUPLICATES, &error);
    if (!json)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s:%d: not valid JSON: %s", name,
                        error.line > 0 ? error.line : 1, error.text);
    *out = json;
    return LKS_OK;
}

lks_status lks_json_load(const char *path, json_t **out)
{
    char *text;
    size_t bytes;
    LKS_TRY(lks_files_read(path, JSON_FILE_LIMIT, &text, &bytes));
    lks_status status = lks_json_parse(text, bytes, path, out);
    free(text);
    return status;
}

/* The bytes of the character at `text`, 0 when they are not UTF-8. */
static size_t character_bytes(const char *text)
{
    size_t left = strlen(text);
    for (size_t bytes = 1; bytes <= 4 && bytes <= left; ++bytes) {
        json_t *one = json_stringn(text, bytes);
        json_decref(one);
        if (one)
            return bytes;
    }
    return 0;
}

json_t *lks_json_text(const char *text)
{
    lks_text escaped = {0};
    json_t *json = text ? json_string(text) : json_null();
    if (json)
        return json;
    while (*text) {
        size_t bytes = character_bytes(text);
        if (bytes)
            lks_text_append_bytes(&escaped, text, bytes);
        else
            lks_text_append(&escaped, "\\x%02x", (unsigned char)*text);
        text += bytes ? bytes : 1;
    }
    json = escaped.data ? json_string(escaped.data) : NULL;
    lks_text_release(&escaped);
    return json;
}

lks_status lks_json_save(const char *path, const json_t *json)
{
    char *text = json_dumps(json, JSON_INDENT(2) | JSON_REAL_PRECISION(17) | JSON_ENCODE_ANY);
    if (!text)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s: the value cannot be written as JSON", path);
    size_t length = strlen(text);
    text[length] = '\n'; /* in place of the NUL */
    lks_status status = lks_files_write_atomically(path, text, length + 1);
    free(text);
    return status;
}

/* The member at a dotted path, NULL if any part is missing. */
static json_t *json_find(const json_t *json, const char *key)
{
    const json_t *at = json;
    while (at) {
        const char *dot = strchr(key, '.');
        size_t length = dot ? (size_t)(dot - key) : strlen(key);
        at = json_object_getn(at, key, length);
        if (!dot)
            break;
        key = dot + 1;
    }
    return (json_t *)at;
}

static const char *json_type_name(const json_t *json)
{
    switch (json_typeof(json)) {
    case JSON_OBJECT:
        return "an object";
    case JSON_ARRAY:
        return "an array";
    case JSON_STRING:
        return "a string";
    case JSON_INTEGER:
        return "an integer";
    case JSON_REAL:
        return "a real number";
    case JSON_TRUE:
    case JSON_FALSE:
        return "a boolean";
    default:
        return "null";
    }
}

static lks_status json_require(const json_t *json, const char *name, const char *key, bool right,
                               const char *wanted)
{
    if (!json)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: %s is missing, want %s", name, key, wanted);
    if (!right)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: %s is %s, want %s", name, key, json_type_name(json),
                        wanted);
    return LKS_OK;
}

lks_status lks_json_get_string(const json_t *json, const char *name, const char *key,
                               const char **out)
{
    const json_t *member = json_find(json, key);
    LKS_TRY(json_require(member, name, key, json_is_string(member), "a string"));
    *out = json_string_value(member);
    return LKS_OK;
}

lks_status lks_json_get_integer(const json_t *json, const char *name, const char *key,
                                int64_t minimum, int64_t maximum, int64_t *out)
{
    const json_t *member = json_find(json, key);
    LKS_TRY(json_require(member, name, key, json_is_integer(member), "an integer"));
    int64_t value = json_integer_value(member);
    if (value < minimum || value > maximum)
        return LKS_FAIL(LKS_ERR_CORRUPT, "%s: %s is %lld, want %lld to %lld", name, key,
                        (long long)value, (long long)minimum, (long long)maximum);
    *out = value;
    return LKS_OK;
}

lks_status lks_json_get_number(const json_t *json, const char *name, const char *key, double *out)
{
    const json_t *member = json_find(json, key);
    LKS_TRY(json_require(member, name, key, json_is_number(member), "a number"));
    *out = json_number_value(member);
    return LKS_OK;
}

lks_status lks_json_get_array(const json_t *json, const char *name, const char *key, json_t **out)
{
    json_t *member = json_find(json, key);
    LKS_TRY(json_require(member, name, key, json_is_array(member), "an array"));
    *out = member;
    return LKS_OK;
}

lks_status lks_json_get_object(const json_t *json, const char *name, const char *key, json_t **out)
{
    json_t *member = json_find(json, key);
    LKS_TRY(json_require(member, name, key, json_is_object(member), "an object"));
    *out = member;
    return LKS_OK;
}
