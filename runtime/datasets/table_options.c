#include "runtime/datasets/table_options.h"

#include "runtime/base/memory.h"
#include "runtime/base/text.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

enum { MAX_CATEGORIES_MOST = 1000000 };

const lks_option lks_table_option_table[] = {
    {.name = "target",
     .type = LKS_OPTION_TEXT,
     .offset = offsetof(lks_table_options, target),
     .fallback = "",
     .change = LKS_OPTION_FIXED,
     .about = "name of the column to predict"},
    {.name = "task",
     .type = LKS_OPTION_CHOICE,
     .offset = offsetof(lks_table_options, task),
     .fallback = "auto",
     .choices = "auto|classification|regression",
     .change = LKS_OPTION_FIXED,
     .about =
         "auto: regression if the target is numbers with fractions, or over 20 different ones"},
    {.name = "types",
     .type = LKS_OPTION_TEXT,
     .offset = offsetof(lks_table_options, types),
     .fallback = "",
     .change = LKS_OPTION_FIXED,
     .about = "types of columns that are not to be guessed: age:number,zip:category"},
    {.name = "missing",
     .type = LKS_OPTION_TEXT,
     .offset = offsetof(lks_table_options, missing),
     .fallback = ",NA,NaN,null,?",
     .change = LKS_OPTION_FIXED,
     .about = "texts that mean a missing value, the first of these being the empty one"},
    {.name = "ignore",
     .type = LKS_OPTION_TEXT,
     .offset = offsetof(lks_table_options, ignore),
     .fallback = "",
     .change = LKS_OPTION_FIXED,
     .about = "columns to leave out: id,name"},
    {.name = "max_categories",
     .type = LKS_OPTION_INTEGER,
     .offset = offsetof(lks_table_options, max_categories),
     .fallback = "1000",
     .minimum = 2,
     .maximum = MAX_CATEGORIES_MOST,
     .change = LKS_OPTION_FIXED,
     .about = "most different values of a column of categories"},
    {.name = "delimiter",
     .type = LKS_OPTION_TEXT,
     .offset = offsetof(lks_table_options, delimiter),
     .fallback = ",",
     .change = LKS_OPTION_FIXED,
     .about = "character between fields, or tab"},
    LKS_OPTIONS_END};

lks_status lks_table_split(struct lks_arena *arena, const char *text, lks_table_words *out)
{
    size_t count = 1;
    for (const char *p = text; *p; ++p)
        count += *p == ',';
    out->words = lks_arena_allocate(arena, count * sizeof *out->words);
    out->count = 0;
    while (out->words && out->count < count) {
        size_t length = strcspn(text, ",");
        char *word = lks_arena_format(arena, "%.*s", (int)length, text);
        if (!word)
            break;
        out->words[out->count++] = word;
        text += length + (text[length] == ',');
    }
    return out->count == count ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a list");
}

static lks_status find_column(const lks_csv_row *header, const char *option, const char *name,
                              size_t *out)
{
    for (*out = 0; *out < header->count; ++*out) {
        if (strcmp(header->fields[*out], name) == 0)
            return LKS_OK;
    }
    const char *nearest = lks_text_nearest(name, header->fields, header->count);
    return LKS_FAIL(LKS_ERR_USAGE, "--%s: there is no column \"%s\"%s%s%s", option, name,
                    nearest ? ": did you mean \"" : "", nearest ? nearest : "",
                    nearest ? "\"?" : "");
}

static lks_status assign(const lks_csv_row *header, const char *option, const char *name,
                         lks_table_role role, lks_table_role *roles)
{
    size_t column;
    LKS_TRY(find_column(header, option, name, &column));
    if (roles[column] != LKS_COLUMN_AUTO)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--%s: column \"%s\" is named twice in --target, --ignore and --types",
                        option, name);
    roles[column] = role;
    return LKS_OK;
}

static lks_status assign_type(const lks_csv_row *header, char *text, lks_table_role *roles)
{
    char *colon = strrchr(text, ':');
    const char *type = colon ? colon + 1 : "";
    bool number = strcmp(type, "number") == 0;
    if (!number && strcmp(type, "category") != 0)
        return LKS_FAIL(
            LKS_ERR_USAGE,
            "types: \"%s\": write column:number or column:category, with commas between", text);
    *colon = '\0';
    return assign(header, "types", text, number ? LKS_COLUMN_NUMBER : LKS_COLUMN_CATEGORY, roles);
}

lks_status lks_table_assign_roles(const lks_table_options *options, const lks_csv_row *header,
                                  struct lks_arena *arena, lks_table_role *roles)
{
    lks_table_words list;
    for (size_t i = 0; i < header->count; ++i)
        roles[i] = LKS_COLUMN_AUTO;
    if (options->target[0] == '\0')
        return LKS_FAIL(LKS_ERR_USAGE, "no target: name the column to predict with --target");
    LKS_TRY(assign(header, "target", options->target, LKS_COLUMN_TARGET, roles));
    if (options->ignore[0] != '\0') {
        LKS_TRY(lks_table_split(arena, options->ignore, &list));
        for (size_t i = 0; i < list.count; ++i)
            LKS_TRY(assign(header, "ignore", list.words[i], LKS_COLUMN_IGNORED, roles));
    }
    if (options->types[0] != '\0') {
        LKS_TRY(lks_table_split(arena, options->types, &list));
        for (size_t i = 0; i < list.count; ++i) {
            char *word = lks_arena_copy(arena, list.words[i]);
            if (!word)
                return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a list");
            LKS_TRY(assign_type(header, word, roles));
        }
    }
    return LKS_OK;
}
