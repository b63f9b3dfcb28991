/* Options: a driver describes its settings in a table, the configuration fills
 * the driver's struct from it. There is no struct that holds everybody's.
 */
#ifndef LKS_BASE_OPTIONS_H
#define LKS_BASE_OPTIONS_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum lks_option_type {
    LKS_OPTION_BOOL,    /* bool */
    LKS_OPTION_INTEGER, /* int64_t */
    LKS_OPTION_NUMBER,  /* double */
    LKS_OPTION_TEXT,    /* const char *, owned by the configuration; "" when unset */
    LKS_OPTION_CHOICE,  /* int: index into choices */
    LKS_OPTION_LIST,    /* lks_option_integers: 64,64,32 or [64, 64, 32] */
} lks_option_type;

typedef struct lks_option_integers {
    const int64_t *values;
    size_t count;
} lks_option_integers;

/* What may happen to it when a job resumes. */
typedef enum lks_option_change {
    LKS_OPTION_FIXED,     /* a change is refused */
    LKS_OPTION_SCHEDULED, /* a change is logged */
    LKS_OPTION_FREE,
} lks_option_change;

typedef struct lks_option {
    const char *name; /* without the section: "width" */
    lks_option_type type;
    size_t offset; /* of the member in the driver's struct */
    /* The default, as it would be written in the file. NULL: none; then an empty
     * text or list, and for the other types the key must be set. */
    const char *fallback;
    /* Inclusive, for integers, numbers and each value of a list; both 0: any. */
    double minimum, maximum;
    const char *choices; /* "f32|bf16" */
    lks_option_change change;
    const char *about; /* one line */
} lks_option;

/* A table ends with a NULL name. */
#define LKS_OPTIONS_END                                                                            \
    {                                                                                              \
        0                                                                                          \
    }

/* Sets one member from text. A wrong type, value or choice is LKS_ERR_USAGE and
 * names `key` (the full dotted key), `origin` ("gpt.yaml:3", "--set") and what is
 * allowed. Text and lists are kept in `arena`. */
struct lks_arena;
lks_status lks_option_set(const lks_option *option, void *target, const char *key, const char *text,
                          const char *origin, struct lks_arena *arena) LKS_MUST_CHECK;

/* Appends the member as canonical text: equal values give equal texts, and
 * lks_option_set reads the text back to the same value. */
struct lks_text;
void lks_option_print(const lks_option *option, const void *target, struct lks_text *out);

const char *lks_option_change_name(lks_option_change change); /* "fixed" */

#endif
