#include "runtime/base/text.h"

#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool text_reserve(lks_text *text, size_t extra)
{
    size_t wanted = text->length + extra + 1;
    if (wanted <= text->capacity)
        return true;
    size_t capacity = text->capacity < 64 ? 64 : text->capacity * 2;
    if (capacity < wanted)
        capacity = wanted;
    char *data = realloc(text->data, capacity);
    if (!data) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void lks_text_append_bytes(lks_text *text, const void *bytes, size_t count)
{
    if (!text_reserve(text, count))
        return;
    if (count)
        memcpy(text->data + text->length, bytes, count);
    text->length += count;
    text->data[text->length] = '\0';
}

void lks_text_append_format(lks_text *text, const char *format, va_list arguments)
{
    va_list again;
    va_copy(again, arguments);
    int length = vsnprintf(NULL, 0, format, arguments);
    if (length >= 0 && text_reserve(text, (size_t)length)) {
        vsnprintf(text->data + text->length, (size_t)length + 1, format, again);
        text->length += (size_t)length;
    }
    va_end(again);
}

void lks_text_append(lks_text *text, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    lks_text_append_format(text, format, arguments);
    va_end(arguments);
}

void lks_text_clear(lks_text *text)
{
    text->length = 0;
    text->failed = false;
    if (text->data)
        text->data[0] = '\0';
}

void lks_text_release(lks_text *text)
{
    free(text->data);
    *text = (lks_text){0};
}

/* --- Numbers -------------------------------------------------------------- */

static bool text_is_digit(char c)
{
    return c >= '0' && c <= '9';
}

/* Digits with single underscores between them; the magnitude into *value. */
static bool text_parse_digits(const char **cursor, uint64_t *value)
{
    const char *at = *cursor;
    if (!text_is_digit(*at))
        return false;
    for (*value = 0; text_is_digit(*at); ++at) {
        if (__builtin_mul_overflow(*value, 10u, value) ||
            __builtin_add_overflow(*value, (uint64_t)(*at - '0'), value))
            return false;
        if (at[1] == '_' && text_is_digit(at[2]))
            ++at;
    }
    *cursor = at;
    return true;
}

bool lks_text_parse_integer(const char *text, int64_t *out)
{
    bool negative = *text == '-';
    if (*text == '-' || *text == '+')
        ++text;
    uint64_t magnitude, exponent = 0;
    if (!text_parse_digits(&text, &magnitude))
        return false;
    if (*text == 'e' || *text == 'E') {
        text += text[1] == '+' ? 2 : 1;
        if (!text_parse_digits(&text, &exponent))
            return false;
    }
    for (; *text == '\0' && exponent > 0 && magnitude > 0; --exponent)
        if (__builtin_mul_overflow(magnitude, 10u, &magnitude))
            return false;
    uint64_t limit = (uint64_t)INT64_MAX + negative;
    if (*text != '\0' || magnitude > limit)
        return false;
    *out = negative ? (int64_t)(0 - magnitude) : (int64_t)magnitude;
    return true;
}

/* [+-] digits [. digits] [e [+-] digits], at least one digit before the e. */
static bool text_is_number(const char *text)
{
    size_t digits = 0;
    text += *text == '-' || *text == '+';
    for (; text_is_digit(*text); ++text)
        ++digits;
    if (*text == '.')
        for (++text; text_is_digit(*text); ++text)
            ++digits;
    if (digits == 0)
        return false;
    if (*text == 'e' || *text == 'E') {
        ++text;
        text += *text == '-' || *text == '+';
        if (!text_is_digit(*text))
            return false;
        while (text_is_digit(*text))
            ++text;
    }
    return *text == '\0';
}

bool lks_text_parse_number(const char *text, double *out)
{
    if (!text_is_number(text))
        return false;
    locale_t c_locale = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    if (c_locale == (locale_t)0)
        return false;
    double value = strtod_l(text, NULL, c_locale);
    freelocale(c_locale);
    if (!isfinite(value))
        return false;
    *out = value;
    return true;
}

bool lks_text_parse_bool(const char *text, bool *out)
{
    static const char *const words[] = {"false", "true", "no", "yes", "off", "on"};
    for (size_t i = 0; i < sizeof words / sizeof *words; ++i) {
        if (strcasecmp(text, words[i]) == 0) {
            *out = i % 2 == 1;
            return true;
        }
    }
    return false;
}

/* --- The nearest word ----------------------------------------------------- */

static size_t text_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* Edits with swaps of neighbours (optimal string alignment distance). `rows` has room for
 * three rows of strlen(b) + 1. */
static size_t text_distance(const char *a, const char *b, size_t *rows)
{
    size_t width = strlen(b) + 1;
    size_t *before = rows, *previous = rows + width, *current = rows + 2 * width;
    for (size_t j = 0; j < width; ++j)
        previous[j] = j;
    for (size_t i = 1; a[i - 1]; ++i) {
        current[0] = i;
        for (size_t j = 1; j < width; ++j) {
            size_t substitute = previous[j - 1] + (a[i - 1] != b[j - 1]);
            current[j] = text_min(substitute, text_min(previous[j], current[j - 1]) + 1);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                current[j] = text_min(current[j], before[j - 2] + 1);
        }
        size_t *oldest = before;
        before = previous;
        previous = current;
        current = oldest;
    }
    return previous[width - 1];
}

const char *lks_text_nearest(const char *wrong, const char *const *words, size_t count)
{
    size_t length = strlen(wrong);
    size_t limit = 1 + length / 4;
    size_t *rows = malloc(3 * (length + limit + 1) * sizeof *rows);
    const char *nearest = NULL;
    size_t best = limit + 1;
    for (size_t i = 0; rows && i < count; ++i) {
        size_t word = strlen(words[i]);
        if (word > length + limit || length > word + limit)
            continue;
        size_t distance = text_distance(wrong, words[i], rows);
        if (distance < best && distance < word) {
            best = distance;
            nearest = words[i];
        }
    }
    free(rows);
    return nearest;
}

const char *lks_text_bytes(char *out, size_t size, uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    size_t unit = 0;
    while (value >= 1023.95 && unit + 1 < sizeof units / sizeof *units) {
        value /= 1024;
        ++unit;
    }
    bool whole = unit == 0 || value >= 99.95 || fabs(value - round(value)) < 0.05;
    snprintf(out, size, "%.*f %s", whole ? 0 : 1, value, units[unit]);
    return out;
}

const char *lks_text_count(char *out, size_t size, uint64_t count, const char *noun)
{
    snprintf(out, size, "%llu %s%s", (unsigned long long)count, noun, count == 1 ? "" : "s");
    return out;
}
