/* The configuration: dotted keys with the text of their value and its origin.
 *
 * Precedence, later wins: defaults (from option tables), the YAML file, the
 * environment (LOCKSTEP_TRAIN_STEPS is train.steps), --set key=value. Each owner
 * of settings binds its table to a section; when all have, keys that nobody
 * claimed are errors that name the nearest known one.
 */
#ifndef LKS_BASE_CONFIG_H
#define LKS_BASE_CONFIG_H

#include "runtime/base/options.h"
#include "runtime/base/text.h"

#include <jansson.h>

typedef struct lks_config lks_config;

lks_status lks_config_create(lks_config **out) LKS_MUST_CHECK;
void lks_config_destroy(lks_config *config); /* NULL is fine */

/* YAML: mappings of mappings, scalars, and flat lists (kept as "a,b,c"). Syntax errors,
 * repeated keys, anchors and files over 1 MiB are LKS_ERR_USAGE with the line. */
lks_status lks_config_read_file(lks_config *config, const char *path) LKS_MUST_CHECK;
lks_status lks_config_read_text(lks_config *config, const char *text, size_t bytes,
                                const char *name) LKS_MUST_CHECK;
/* Takes every LOCKSTEP_<SECTION>_<KEY> of `environment` (environ); the section ends at the
 * first underscore. One that is not of this form is LKS_ERR_USAGE, one whose key nobody
 * claims fails lks_config_check_unknown. */
lks_status lks_config_use_environment(lks_config *config, char **environment) LKS_MUST_CHECK;
lks_status lks_config_set(lks_config *config, const char *assignment /* key=value */,
                          const char *origin) LKS_MUST_CHECK;

/* The text of a key as set so far (file, environment, --set), NULL if unset. For
 * choosing a driver ("model.name") before its table is bound; claims the key. */
const char *lks_config_get(lks_config *config, const char *key);
/* The same with a default, which is recorded: for a driver's name that has one. */
const char *lks_config_get_default(lks_config *config, const char *key, const char *fallback);

/* Fills `target` from `section`'s keys and the table's defaults; claims the
 * keys. The config owns texts and lists. The table must outlive the config. */
lks_status lks_config_bind(lks_config *config, const char *section, const lks_option *table,
                           void *target) LKS_MUST_CHECK;

/* After the binds: the keys of `table`, another driver's of the kind that `name_key` ("optimizer.name") chooses,
 * that nobody claimed and that a weaker source set than the driver's name (the file, where --set names the driver)
 * are not errors; "key (origin)" of each goes to `left_out`, with commas. */
lks_status lks_config_leave_out(lks_config *config, const char *name_key, const lks_option *table,
                                lks_text *left_out) LKS_MUST_CHECK;

/* After the last bind: an unclaimed key is LKS_ERR_USAGE, naming its origin and
 * the nearest known key. */
lks_status lks_config_check_unknown(lks_config *config) LKS_MUST_CHECK;

/* The effective values of all bound tables as YAML; each line ends in a comment
 * with its origin when `origins`. */
void lks_config_print_yaml(const lks_config *config, bool origins, lks_text *out);
/* {"train.steps": {"value": "...", "origin": "...", "change": "fixed", "default": "..."}, ...};
 * keys that lks_config_get claimed are fixed for model.* and optimizer.name, else
 * scheduled. NULL without memory. */
json_t *lks_config_to_json(const lks_config *config);

/* Compares the effective values with those that `recorded` (a to_json of
 * an earlier start) holds. A fixed option that differs is LKS_ERR_USAGE naming key, old
 * and new; a scheduled one is appended to `changes`, with commas between. Keys that only
 * one side has are compared with the other's default where there is one. */
lks_status lks_config_check_resume(const lks_config *config, const json_t *recorded,
                                   lks_text *changes) LKS_MUST_CHECK;

#endif
