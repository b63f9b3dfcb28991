#include "launcher/k8s_names.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { LABEL_LENGTH = 63, NAME_LENGTH = 253 };

static bool is_label_character(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
}

static bool is_label(const char *text, size_t length)
{
    for (size_t i = 0; i < length; ++i)
        if (!is_label_character(text[i]))
            return false;
    return length > 0 && length <= LABEL_LENGTH && text[0] != '-' && text[length - 1] != '-';
}

static bool is_domain(const char *text, size_t length)
{
    for (size_t at = 0; at <= length && length <= NAME_LENGTH; ++at) {
        size_t part = 0;
        while (at + part < length && text[at + part] != '.')
            ++part;
        if (!is_label(text + at, part))
            return false;
        at += part;
        if (at == length)
            return true;
    }
    return false;
}

static bool is_made_of(const char *text, const char *others)
{
    for (; *text; ++text)
        if (!isalnum((unsigned char)*text) && !strchr(others, *text))
            return false;
    return true;
}

bool lks_k8s_is_label(const char *text)
{
    return is_label(text, strlen(text));
}

bool lks_k8s_is_domain(const char *text)
{
    return is_domain(text, strlen(text));
}

bool lks_k8s_is_key(const char *text)
{
    return *text && strlen(text) <= NAME_LENGTH && is_made_of(text, "-_.") && strcmp(text, ".") &&
           strncmp(text, "..", 2) != 0;
}

bool lks_k8s_is_image(const char *text)
{
    size_t length = strlen(text);
    return length && is_made_of(text, "._/:@-") && isalnum((unsigned char)*text) &&
           isalnum((unsigned char)text[length - 1]) && !strstr(text, "//");
}

bool lks_k8s_is_resource(const char *text)
{
    size_t domain = strcspn(text, "/"), length = strlen(text);
    const char *name = text + domain + 1;
    return domain < length && is_domain(text, domain) && *name && strlen(name) <= LABEL_LENGTH &&
           is_made_of(name, "-_.") && isalnum((unsigned char)*name) &&
           isalnum((unsigned char)text[length - 1]);
}

/* 1000 or 1024 to the power of the unit's place; 0: no unit of memory. */
static int64_t unit_bytes(const char *unit)
{
    static const char letters[] = "kMGTPE", binary_letters[] = "KMGTPE";
    bool is_binary = *unit && unit[1] == 'i';
    const char *at = *unit ? strchr(is_binary ? binary_letters : letters, *unit) : NULL;
    int64_t bytes = 1;
    if (*unit && (!at || strlen(unit) != (is_binary ? 2 : 1)))
        return 0;
    for (long i = 0; at && i <= at - (is_binary ? binary_letters : letters); ++i)
        bytes *= is_binary ? 1024 : 1000;
    return bytes;
}

int64_t lks_k8s_quantity_bytes(const char *text)
{
    size_t digits = strspn(text, "0123456789");
    int64_t unit = unit_bytes(text + digits), bytes;
    errno = 0;
    long long number = strtoll(text, NULL, 10);
    if (!digits || errno || !unit || __builtin_mul_overflow((int64_t)number, unit, &bytes))
        return 0;
    return bytes;
}
