/* What the parts of the configuration share. */
#ifndef LKS_BASE_CONFIG_INTERNAL_H
#define LKS_BASE_CONFIG_INTERNAL_H

#include "runtime/base/config.h"
#include "runtime/base/memory.h"

/* Later wins. */
typedef enum config_level { CONFIG_FILE, CONFIG_ENVIRONMENT, CONFIG_SET } config_level;

/* A key that somebody set; the strongest setting alone is kept. */
typedef struct config_entry {
    const char *key, *value;
    const char *origin; /* "gpt.yaml:7", "LOCKSTEP_TRAIN_STEPS", "--set" */
    config_level level;
    unsigned reading; /* number of the file that set it; 0: no file */
    bool list;        /* it stands there as a list */
    bool left_out;    /* as another driver's, see lks_config_leave_out */
} config_entry;

/* A key that somebody claimed. */
typedef struct config_known {
    const char *key;
    const char *value;    /* canonical; NULL: claimed by name and not set */
    const char *fallback; /* canonical; NULL: there is none */
    const char *origin;
    lks_option_change change;
    lks_option_type type;
    bool bound; /* by a table, which says the change class */
} config_known;

struct lks_config {
    lks_arena *arena;
    config_entry *entries;
    size_t entry_count, entry_capacity;
    config_known *known;
    size_t known_count, known_capacity;
    json_t *entry_index, *known_index; /* key -> index: jansson's hash tables */
    unsigned readings;
};

/* Sets a key that is "section.key". A key that the same file has already set is
 * LKS_ERR_USAGE; a weaker level than the one in force changes nothing. */
lks_status config_put(lks_config *config, const char *key, const char *value, const char *origin,
                      config_level level, unsigned reading) LKS_MUST_CHECK;

/* The value that this reading has put is a list. */
void config_mark_list(lks_config *config, const char *key, unsigned reading);

/* NULL when nobody set, or claimed, the key. */
config_entry *config_find_entry(const lks_config *config, const char *key);
config_known *config_find_known(const lks_config *config, const char *key);

#endif
