#include "launcher/command.h"
#include "runtime/base/json.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/datasets/dataset.h"

#include <stdlib.h>
#include <string.h>

typedef struct dataset_arguments {
    bool json;
    lks_texts rest; /* verb, directories */
    json_t *facts;  /* with --json: of each directory */
} dataset_arguments;

static void show_sizes(const lks_schema *schema, lks_text *out)
{
    switch (schema->kind) {
    case LKS_DATA_TEXT:
        lks_text_append(out, "vocabulary  %lld\n", (long long)schema->vocabulary);
        break;
    case LKS_DATA_IMAGES:
        lks_text_append(out, "image       %lld x %lld x %lld\nclasses     %lld\n",
                        (long long)schema->height, (long long)schema->width,
                        (long long)schema->channels, (long long)schema->classes);
        break;
    case LKS_DATA_TABLE:
        lks_text_append(out, "features    %lld\n", (long long)schema->features);
        if (schema->classes)
            lks_text_append(out, "classes     %lld\n", (long long)schema->classes);
        else
            lks_text_append(out, "target      a number\n");
        break;
    }
}

static lks_status show_text(lks_dataset *dataset, lks_text *out)
{
    const json_t *manifest = lks_dataset_manifest(dataset);
    const json_t *shards = json_object_get(manifest, "shards");
    uint64_t total = 0;
    char size[32];
    for (size_t i = 0; i < json_array_size(shards); ++i)
        total += (uint64_t)json_integer_value(json_object_get(json_array_get(shards, i), "bytes"));
    lks_text_append(out, "%s\n", lks_dataset_directory(dataset));
    lks_text_append(out, "kind        %s\n", lks_data_kind_name(lks_dataset_schema(dataset)->kind));
    lks_text_append(out, "records     %lld\n",
                    (long long)json_integer_value(json_object_get(manifest, "records")));
    show_sizes(lks_dataset_schema(dataset), out);
    lks_text_append(out, "shards      %zu, %s\n", json_array_size(shards),
                    lks_text_bytes(size, sizeof size, total));
    lks_text_append(out, "digest      %s\n", lks_dataset_digest(dataset));
    return LKS_OK;
}

static lks_status dataset_show(const dataset_arguments *a, const char *directory, lks_text *out)
{
    lks_dataset *dataset;
    LKS_TRY(lks_dataset_open(&dataset, directory, 1));
    lks_status status = LKS_OK;
    if (a->json)
        json_array_append(a->facts, (json_t *)lks_dataset_manifest(dataset));
    else
        status = show_text(dataset, out);
    lks_dataset_close(dataset);
    return status;
}

typedef struct verify_report {
    json_t *problems;
    lks_text *out; /* NULL with --json */
} verify_report;

static void collect_problem(void *user, const char *problem)
{
    verify_report *report = user;
    json_array_append_new(report->problems, lks_json_text(problem));
    if (report->out)
        lks_text_append(report->out, "%s\n", problem);
}

static lks_status dataset_verify(const dataset_arguments *a, const char *directory, lks_text *out)
{
    verify_report report = {json_array(), a->json ? NULL : out};
    lks_status status = lks_dataset_verify(directory, collect_problem, &report);
    if (a->json) {
        json_array_append_new(a->facts,
                              json_pack("{s:o, s:b, s:O}", "path", lks_json_text(directory),
                                        "valid", status == LKS_OK, "problems", report.problems));
    } else if (status == LKS_OK) {
        lks_text_append(out, "%s: whole\n", directory);
    }
    json_decref(report.problems);
    return status;
}

typedef lks_status (*dataset_verb)(const dataset_arguments *a, const char *directory,
                                   lks_text *out);

/* Each failure has its line, said at once. */
static lks_status each_directory(const lks_command_context *context, const dataset_arguments *a,
                                 dataset_verb verb)
{
    lks_status worst = LKS_OK, printed = LKS_OK;
    for (size_t i = 1; i < a->rest.count && printed == LKS_OK; ++i) {
        lks_text out = {0};
        lks_status status = verb(a, a->rest.items[i], &out);
        if (status != LKS_OK) {
            worst = status;
            lks_log_failure(status);
            lks_status_set_message("");
        }
        if (out.length)
            printed = lks_command_print(context, out.data, out.length);
        lks_text_release(&out);
    }
    return printed != LKS_OK ? printed : worst;
}

/* An object for one directory, an array for several. */
static lks_status print_facts(const lks_command_context *context, const dataset_arguments *a,
                              size_t flags)
{
    const json_t *facts = a->rest.count > 2 ? a->facts : json_array_get(a->facts, 0);
    if (!facts)
        return LKS_OK;
    char *dump = json_dumps(facts, flags | JSON_REAL_PRECISION(17));
    lks_text out = {0};
    lks_text_append(&out, "%s\n", dump ? dump : "");
    free(dump);
    lks_status status = dump ? lks_command_print(context, out.data, out.length)
                             : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for JSON");
    lks_text_release(&out);
    return status;
}

static lks_status dataset_on_root(lks_command_context *context, void *user)
{
    dataset_arguments *a = user;
    const char *verb = a->rest.count ? a->rest.items[0] : "";
    bool show = !strcmp(verb, "show");
    if (!show && strcmp(verb, "verify"))
        return LKS_FAIL(LKS_ERR_USAGE, "dataset \"%s\", want lockstep dataset show or verify",
                        verb);
    if (a->rest.count < 2)
        return LKS_FAIL(LKS_ERR_USAGE, "no directory: lockstep dataset %s DIR...", verb);
    a->facts = json_array();
    lks_status status = each_directory(context, a, show ? dataset_show : dataset_verify);
    lks_status printed = a->json ? print_facts(context, a, show ? JSON_INDENT(2) : 0) : LKS_OK;
    json_decref(a->facts);
    return status != LKS_OK ? status : printed;
}

static lks_status command_dataset(lks_command_context *context, int argc, char **argv)
{
    dataset_arguments a = {0};
    const lks_flag flags[] = {{"--json", LKS_FLAG_SWITCH, &a.json, NULL, "print JSON"},
                              LKS_FLAGS_END};
    if (lks_command_help(context, &lks_command_dataset, flags, argc, argv))
        return LKS_OK;
    lks_status status =
        lks_comm_agree(context->comm, lks_arguments_parse(argc, argv, flags, NULL, &a.rest));
    if (status == LKS_OK)
        status = lks_command_on_root(context, dataset_on_root, &a);
    lks_texts_release(&a.rest);
    return status;
}

const lks_command lks_command_dataset = {"dataset", "show|verify DIR... [--json]",
                                         "what a dataset is, and whether it is whole",
                                         command_dataset};
