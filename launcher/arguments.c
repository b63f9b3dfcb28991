#include "launcher/arguments.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"

#include <stdio.h>
#include <string.h>

static lks_status texts_append(lks_texts *texts, const char *item)
{
    LKS_TRY(LKS_GROW(&texts->items, &texts->capacity, texts->count + 1));
    texts->items[texts->count++] = item;
    return LKS_OK;
}

void lks_texts_release(lks_texts *texts)
{
    lks_memory_free(texts->items);
    *texts = (lks_texts){0};
}

static lks_status flag_set(const lks_flag *flag, const char *value)
{
    switch (flag->type) {
    case LKS_FLAG_SWITCH:
        *(bool *)flag->target = true;
        return LKS_OK;
    case LKS_FLAG_TEXT:
        *(const char **)flag->target = value;
        return LKS_OK;
    case LKS_FLAG_LIST:
        return texts_append(flag->target, value);
    case LKS_FLAG_INTEGER:
        if (lks_text_parse_integer(value, flag->target))
            return LKS_OK;
        return LKS_FAIL(LKS_ERR_USAGE, "%s is \"%s\", want a whole number", flag->name, value);
    case LKS_FLAG_NUMBER:
        if (lks_text_parse_number(value, flag->target))
            return LKS_OK;
        return LKS_FAIL(LKS_ERR_USAGE, "%s is \"%s\", want a number", flag->name, value);
    }
    return LKS_FAIL(LKS_ERR_INTERNAL, "%s: unknown type of flag", flag->name);
}

static lks_status collect_names(const lks_flag *table, const lks_flag_fallback *fallback,
                                lks_texts *names)
{
    const char *name;
    for (; table->name; ++table)
        LKS_TRY(texts_append(names, table->name));
    for (size_t i = 0; fallback && (name = fallback->name(fallback->user, i)); ++i)
        LKS_TRY(texts_append(names, name));
    return LKS_OK;
}

static lks_status refuse_unknown(const lks_flag *table, const lks_flag_fallback *fallback,
                                 const char *name)
{
    lks_texts names = {0};
    lks_status status = collect_names(table, fallback, &names);
    const char *near = lks_text_nearest(name, names.items, names.count);
    if (status == LKS_OK && near)
        status = LKS_FAIL(LKS_ERR_USAGE, "unknown option %s, did you mean %s?", name, near);
    else if (status == LKS_OK)
        status = LKS_FAIL(LKS_ERR_USAGE, "unknown option %s; --help lists those there are", name);
    lks_texts_release(&names);
    return status;
}

/* One `--name[=value]` at argv[*at]; advances past a separate value. */
static lks_status parse_flag(int argc, char **argv, int *at, const lks_flag *table,
                             const lks_flag_fallback *fallback)
{
    char *name = argv[*at], *equals = strchr(name, '=');
    if (equals)
        *equals = '\0';
    const lks_flag *flag = table;
    while (flag->name && strcmp(flag->name, name))
        ++flag;
    const char *value = equals ? equals + 1 : NULL;
    bool takes_value = !flag->name || flag->type != LKS_FLAG_SWITCH;
    if (!flag->name && !fallback)
        return refuse_unknown(table, NULL, name);
    if (!takes_value && value)
        return LKS_FAIL(LKS_ERR_USAGE, "%s takes no value", name);
    if (takes_value && !value && *at + 1 < argc)
        value = argv[++*at];
    if (flag->name && takes_value && !value)
        return LKS_FAIL(LKS_ERR_USAGE, "%s wants a value: %s %s", name, name, flag->value);
    if (flag->name)
        return flag_set(flag, value);
    bool known = false;
    LKS_TRY(fallback->set(fallback->user, name, value, &known));
    return known ? LKS_OK : refuse_unknown(table, fallback, name);
}

lks_status lks_arguments_parse(int argc, char **argv, const lks_flag *table,
                               const lks_flag_fallback *fallback, lks_texts *rest)
{
    bool flags = true;
    for (int i = 0; i < argc; ++i) {
        if (flags && !strcmp(argv[i], "--"))
            flags = false;
        else if (flags && argv[i][0] == '-' && argv[i][1] == '-')
            LKS_TRY(parse_flag(argc, argv, &i, table, fallback));
        else
            LKS_TRY(texts_append(rest, argv[i]));
    }
    return LKS_OK;
}

void lks_arguments_help(const lks_flag *table)
{
    for (; table->name; ++table)
        printf("  %s %s\n        %s\n", table->name, table->value ? table->value : "",
               table->about);
}
