#include "launcher/command.h"
#include "launcher/notices.h"
#include "runtime/base/config.h"
#include "runtime/base/files.h"
#include "runtime/base/text.h"
#include "runtime/train/train.h"

#include <stdlib.h>
#include <string.h>

typedef struct train_arguments {
    const char *run, *resume;
    bool profile, take_over;
    lks_texts settings, rest;
} train_arguments;

static lks_status parse_resume(const char *text, lks_resume *out)
{
    static const char *const names[] = {"auto", "must", "never"};
    for (int i = 0; i < 3; ++i)
        if (!strcmp(text, names[i])) {
            *out = (lks_resume)i;
            return LKS_OK;
        }
    return LKS_FAIL(LKS_ERR_USAGE, "--resume is \"%s\", want auto, must or never", text);
}

/* "runs/gpt" for "examples/gpt.yaml". */
static void default_run(lks_text *out, const char *config)
{
    const char *name = strrchr(config, '/') ? strrchr(config, '/') + 1 : config;
    const char *dot = strrchr(name, '.');
    int length = dot && dot != name ? (int)(dot - name) : (int)strlen(name);
    lks_text_append(out, "runs/%.*s", length, name);
}

static lks_status train_prepare(train_arguments *a, lks_config *config, lks_resume *resume)
{
    LKS_TRY(lks_command_expect(&lks_command_train, &a->rest, 1));
    LKS_TRY(parse_resume(a->resume, resume));
    return lks_command_read_config(config, a->rest.items[0], &a->settings);
}

static lks_status train_run(lks_command_context *context, train_arguments *a, lks_config *config)
{
    lks_resume resume = LKS_RESUME_AUTO;
    lks_text run = {0};
    lks_notices *notices = NULL;
    LKS_TRY(lks_comm_agree(context->comm, train_prepare(a, config, &resume)));
    LKS_TRY(lks_comm_agree(context->comm, lks_notices_open(&notices)));
    if (!a->run)
        default_run(&run, a->rest.items[0]);
    lks_train_request request = {.comm = context->comm,
                                 .config = config,
                                 .run_directory = a->run ? a->run : run.data,
                                 .resume = resume,
                                 .take_over = a->take_over,
                                 .notice = context->notice,
                                 .watch = lks_notices_watch(notices),
                                 .profile = a->profile};
    lks_status status = lks_train(&request, &context->alone);
    if (context->alone)
        return status;
    lks_notices_close(notices);
    lks_text_release(&run);
    return status;
}

static lks_status command_train(lks_command_context *context, int argc, char **argv)
{
    train_arguments a = {.resume = "auto"};
    const lks_flag flags[] = {
        {"--set", LKS_FLAG_LIST, &a.settings, "key=value", "overrides a setting of the file"},
        {"--run", LKS_FLAG_TEXT, &a.run, "DIR", "run directory; default runs/<name of CONFIG>"},
        {"--resume", LKS_FLAG_TEXT, &a.resume, "auto|must|never",
         "go on from the run directory's newest valid checkpoint"},
        {"--take-over", LKS_FLAG_SWITCH, &a.take_over, NULL,
         "go on although another start holds the run directory: it is frozen or cut off"},
        {"--profile", LKS_FLAG_SWITCH, &a.profile, NULL, "print where the time of rank 0 went"},
        LKS_FLAGS_END,
    };
    if (lks_command_help(context, &lks_command_train, flags, argc, argv))
        return LKS_OK;
    lks_config *config = NULL;
    lks_status status = lks_config_create(&config);
    if (status == LKS_OK)
        status = lks_arguments_parse(argc, argv, flags, NULL, &a.rest);
    status = lks_comm_agree(context->comm, status);
    if (status == LKS_OK)
        status = train_run(context, &a, config);
    if (context->alone)
        return status;
    lks_config_destroy(config);
    lks_texts_release(&a.settings);
    lks_texts_release(&a.rest);
    return status;
}

const lks_command lks_command_train = {
    "train", "CONFIG [--set key=value]... [--run DIR] [--resume auto|must|never]",
    "trains a model; resumes where the run directory is", command_train};

typedef struct config_arguments {
    bool json;
    lks_texts settings, rest;
} config_arguments;

static lks_status config_show(lks_command_context *context, config_arguments *a, lks_config *config)
{
    LKS_TRY(lks_command_expect(&lks_command_config, &a->rest, 1));
    LKS_TRY(lks_command_read_config(config, a->rest.items[0], &a->settings));
    LKS_TRY(lks_train_check_config(config));
    lks_text text = {0};
    if (a->json) {
        json_t *json = lks_config_to_json(config);
        char *dump = json_dumps(json, JSON_INDENT(2));
        lks_text_append(&text, "%s\n", dump ? dump : "{}");
        free(dump);
        json_decref(json);
    } else {
        lks_config_print_yaml(config, true, &text);
    }
    lks_status status = lks_command_print(context, text.data, text.length);
    lks_text_release(&text);
    return status;
}

static lks_status config_on_root(lks_command_context *context, void *user)
{
    config_arguments *a = user;
    lks_config *config;
    LKS_TRY(lks_config_create(&config));
    lks_status status = config_show(context, a, config);
    lks_config_destroy(config);
    return status;
}

static lks_status command_config(lks_command_context *context, int argc, char **argv)
{
    config_arguments a = {0};
    const lks_flag flags[] = {
        {"--set", LKS_FLAG_LIST, &a.settings, "key=value", "overrides a setting of the file"},
        {"--json", LKS_FLAG_SWITCH, &a.json, NULL, "print JSON"},
        LKS_FLAGS_END,
    };
    if (lks_command_help(context, &lks_command_config, flags, argc, argv))
        return LKS_OK;
    lks_status status =
        lks_comm_agree(context->comm, lks_arguments_parse(argc, argv, flags, NULL, &a.rest));
    if (status == LKS_OK)
        status = lks_command_on_root(context, config_on_root, &a);
    lks_texts_release(&a.settings);
    lks_texts_release(&a.rest);
    return status;
}

const lks_command lks_command_config = {
    "config", "CONFIG [--set key=value]... [--json]",
    "the effective configuration, with where each value came from", command_config};
