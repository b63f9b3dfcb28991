/* Text: a growing buffer, numbers read strictly, the nearest known word. */
#ifndef LKS_BASE_TEXT_H
#define LKS_BASE_TEXT_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lks_text {
    char *data; /* always ends in NUL once anything was appended */
    size_t length, capacity;
    bool failed; /* memory ran out: data is not complete */
} lks_text;

/* Starts as {0}. */
void lks_text_append(lks_text *text, const char *format, ...) LKS_PRINTF(2, 3);
void lks_text_append_format(lks_text *text, const char *format, va_list arguments) LKS_PRINTF(2, 0);
void lks_text_append_bytes(lks_text *text, const void *bytes, size_t count);
void lks_text_clear(lks_text *text);
void lks_text_release(lks_text *text);

/* The whole of `text` must be the number; no locale, no leading space. Accepts
 * 1e3 and 65_536 as integers. False when it is not, or does not fit. */
bool lks_text_parse_integer(const char *text, int64_t *out);
bool lks_text_parse_number(const char *text, double *out); /* no nan, no inf */
bool lks_text_parse_bool(const char *text, bool *out);     /* true false yes no on off */

/* The word of `words` nearest to `wrong` by edit distance, NULL if none is
 * near enough to be worth naming. */
const char *lks_text_nearest(const char *wrong, const char *const *words, size_t count);

/* "1.5 GiB", "12 KiB": for people. Writes at most `size` bytes, returns out. */
const char *lks_text_bytes(char *out, size_t size, uint64_t bytes);
/* "1 rank", "2 ranks": for people. Writes at most `size` bytes, returns out. */
const char *lks_text_count(char *out, size_t size, uint64_t count, const char *noun);

#endif
