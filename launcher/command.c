#include "launcher/command.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

extern char **environ;

bool lks_command_help(const lks_command_context *context, const lks_command *command,
                      const lks_flag *flags, int argc, char **argv)
{
    bool asked = false;
    for (int i = 0; i < argc; ++i)
        asked |= !strcmp(argv[i], "--help") || !strcmp(argv[i], "-h");
    if (asked && lks_comm_rank(context->comm) == 0) {
        printf("lockstep %s %s\n%s\n\n", command->name, command->usage, command->about);
        lks_arguments_help(flags);
    }
    return asked;
}

lks_status lks_command_read_config(lks_config *config, const char *path, const lks_texts *settings)
{
    LKS_TRY(lks_config_read_file(config, path));
    LKS_TRY(lks_config_use_environment(config, environ));
    for (size_t i = 0; i < settings->count; ++i)
        LKS_TRY(lks_config_set(config, settings->items[i], "--set"));
    return LKS_OK;
}

lks_status lks_command_expect(const lks_command *command, const lks_texts *rest, size_t count)
{
    char given[32];
    if (rest->count == count)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_USAGE, "%s, want %zu: lockstep %s %s",
                    lks_text_count(given, sizeof given, rest->count, "argument"), count,
                    command->name, command->usage);
}

lks_status lks_command_print(const lks_command_context *context, const char *text, size_t bytes)
{
    if (lks_comm_rank(context->comm) != 0)
        return LKS_OK;
    if (fwrite(text, 1, bytes, stdout) == bytes && !fflush(stdout))
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_IO, "standard output: %s", strerror(errno));
}

typedef struct root_work {
    lks_command_context *context;
    lks_command_work work;
    void *user;
} root_work;

static lks_status run_root_work(void *user)
{
    root_work *w = user;
    return w->work(w->context, w->user);
}

lks_status lks_command_on_root(lks_command_context *context, lks_command_work work, void *user)
{
    root_work w = {context, work, user};
    return lks_comm_on_root(context->comm, run_root_work, &w);
}
