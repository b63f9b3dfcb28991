#include "launcher/command.h"
#include "runtime/base/config.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"
#include "runtime/datasets/prepare.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Ranks for datasets, which know no communicator ------------------------ */

static lks_status parallel_agree(void *user, lks_status mine)
{
    return lks_comm_agree(user, mine);
}

static lks_status parallel_all_gather(void *user, const void *mine, size_t bytes, void **out,
                                      size_t *counts)
{
    int size = lks_comm_size(user);
    size_t *lengths, total = 0;
    *out = NULL;
    LKS_TRY(LKS_NEW_ARRAY(&lengths, (size_t)size));
    for (int rank = 0; rank < size; ++rank)
        lengths[rank] = sizeof *counts;
    lks_status status = lks_comm_all_gather(user, &bytes, counts, lengths);
    lks_memory_free(lengths);
    LKS_TRY(status);
    for (int rank = 0; rank < size; ++rank)
        total += counts[rank];
    *out = malloc(total ? total : 1);
    LKS_TRY(lks_comm_agree(
        user, *out ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for %zu bytes", total)));
    return lks_comm_all_gather(user, mine, *out, counts);
}

/* --- Options of a format, as flags ------------------------------------------ */

typedef struct format_flags {
    const char *format;
    const lks_option *table;
    void *values;
    lks_arena *arena;
} format_flags;

/* "--max-categories" is the option max_categories. */
static bool flag_is_option(const char *flag, const char *option)
{
    flag += 2;
    for (; *flag && *option; ++flag, ++option)
        if (*flag != *option && !(*flag == '-' && *option == '_'))
            return false;
    return !*flag && !*option;
}

static lks_status format_set(void *user, const char *name, const char *value, bool *known)
{
    format_flags *f = user;
    for (const lks_option *option = f->table; option->name; ++option)
        if (flag_is_option(name, option->name)) {
            *known = true;
            if (!value)
                return LKS_FAIL(LKS_ERR_USAGE, "%s wants a value", name);
            return lks_option_set(option, f->values, name, value, "the command line", f->arena);
        }
    return LKS_OK;
}

/* "--max-categories", of the arena. */
static const char *format_flag_name(void *user, size_t i)
{
    format_flags *f = user;
    if (!f->table[i].name)
        return NULL;
    char *flag = lks_arena_format(f->arena, "--%s", f->table[i].name);
    for (char *c = flag; c && *c; ++c)
        *c = *c == '_' ? '-' : *c;
    return flag;
}

static lks_status format_defaults(format_flags *f)
{
    for (const lks_option *option = f->table; option->name; ++option)
        if (option->fallback)
            LKS_TRY(lks_option_set(option, f->values, option->name, option->fallback, "default",
                                   f->arena));
    return LKS_OK;
}

static void print_format_flags(const char *format)
{
    for (const lks_option *option = lks_prepare_options(format); option && option->name; ++option) {
        printf("  --");
        for (const char *c = option->name; *c; ++c)
            putchar(*c == '_' ? '-' : *c);
        printf(" (%s; default \"%s\")\n        %s\n", format,
               option->fallback ? option->fallback : "", option->about);
    }
}

/* --- The command ---------------------------------------------------------------- */

typedef struct prepare_arguments {
    const char *output, *split;
    int64_t shuffle, shard_bytes;
    bool force;
    lks_texts rest;
} prepare_arguments;

enum { NO_SHUFFLE = -1 };

static lks_status parse_split(const char *split, double *fraction)
{
    const char *name = "validation=";
    *fraction = 0;
    if (!split)
        return LKS_OK;
    if (strncmp(split, name, strlen(name)) ||
        !lks_text_parse_number(split + strlen(name), fraction) || *fraction <= 0 || *fraction >= 1)
        return LKS_FAIL(
            LKS_ERR_USAGE,
            "--split is \"%s\", want validation=F with F between 0 and 1, like validation=0.1",
            split);
    return LKS_OK;
}

static lks_status prepare_run(lks_command_context *context, prepare_arguments *a, format_flags *f)
{
    lks_parallel parallel = {.rank = lks_comm_rank(context->comm),
                             .size = lks_comm_size(context->comm),
                             .agree = parallel_agree,
                             .all_gather = parallel_all_gather,
                             .user = context->comm};
    lks_prepare_spec spec = {.format = f->format,
                             .output = a->output,
                             .inputs = a->rest.items,
                             .input_count = (int)a->rest.count,
                             .shuffle = a->shuffle != NO_SHUFFLE,
                             .shuffle_seed = (uint64_t)a->shuffle,
                             .force = a->force,
                             .shard_bytes = a->shard_bytes,
                             .format_options = f->values};
    lks_status status = parse_split(a->split, &spec.validation_fraction);
    if (status == LKS_OK && !a->output)
        status = LKS_FAIL(LKS_ERR_USAGE, "--output DIR is missing: where is the dataset to go?");
    if (status == LKS_OK && !a->rest.count)
        status = LKS_FAIL(LKS_ERR_USAGE, "no input files: lockstep prepare %s",
                          lks_command_prepare.usage);
    if (status == LKS_OK && a->shuffle < NO_SHUFFLE)
        status = LKS_FAIL(LKS_ERR_USAGE, "--shuffle is %lld, want a seed of 0 or more",
                          (long long)a->shuffle);
    LKS_TRY(lks_comm_agree(context->comm, status));
    return lks_prepare(&spec, &parallel);
}

static lks_status find_format(const char *name, format_flags *f)
{
    f->format = name;
    f->table = name ? lks_prepare_options(name) : NULL;
    if (f->table)
        return LKS_OK;
    lks_text known = {0};
    for (const char *const *n = lks_prepare_formats(); *n; ++n)
        lks_text_append(&known, "%s%s", known.length ? ", " : "", *n);
    lks_status status =
        name ? LKS_FAIL(LKS_ERR_USAGE, "unknown format %s, want one of %s", name, known.data)
             : LKS_FAIL(LKS_ERR_USAGE, "which format? One of %s", known.data);
    lks_text_release(&known);
    return status;
}

static lks_status prepare_parse(int argc, char **argv, const lks_flag *flags, format_flags *f,
                                prepare_arguments *a)
{
    LKS_TRY(find_format(argc > 0 ? argv[0] : NULL, f));
    LKS_TRY(lks_arena_create(&f->arena));
    LKS_TRY(lks_memory_allocate(&f->values, 1, lks_prepare_options_bytes(f->format)));
    LKS_TRY(format_defaults(f));
    lks_flag_fallback fallback = {format_set, format_flag_name, f};
    return lks_arguments_parse(argc - 1, argv + 1, flags, &fallback, &a->rest);
}

static lks_status command_prepare(lks_command_context *context, int argc, char **argv)
{
    prepare_arguments a = {.shuffle = NO_SHUFFLE};
    format_flags f = {0};
    const lks_flag flags[] = {
        {"--output", LKS_FLAG_TEXT, &a.output, "DIR", "the dataset's directory"},
        {"--split", LKS_FLAG_TEXT, &a.split, "validation=F",
         "DIR/train and DIR/validation, the latter the last share F of the input"},
        {"--shuffle", LKS_FLAG_INTEGER, &a.shuffle, "SEED", "shuffle the records before the cut"},
        {"--shard-bytes", LKS_FLAG_INTEGER, &a.shard_bytes, "N", "size of a shard; default 64 MiB"},
        {"--force", LKS_FLAG_SWITCH, &a.force, NULL, "replace an existing dataset"},
        LKS_FLAGS_END,
    };
    if (lks_command_help(context, &lks_command_prepare, flags, argc, argv)) {
        for (const char *const *n = lks_prepare_formats(); *n && lks_comm_rank(context->comm) == 0;
             ++n)
            print_format_flags(*n);
        return LKS_OK;
    }
    lks_status status = lks_comm_agree(context->comm, prepare_parse(argc, argv, flags, &f, &a));
    if (status == LKS_OK)
        status = prepare_run(context, &a, &f);
    lks_memory_free(f.values);
    lks_arena_destroy(f.arena);
    lks_texts_release(&a.rest);
    return status;
}

const lks_command lks_command_prepare = {
    "prepare", "text|images|table --output DIR [options] INPUT...",
    "turns files into a dataset; in parallel under mpirun", command_prepare};
