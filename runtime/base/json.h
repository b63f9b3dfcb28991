/* JSON through jansson, with messages that name the file and the key.
 *
 * Keys are paths with dots: "schema.vocabulary". Numbers are written with 17
 * significant digits, so that a double survives.
 */
#ifndef LKS_BASE_JSON_H
#define LKS_BASE_JSON_H

#include "runtime/base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* The file is at most 256 MiB; a syntax error is LKS_ERR_CORRUPT with the line. */
lks_status lks_json_load(const char *path, json_t **out) LKS_MUST_CHECK;
lks_status lks_json_parse(const char *text, size_t bytes, const char *name,
                          json_t **out) LKS_MUST_CHECK;

/* Atomic, indented, keys in insertion order. */
lks_status lks_json_save(const char *path, const json_t *json) LKS_MUST_CHECK;

/* A string; bytes of `text` that are not UTF-8, which JSON cannot hold, are written as \xff. NULL: null. */
json_t *lks_json_text(const char *text);

/* A member that must be there and of that type: else LKS_ERR_CORRUPT, naming
 * `name` (the file) and the key. Strings live as long as `json`. */
lks_status lks_json_get_string(const json_t *json, const char *name, const char *key,
                               const char **out) LKS_MUST_CHECK;
lks_status lks_json_get_integer(const json_t *json, const char *name, const char *key,
                                int64_t minimum, int64_t maximum, int64_t *out) LKS_MUST_CHECK;
lks_status lks_json_get_number(const json_t *json, const char *name, const char *key,
                               double *out) LKS_MUST_CHECK;
lks_status lks_json_get_array(const json_t *json, const char *name, const char *key,
                              json_t **out) LKS_MUST_CHECK;
lks_status lks_json_get_object(const json_t *json, const char *name, const char *key,
                               json_t **out) LKS_MUST_CHECK;

#endif
