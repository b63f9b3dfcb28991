/* evaluate, generate, predict: what a trained model is for. */
#include "launcher/command.h"
#include "runtime/base/text.h"
#include "runtime/train/train.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

typedef struct infer_arguments {
    bool json, best;
    lks_texts settings, rest;
    const char *prompt, *format;
    int64_t tokens, top_k, seed;
    double temperature;
} infer_arguments;

static lks_inference_request make_request(lks_command_context *context, const infer_arguments *a)
{
    return (lks_inference_request){.comm = context->comm,
                                   .path = a->rest.count ? a->rest.items[0] : "",
                                   .best = a->best,
                                   .assignments = a->settings.items,
                                   .assignment_count = (int)a->settings.count};
}

static lks_status print_sink(void *user, const char *data, size_t bytes)
{
    return lks_command_print(user, data, bytes);
}

static lks_status sampling_of(const infer_arguments *a, lks_sampling *out)
{
    if (a->tokens < 1)
        return LKS_FAIL(LKS_ERR_USAGE, "--tokens is %lld, want 1 or more", (long long)a->tokens);
    if (a->top_k < 0)
        return LKS_FAIL(LKS_ERR_USAGE, "--top-k is %lld, want 1 or more, or 0: all",
                        (long long)a->top_k);
    if (a->seed < 0)
        return LKS_FAIL(LKS_ERR_USAGE, "--seed is %lld, want 0 or more", (long long)a->seed);
    if (a->temperature < 0)
        return LKS_FAIL(LKS_ERR_USAGE, "--temperature is %g, want 0 or more", a->temperature);
    *out = (lks_sampling){a->tokens, a->temperature, a->top_k, (uint64_t)a->seed};
    return LKS_OK;
}

typedef lks_status (*infer_verb)(lks_command_context *context, infer_arguments *a);

static lks_status verb_evaluate(lks_command_context *context, infer_arguments *a)
{
    lks_evaluation result;
    lks_text out = {0};
    LKS_TRY(lks_comm_agree(context->comm, lks_command_expect(&lks_command_evaluate, &a->rest, 1)));
    lks_inference_request request = make_request(context, a);
    LKS_TRY(lks_evaluate(&request, &result));
    bool classes = !isnan(result.accuracy);
    if (a->json) {
        lks_text_append(&out,
                        "{\"loss\": %.17g, \"samples\": %llu, \"targets\": %llu, \"step\": %llu, ",
                        result.loss, (unsigned long long)result.samples,
                        (unsigned long long)result.targets, (unsigned long long)result.step);
        if (classes)
            lks_text_append(&out, "\"accuracy\": %.17g, ", result.accuracy);
        lks_text_append(&out, "\"seconds\": %.3f}\n", result.seconds);
    } else {
        lks_text_append(&out, "step %llu: loss %.4f", (unsigned long long)result.step, result.loss);
        if (classes)
            lks_text_append(&out, ", accuracy %.2f%%", 100 * result.accuracy);
        lks_text_append(&out, " over %llu samples\n", (unsigned long long)result.samples);
    }
    lks_status status =
        lks_comm_agree(context->comm, lks_command_print(context, out.data, out.length));
    lks_text_release(&out);
    return status;
}

static lks_status verb_generate(lks_command_context *context, infer_arguments *a)
{
    lks_sampling sampling;
    lks_status status = lks_command_expect(&lks_command_generate, &a->rest, 1);
    if (status == LKS_OK)
        status = sampling_of(a, &sampling);
    LKS_TRY(lks_comm_agree(context->comm, status));
    lks_inference_request request = make_request(context, a);
    LKS_TRY(lks_generate(&request, a->prompt, &sampling, print_sink, context));
    return lks_comm_agree(context->comm, lks_command_print(context, "\n", 1));
}

static lks_status verb_predict(lks_command_context *context, infer_arguments *a)
{
    lks_sampling sampling;
    bool csv = !strcmp(a->format, "csv");
    lks_status status = lks_command_expect(&lks_command_predict, &a->rest, 2);
    if (status == LKS_OK && !csv && strcmp(a->format, "json"))
        status = LKS_FAIL(LKS_ERR_USAGE, "--format is \"%s\", want json or csv", a->format);
    if (status == LKS_OK)
        status = sampling_of(a, &sampling);
    LKS_TRY(lks_comm_agree(context->comm, status));
    lks_inference_request request = make_request(context, a);
    return lks_predict(&request, a->rest.items[1], csv, &sampling, print_sink, context);
}

enum { FLAG_JSON = 1, FLAG_FORMAT = 2, FLAG_PROMPT = 4, FLAG_SAMPLING = 8 };

#define MOST_FLAGS 10

/* The flags that a verb has, of all that there are. */
static void take_flags(infer_arguments *a, unsigned has, lks_flag flags[MOST_FLAGS])
{
    const struct {
        unsigned group;
        lks_flag flag;
    } all[] = {
        {0,
         {"--set", LKS_FLAG_LIST, &a->settings, "key=value",
          "overrides a setting, like data.validation=DIR"}},
        {0,
         {"--best", LKS_FLAG_SWITCH, &a->best, NULL,
          "the checkpoint of the lowest validation loss, not the newest"}},
        {FLAG_JSON, {"--json", LKS_FLAG_SWITCH, &a->json, NULL, "print JSON"}},
        {FLAG_FORMAT, {"--format", LKS_FLAG_TEXT, &a->format, "json|csv", "JSON lines or CSV"}},
        {FLAG_PROMPT, {"--prompt", LKS_FLAG_TEXT, &a->prompt, "TEXT", "what is to be continued"}},
        {FLAG_SAMPLING,
         {"--tokens", LKS_FLAG_INTEGER, &a->tokens, "N", "text: tokens to make; default 256"}},
        {FLAG_SAMPLING,
         {"--temperature", LKS_FLAG_NUMBER, &a->temperature, "T",
          "text: 0 takes the likeliest token; default 0.8"}},
        {FLAG_SAMPLING,
         {"--top-k", LKS_FLAG_INTEGER, &a->top_k, "K",
          "text: among the K likeliest; 0: all; default 40"}},
        {FLAG_SAMPLING, {"--seed", LKS_FLAG_INTEGER, &a->seed, "N", "text: of the sampling"}},
    };
    size_t count = 0;
    _Static_assert(sizeof all / sizeof all[0] < MOST_FLAGS, "room for all flags and their end");
    for (size_t i = 0; i < sizeof all / sizeof all[0]; ++i)
        if (!all[i].group || (all[i].group & has))
            flags[count++] = all[i].flag;
    flags[count] = (lks_flag)LKS_FLAGS_END;
}

static lks_status infer(lks_command_context *context, const lks_command *command, unsigned has,
                        infer_verb verb, int argc, char **argv)
{
    infer_arguments a = {
        .prompt = "", .format = "json", .tokens = 256, .temperature = 0.8, .top_k = 40};
    lks_flag flags[MOST_FLAGS];
    take_flags(&a, has, flags);
    if (lks_command_help(context, command, flags, argc, argv))
        return LKS_OK;
    lks_status status =
        lks_comm_agree(context->comm, lks_arguments_parse(argc, argv, flags, NULL, &a.rest));
    if (status == LKS_OK)
        status = verb(context, &a);
    lks_texts_release(&a.settings);
    lks_texts_release(&a.rest);
    return status;
}

static lks_status command_evaluate(lks_command_context *context, int argc, char **argv)
{
    return infer(context, &lks_command_evaluate, FLAG_JSON, verb_evaluate, argc, argv);
}

static lks_status command_generate(lks_command_context *context, int argc, char **argv)
{
    return infer(context, &lks_command_generate, FLAG_PROMPT | FLAG_SAMPLING, verb_generate, argc,
                 argv);
}

static lks_status command_predict(lks_command_context *context, int argc, char **argv)
{
    return infer(context, &lks_command_predict, FLAG_FORMAT | FLAG_SAMPLING, verb_predict, argc,
                 argv);
}

const lks_command lks_command_evaluate = {
    "evaluate", "RUN|CHECKPOINT [--json] [--best] [--set key=value]...",
    "loss and accuracy over data.validation; in parallel under mpirun", command_evaluate};
const lks_command lks_command_generate = {"generate", "RUN|CHECKPOINT [--prompt TEXT] [--tokens N]",
                                          "text from a language model", command_generate};
const lks_command lks_command_predict = {
    "predict", "RUN|CHECKPOINT INPUT [--format json|csv]",
    "a class, a number or a continuation for each record of INPUT", command_predict};
