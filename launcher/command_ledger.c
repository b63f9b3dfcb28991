#include "launcher/command.h"
#include "runtime/base/text.h"
#include "runtime/train/ledger.h"

#include <stdlib.h>
#include <string.h>

typedef struct ledger_arguments {
    bool json;
    lks_texts rest; /* verb, run directory */
} ledger_arguments;

static void append_text(lks_text *out, const lks_ledger_proof *p)
{
    char starts[32], epochs[32], samples[32], rest[32], lines[32], checkpoints[32];
    lks_text_append(
        out,
        "steps 1 to %llu, %s: %s of %s, each used once, and %s of the next, none twice\n"
        "recorded by %s of ledger.jsonl and %s; chain %s\n",
        (unsigned long long)p->steps, lks_text_count(starts, sizeof starts, p->starts, "start"),
        lks_text_count(epochs, sizeof epochs, p->epochs, "whole epoch"),
        lks_text_count(samples, sizeof samples, p->samples, "sample"),
        lks_text_count(rest, sizeof rest, p->rest, "sample"),
        lks_text_count(lines, sizeof lines, p->lines, "line"),
        lks_text_count(checkpoints, sizeof checkpoints, p->checkpoints, "checkpoint"), p->chain);
}

static lks_status append_proof(lks_text *out, const lks_ledger_proof *p, bool as_json)
{
    if (!as_json) {
        append_text(out, p);
        return LKS_OK;
    }
    json_t *json = json_pack(
        "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s}", "steps", (json_int_t)p->steps, "starts",
        (json_int_t)p->starts, "samples", (json_int_t)p->samples, "whole_epochs",
        (json_int_t)p->epochs, "samples_of_next_epoch", (json_int_t)p->rest, "lines",
        (json_int_t)p->lines, "checkpoints", (json_int_t)p->checkpoints, "chain", p->chain);
    char *dump = json ? json_dumps(json, 0) : NULL;
    json_decref(json);
    if (!dump)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for JSON");
    lks_text_append(out, "%s\n", dump);
    free(dump);
    return LKS_OK;
}

static lks_status ledger_on_root(lks_command_context *context, void *user)
{
    const ledger_arguments *a = user;
    lks_ledger_proof proof;
    lks_text out = {0};
    if (a->rest.count != 2 || strcmp(a->rest.items[0], "verify"))
        return LKS_FAIL(LKS_ERR_USAGE, "want one run directory: lockstep ledger verify RUN");
    LKS_TRY(lks_ledger_verify(a->rest.items[1], &proof));
    lks_status status = append_proof(&out, &proof, a->json);
    if (status == LKS_OK)
        status = lks_command_print(context, out.data, out.length);
    lks_text_release(&out);
    return status;
}

static lks_status command_ledger(lks_command_context *context, int argc, char **argv)
{
    ledger_arguments a = {0};
    const lks_flag flags[] = {
        {"--json", LKS_FLAG_SWITCH, &a.json, NULL, "print JSON"},
        LKS_FLAGS_END,
    };
    if (lks_command_help(context, &lks_command_ledger, flags, argc, argv))
        return LKS_OK;
    lks_status status =
        lks_comm_agree(context->comm, lks_arguments_parse(argc, argv, flags, NULL, &a.rest));
    if (status == LKS_OK)
        status = lks_command_on_root(context, ledger_on_root, &a);
    lks_texts_release(&a.rest);
    return status;
}

const lks_command lks_command_ledger = {
    "ledger", "verify RUN [--json]",
    "proves that each epoch of a run used every sample once, over all its starts", command_ledger};
