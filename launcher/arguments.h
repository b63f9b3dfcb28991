/* Arguments of a command, described by a table. */
#ifndef LKS_LAUNCHER_ARGUMENTS_H
#define LKS_LAUNCHER_ARGUMENTS_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum lks_flag_type {
    LKS_FLAG_SWITCH,  /* bool: given or not */
    LKS_FLAG_TEXT,    /* const char * */
    LKS_FLAG_INTEGER, /* int64_t */
    LKS_FLAG_NUMBER,  /* double */
    LKS_FLAG_LIST,    /* lks_texts: may be repeated */
} lks_flag_type;

typedef struct lks_texts {
    const char **items;
    size_t count, capacity;
} lks_texts;

typedef struct lks_flag {
    const char *name; /* "--set" */
    lks_flag_type type;
    void *target;
    const char *value; /* what the help calls it: "key=value" */
    const char *about;
} lks_flag;

#define LKS_FLAGS_END                                                                              \
    {                                                                                              \
        0                                                                                          \
    }

/* Reads argv[0..argc): flags of `table` (ending in a NULL name), as `--name value` or
 * `--name=value`, anything else goes to `rest`. An unknown flag or a value that does not fit is
 * LKS_ERR_USAGE. "--" ends the flags. `fallback` (NULL: none) is asked for flags that the table
 * lacks: *known says whether it has the name. `name` gives its i-th flag, NULL after the last. */
typedef struct lks_flag_fallback {
    lks_status (*set)(void *user, const char *name, const char *value, bool *known);
    const char *(*name)(void *user, size_t i);
    void *user;
} lks_flag_fallback;
lks_status lks_arguments_parse(int argc, char **argv, const lks_flag *table,
                               const lks_flag_fallback *fallback, lks_texts *rest) LKS_MUST_CHECK;
void lks_texts_release(lks_texts *texts);

/* The table as help text on stdout. */
void lks_arguments_help(const lks_flag *table);

#endif
