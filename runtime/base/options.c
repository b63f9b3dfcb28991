#include "runtime/base/options.h"

#include "runtime/base/memory.h"
#include "runtime/base/text.h"

#include <stdio.h>
#include <string.h>

/* --- Saying what is allowed ----------------------------------------------- */

static void option_describe_range(const lks_option *option, const char *noun, lks_text *out)
{
    static const double large = 9e18; /* beyond: no bound worth printing */
    lks_text_append(out, "%s", noun);
    if (option->minimum == 0 && option->maximum == 0)
        return;
    bool above = option->minimum > -large, below = option->maximum < large;
    if (above && below)
        lks_text_append(out, " from %.15g to %.15g", option->minimum, option->maximum);
    else if (above)
        lks_text_append(out, " of at least %.15g", option->minimum);
    else if (below)
        lks_text_append(out, " of at most %.15g", option->maximum);
}

static void option_describe(const lks_option *option, lks_text *out)
{
    switch (option->type) {
    case LKS_OPTION_BOOL:
        lks_text_append(out, "true or false");
        break;
    case LKS_OPTION_INTEGER:
        option_describe_range(option, "an integer", out);
        break;
    case LKS_OPTION_NUMBER:
        option_describe_range(option, "a number", out);
        break;
    case LKS_OPTION_TEXT:
        lks_text_append(out, "text");
        break;
    case LKS_OPTION_CHOICE:
        lks_text_append(out, "one of ");
        for (const char *c = option->choices; *c; ++c) {
            if (*c == '|')
                lks_text_append(out, ", ");
            else
                lks_text_append_bytes(out, c, 1);
        }
        break;
    case LKS_OPTION_LIST:
        lks_text_append(out, "a list like [64, 32], each ");
        option_describe_range(option, "an integer", out);
        break;
    }
}

static lks_status option_fail(const lks_option *option, const char *key, const char *text,
                              const char *origin)
{
    lks_text wanted = {0};
    option_describe(option, &wanted);
    lks_status status =
        LKS_FAIL(LKS_ERR_USAGE, "%s is %s%s%s (%s), want %s", key, text[0] ? "" : "\"", text,
                 text[0] ? "" : "\"", origin, wanted.data ? wanted.data : "another value");
    lks_text_release(&wanted);
    return status;
}

/* --- Reading values ------------------------------------------------------- */

static bool option_in_range(const lks_option *option, double value)
{
    if (option->minimum == 0 && option->maximum == 0)
        return true;
    return value >= option->minimum && value <= option->maximum;
}

static bool option_set_integer(const lks_option *option, int64_t *out, const char *text)
{
    int64_t value;
    if (!lks_text_parse_integer(text, &value) || !option_in_range(option, (double)value))
        return false;
    *out = value;
    return true;
}

static bool option_set_number(const lks_option *option, double *out, const char *text)
{
    double value;
    int64_t integer;
    if (!lks_text_parse_number(text, &value)) {
        if (!lks_text_parse_integer(text, &integer)) /* 65_536 */
            return false;
        value = (double)integer;
    }
    if (!option_in_range(option, value))
        return false;
    *out = value;
    return true;
}

static bool option_set_choice(const lks_option *option, int *out, const char *text)
{
    size_t length = strlen(text);
    const char *choice = option->choices;
    for (int index = 0;; ++index) {
        size_t size = strcspn(choice, "|");
        if (size == length && memcmp(choice, text, size) == 0) {
            *out = index;
            return true;
        }
        if (choice[size] == '\0')
            return false;
        choice += size + 1;
    }
}

static bool option_is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* "64, 64,32" or the same in brackets; `text` is cut up. */
static bool option_set_list(const lks_option *option, lks_option_integers *out, char *text,
                            lks_arena *arena)
{
    size_t length = strlen(text), room = 1;
    if (length >= 2 && text[0] == '[' && text[length - 1] == ']') {
        text[length - 1] = '\0';
        ++text;
    }
    for (const char *c = text; *c; ++c)
        room += *c == ',';
    int64_t *values = lks_arena_allocate(arena, room * sizeof *values);
    if (!values)
        return false;
    size_t count = 0;
    text += strspn(text, " \t");
    for (char *next = *text ? text : NULL; next;) {
        char *word = next + strspn(next, " \t");
        char *comma = strchr(word, ',');
        next = comma ? comma + 1 : NULL;
        char *end = comma ? comma : word + strlen(word);
        while (end > word && option_is_blank(end[-1]))
            --end;
        *end = '\0';
        if (!option_set_integer(option, &values[count++], word))
            return false;
    }
    *out = (lks_option_integers){values, count};
    return true;
}

lks_status lks_option_set(const lks_option *option, void *target, const char *key, const char *text,
                          const char *origin, struct lks_arena *arena)
{
    void *member = (char *)target + option->offset;
    bool valid = false;
    char *copy = NULL;
    if (option->type == LKS_OPTION_TEXT || option->type == LKS_OPTION_LIST) {
        copy = lks_arena_copy(arena, text);
        if (!copy)
            return LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", key);
    }
    switch (option->type) {
    case LKS_OPTION_BOOL:
        valid = lks_text_parse_bool(text, member);
        break;
    case LKS_OPTION_INTEGER:
        valid = option_set_integer(option, member, text);
        break;
    case LKS_OPTION_NUMBER:
        valid = option_set_number(option, member, text);
        break;
    case LKS_OPTION_TEXT:
        *(const char **)member = copy;
        valid = true;
        break;
    case LKS_OPTION_CHOICE:
        valid = option_set_choice(option, member, text);
        break;
    case LKS_OPTION_LIST:
        valid = option_set_list(option, member, copy, arena);
        break;
    }
    return valid ? LKS_OK : option_fail(option, key, text, origin);
}

/* --- Printing values ------------------------------------------------------ */

/* The shortest of 15 to 17 digits that reads back to the same value. */
static void option_print_number(double value, lks_text *out)
{
    char text[40];
    double back;
    for (int digits = 15; digits <= 17; ++digits) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (lks_text_parse_number(text, &back) && back == value)
            break;
    }
    lks_text_append(out, "%s", text);
}

static void option_print_choice(const lks_option *option, int index, lks_text *out)
{
    const char *choice = option->choices;
    for (; index > 0; --index)
        choice += strcspn(choice, "|") + 1;
    lks_text_append_bytes(out, choice, strcspn(choice, "|"));
}

void lks_option_print(const lks_option *option, const void *target, struct lks_text *out)
{
    const void *member = (const char *)target + option->offset;
    const lks_option_integers *list = member;
    switch (option->type) {
    case LKS_OPTION_BOOL:
        lks_text_append(out, *(const bool *)member ? "true" : "false");
        break;
    case LKS_OPTION_INTEGER:
        lks_text_append(out, "%lld", (long long)*(const int64_t *)member);
        break;
    case LKS_OPTION_NUMBER:
        option_print_number(*(const double *)member, out);
        break;
    case LKS_OPTION_TEXT:
        lks_text_append(out, "%s", *(const char *const *)member);
        break;
    case LKS_OPTION_CHOICE:
        option_print_choice(option, *(const int *)member, out);
        break;
    case LKS_OPTION_LIST:
        lks_text_append_bytes(out, "", 0); /* an empty list is "", not NULL */
        for (size_t i = 0; i < list->count; ++i)
            lks_text_append(out, "%s%lld", i ? "," : "", (long long)list->values[i]);
        break;
    }
}

const char *lks_option_change_name(lks_option_change change)
{
    static const char *const names[] = {[LKS_OPTION_FIXED] = "fixed",
                                        [LKS_OPTION_SCHEDULED] = "scheduled",
                                        [LKS_OPTION_FREE] = "free"};
    return names[change];
}
