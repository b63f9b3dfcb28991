#include "launcher/command.h"
#include "launcher/doctor/check.h"
#include "launcher/doctor/doctor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct doctor_arguments {
    lks_doctor_options options;
    lks_texts settings, rest;
    bool json;
} doctor_arguments;

static lks_status doctor_check_arguments(doctor_arguments *a)
{
    if (a->rest.count > 1)
        return lks_command_expect(&lks_command_doctor, &a->rest, 1);
    if (a->settings.count && !a->rest.count)
        return LKS_FAIL(LKS_ERR_USAGE, "--set needs a CONFIG to set it in");
    if (!(a->options.limit_seconds > 0) || a->options.limit_seconds > 3600)
        return LKS_FAIL(LKS_ERR_USAGE, "--limit is %g, want more than 0, at most 3600",
                        a->options.limit_seconds);
    a->options.config = a->rest.count ? a->rest.items[0] : NULL;
    a->options.settings = &a->settings;
    return LKS_OK;
}

static lks_status doctor_print(const lks_command_context *context, const json_t *report, bool json)
{
    lks_text text = {0};
    if (json) {
        char *dump = json_dumps(report, JSON_INDENT(2));
        lks_text_append(&text, "%s\n", dump ? dump : "{}");
        free(dump);
    } else {
        lks_doctor_print(report, &text);
    }
    lks_status status = lks_command_print(context, text.data, text.length);
    lks_text_release(&text);
    return status;
}

/* Rank 0 prints; all end with the same status. */
static lks_status doctor_run(lks_command_context *context, doctor_arguments *a)
{
    static const lks_status statuses[] = {LKS_OK, LKS_WARNED, LKS_ERR_CORRUPT};
    json_t *report = NULL;
    LKS_TRY(lks_comm_agree(context->comm, doctor_check_arguments(a)));
    LKS_TRY(lks_doctor_run(context->comm, &a->options, &report));
    lks_status status = report ? doctor_print(context, report, a->json) : LKS_OK;
    int64_t worst = report ? lks_doctor_worst(report) : 0;
    json_decref(report);
    LKS_TRY(lks_comm_agree(context->comm, status));
    LKS_TRY(lks_comm_broadcast(context->comm, 0, &worst, sizeof worst));
    lks_status_set_message("");
    return statuses[worst];
}

static void doctor_list(const lks_command_context *context)
{
    if (lks_comm_rank(context->comm) != 0)
        return;
    printf("\nChecks:\n");
    for (int i = 0; lks_doctor_checks[i]; ++i)
        printf("  %-14s %s\n", lks_doctor_checks[i]->name, lks_doctor_checks[i]->about);
}

static lks_status command_doctor(lks_command_context *context, int argc, char **argv)
{
    doctor_arguments a = {.options = {.limit_seconds = 10, .comm_problem = context->comm_problem}};
    const lks_flag flags[] = {
        {"--set", LKS_FLAG_LIST, &a.settings, "key=value", "overrides a setting of CONFIG"},
        {"--run", LKS_FLAG_TEXT, &a.options.run, "DIR",
         "run directory; default runs/<name of CONFIG>"},
        {"--hosts", LKS_FLAG_TEXT, &a.options.hosts, "FILE",
         "lines \"HOST slots=N\"; default: SLURM's hosts, /etc/mpi/hostfile"},
        {"--only", LKS_FLAG_LIST, &a.options.only, "CHECK", "this check; may be repeated"},
        {"--limit", LKS_FLAG_NUMBER, &a.options.limit_seconds, "SECONDS",
         "for each step of a check (10)"},
        {"--json", LKS_FLAG_SWITCH, &a.json, NULL, "print JSON, with all that was found"},
        LKS_FLAGS_END,
    };
    if (lks_command_help(context, &lks_command_doctor, flags, argc, argv)) {
        doctor_list(context);
        return LKS_OK;
    }
    lks_status status =
        lks_comm_agree(context->comm, lks_arguments_parse(argc, argv, flags, NULL, &a.rest));
    if (status == LKS_OK)
        status = doctor_run(context, &a);
    lks_texts_release(&a.settings);
    lks_texts_release(&a.options.only);
    lks_texts_release(&a.rest);
    return status;
}

const lks_command lks_command_doctor = {
    "doctor", "[CONFIG] [--run DIR] [--hosts FILE] [--json]",
    "what is wrong with this cluster, and the line that mends it", command_doctor};
