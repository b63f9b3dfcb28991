#include "runtime/base/yaml_text.h"

#include <ctype.h>
#include <jansson.h>
#include <string.h>
#include <strings.h>

bool lks_yaml_is_text(const char *text)
{
    json_t *string = json_string(text); /* jansson refuses what is not UTF-8 */
    json_decref(string);
    return string != NULL;
}

/* The code point at `text`, and its length. */
static uint32_t code_point(const char *text, size_t *length)
{
    const unsigned char *byte = (const unsigned char *)text;
    *length = byte[0] < 0x80 ? 1 : byte[0] < 0xe0 ? 2 : byte[0] < 0xf0 ? 3 : 4;
    uint32_t point = *length == 1 ? byte[0] : byte[0] & (0xffu >> (*length + 1));
    for (size_t i = 1; i < *length; ++i)
        point = point << 6 | (byte[i] & 0x3f);
    return point;
}

/* YAML reads these as line breaks, or not at all, unless they are escaped. */
static bool needs_escape(uint32_t point)
{
    return point < 0x20 || (point >= 0x7f && point <= 0xa0) || point == 0x2028 || point == 0x2029 ||
           point == 0xfeff || point == 0xfffe || point == 0xffff;
}

void lks_yaml_append_quoted(lks_text *out, const char *text)
{
    size_t length;
    lks_text_append(out, "\"");
    for (; *text; text += length) {
        uint32_t point = code_point(text, &length);
        if (needs_escape(point))
            lks_text_append(out, "\\u%04x", (unsigned)point);
        else if (point == '"' || point == '\\')
            lks_text_append(out, "\\%c", (char)point);
        else
            lks_text_append_bytes(out, text, length);
    }
    lks_text_append(out, "\"");
}

/* Words that YAML 1.1 reads as a truth value or as nothing. */
static bool is_reserved(const char *word)
{
    static const char *const words[] = {"true", "false", "yes", "no",  "on",
                                        "off",  "y",     "n",   "null"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; ++i)
        if (!strcasecmp(word, words[i]))
            return true;
    return false;
}

/* A letter or a path's slash first, or "--option": then it can be no number and no date. */
static bool is_word(const char *text)
{
    static const char inner[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_./+-=@:";
    size_t length = strlen(text);
    const char *start = text + (strncmp(text, "--", 2) ? 0 : 2);
    bool begins = isalpha((unsigned char)*start) || (*start == '/' && start == text);
    return (begins || !strcmp(text, "--")) && strspn(text, inner) == length &&
           text[length - 1] != ':' && !is_reserved(text);
}

void lks_yaml_append_word(lks_text *out, const char *text)
{
    if (is_word(text))
        lks_text_append(out, "%s", text);
    else
        lks_yaml_append_quoted(out, text);
}

static bool fits_block(const char *text)
{
    size_t length;
    if (!text[strspn(text, "\n")]) /* nothing, or empty lines alone */
        return false;
    for (; *text; text += length) {
        uint32_t point = code_point(text, &length);
        if (needs_escape(point) && point != '\n' && point != '\t')
            return false;
    }
    return true;
}

void lks_yaml_append_block(lks_text *out, const char *text, int indent)
{
    if (!fits_block(text)) {
        lks_yaml_append_quoted(out, text);
        return;
    }
    size_t length = strlen(text);
    bool ends = text[length - 1] == '\n', ends_twice = ends && text[length - 2] == '\n';
    lks_text_append(out, "|%s%s", strchr(" \t\n", *text) ? "2" : "",
                    ends_twice ? "+"
                    : ends     ? ""
                               : "-");
    for (const char *line = text; *line;) {
        size_t line_length = strcspn(line, "\n");
        lks_text_append(out, "\n");
        if (line_length)
            lks_text_append(out, "%*s%.*s", indent, "", (int)line_length, line);
        line += line_length + (line[line_length] == '\n');
    }
}
