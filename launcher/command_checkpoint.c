#include "checkpoints/checkpoint.h"
#include "launcher/command.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/base/log.h"
#include "runtime/base/text.h"
#include "runtime/train/expect.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct checkpoint_arguments {
    bool json, best;
    const char *config;       /* verify: what the checkpoints should be of; NULL: their run's job */
    const lks_expect *expect; /* the same, read */
    lks_texts settings, rest; /* paths, without the verb */
    json_t *facts;            /* with --json: what list, show, verify and digest found */
} checkpoint_arguments;

static lks_status append_json(lks_text *out, json_t *json, size_t flags)
{
    char *dump = json ? json_dumps(json, flags | JSON_REAL_PRECISION(17)) : NULL;
    if (!dump)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for JSON");
    lks_text_append(out, "%s\n", dump);
    free(dump);
    return LKS_OK;
}

static lks_status none_there(const char *path)
{
    return LKS_FAIL(LKS_ERR_USAGE, "%s %s: give a run directory or a checkpoint", path,
                    lks_files_exists(path) ? "holds no checkpoint" : "does not exist");
}

static bool holds_checkpoints(const char *path)
{
    char *below = lks_files_join(path, "checkpoints");
    bool holds = below && lks_files_is_directory(below);
    free(below);
    return holds;
}

/* A checkpoint, or a run directory's newest (or best) valid one. */
static lks_status find_one(const checkpoint_arguments *a, const char *path, lks_checkpoint **out)
{
    LKS_TRY(lks_checkpoint_find(out, path, LKS_CHECK_MANIFEST, false, a->best));
    if (*out)
        return LKS_OK;
    return none_there(path);
}

static json_t *entry_json(const lks_checkpoint_entry *entry)
{
    json_t *json = json_pack("{s:o, s:I, s:b, s:I}", "path", lks_json_text(entry->path), "step",
                             (json_int_t)entry->step, "valid", entry->valid, "bytes",
                             (json_int_t)entry->bytes);
    if (json && entry->problem)
        json_object_set_new(json, "problem", lks_json_text(entry->problem));
    if (json && isfinite(entry->validation_loss))
        json_object_set_new(json, "validation_loss", json_real(entry->validation_loss));
    return json;
}

static void append_entry(lks_text *out, const lks_checkpoint_entry *entry)
{
    char size[32];
    lks_text_append(out, "%10llu  %-10s", (unsigned long long)entry->step,
                    lks_text_bytes(size, sizeof size, entry->bytes));
    if (isfinite(entry->validation_loss))
        lks_text_append(out, "  validation loss %.4f", entry->validation_loss);
    lks_text_append(out, "  %s%s%s\n", entry->path, entry->valid ? "" : ": ",
                    entry->valid     ? ""
                    : entry->problem ? entry->problem
                                     : "not valid");
}

/* A run directory may hold none as yet. */
static lks_status verb_list(const checkpoint_arguments *a, const char *path, lks_text *out)
{
    lks_checkpoint_entry *entries;
    size_t count;
    LKS_TRY(lks_checkpoint_list(path, &entries, &count));
    for (size_t i = 0; i < count; ++i) {
        if (a->json)
            json_array_append_new(a->facts, entry_json(&entries[i]));
        else
            append_entry(out, &entries[i]);
    }
    lks_checkpoint_list_free(entries, count);
    if (count || holds_checkpoints(path))
        return LKS_OK;
    return none_there(path);
}

static void append_tensors(lks_text *out, const lks_layout *layout)
{
    char shape[96];
    for (uint32_t i = 0; i < layout->tensor_count; ++i) {
        const lks_layout_tensor *t = &layout->tensors[i];
        lks_text_append(out, "  %-10s %-18s %s\n",
                        t->role == LKS_ROLE_BUFFER ? "buffer" : "parameter",
                        lks_shape_text(&t->shape, shape, sizeof shape), t->name);
    }
}

static lks_status verb_show(const checkpoint_arguments *a, const char *path, lks_text *out)
{
    lks_checkpoint *checkpoint;
    LKS_TRY(find_one(a, path, &checkpoint));
    const json_t *manifest = lks_checkpoint_manifest(checkpoint);
    if (a->json) {
        json_array_append(a->facts, (json_t *)manifest);
    } else {
        static const char *const keys[] = {"run_id", "arithmetic", "model_fingerprint",
                                           "dataset_digest", "root"};
        lks_text_append(out, "%s\nstep  %llu\n", lks_checkpoint_path(checkpoint),
                        (unsigned long long)lks_checkpoint_step(checkpoint));
        for (size_t i = 0; i < sizeof keys / sizeof keys[0]; ++i) {
            const char *value = json_string_value(json_object_get(manifest, keys[i]));
            if (value)
                lks_text_append(out, "%s  %s\n", keys[i], value);
        }
        append_tensors(out, lks_checkpoint_layout(checkpoint));
    }
    lks_checkpoint_close(checkpoint);
    return LKS_OK;
}

/* A message about the whole of it names it already. */
static void append_report(lks_text *out, const char *path, const char *message)
{
    if (strncmp(message, path, strlen(path)))
        lks_text_append(out, "%s: ", path);
    lks_text_append(out, "%s\n", message);
}

static lks_status verify_one(const checkpoint_arguments *a, const char *path, lks_text *out,
                             bool *valid)
{
    json_t *report;
    lks_expect *run = NULL;
    if (!a->expect && lks_expect_run(&run, path) != LKS_OK)
        lks_log_warn("%s; the checkpoint is not compared with its job", lks_status_message());
    lks_status status =
        lks_checkpoint_check_report(path, lks_expect_get(run ? run : a->expect), &report);
    lks_expect_close(run);
    LKS_TRY(status);
    *valid &= json_is_true(json_object_get(report, "valid"));
    if (a->json)
        json_array_append(a->facts, report);
    else
        append_report(out, path, json_string_value(json_object_get(report, "message")));
    json_decref(report);
    return LKS_OK;
}

/* A run directory stands for all its checkpoints. */
static lks_status verb_verify(const checkpoint_arguments *a, const char *path, lks_text *out)
{
    lks_checkpoint_entry *entries = NULL;
    size_t count = 0;
    bool valid = true;
    if (!lks_files_exists(path))
        return none_there(path);
    lks_status status = lks_checkpoint_list(path, &entries, &count);
    if (status != LKS_OK || !count)
        status = verify_one(a, path, out, &valid);
    for (size_t i = 0; i < count && status == LKS_OK; ++i)
        status = verify_one(a, entries[i].path, out, &valid);
    lks_checkpoint_list_free(entries, count);
    LKS_TRY(status);
    return valid ? LKS_OK : LKS_FAIL(LKS_ERR_CORRUPT, "%s: not every checkpoint holds", path);
}

static lks_status verb_digest(const checkpoint_arguments *a, const char *path, lks_text *out)
{
    lks_checkpoint *checkpoint;
    char hex[65];
    LKS_TRY(find_one(a, path, &checkpoint));
    lks_status status = lks_checkpoint_digest(checkpoint, hex);
    unsigned long long step = lks_checkpoint_step(checkpoint);
    lks_checkpoint_close(checkpoint);
    LKS_TRY(status);
    if (a->json)
        json_array_append_new(a->facts,
                              json_pack("{s:s, s:I}", "digest", hex, "step", (json_int_t)step));
    else
        lks_text_append(out, "%s  step %llu\n", hex, step);
    return LKS_OK;
}

static lks_status diff_opened(const checkpoint_arguments *a, lks_checkpoint *first,
                              lks_checkpoint *second, lks_text *out, bool *equal)
{
    json_t *json = NULL;
    lks_text lines = {0};
    lks_status status = lks_checkpoint_diff(first, second, &lines, a->json ? &json : NULL, equal);
    if (status == LKS_OK && a->json)
        status = append_json(out, json, JSON_INDENT(2));
    else if (status == LKS_OK && lines.length)
        lks_text_append(out, "%s", lines.data);
    else if (status == LKS_OK)
        lks_text_append(out, "equal\n");
    lks_text_release(&lines);
    json_decref(json);
    return status;
}

static lks_status verb_diff(const checkpoint_arguments *a, lks_text *out)
{
    lks_checkpoint *first = NULL, *second = NULL;
    bool equal = false;
    char given[32];
    if (a->rest.count != 2)
        return LKS_FAIL(LKS_ERR_USAGE, "%s, want two: lockstep checkpoint diff A B",
                        lks_text_count(given, sizeof given, a->rest.count, "path"));
    lks_status status = find_one(a, a->rest.items[0], &first);
    if (status == LKS_OK)
        status = find_one(a, a->rest.items[1], &second);
    if (status == LKS_OK)
        status = diff_opened(a, first, second, out, &equal);
    lks_checkpoint_close(first);
    lks_checkpoint_close(second);
    LKS_TRY(status);
    if (!equal)
        lks_status_set_message("");
    return equal ? LKS_OK : LKS_WARNED;
}

static const struct verb {
    const char *name;
    lks_status (*run)(const checkpoint_arguments *a, const char *path, lks_text *out);
    bool many; /* of one path, too: its JSON is always an array */
} verbs[] = {{"list", verb_list, true},
             {"show", verb_show, false},
             {"verify", verb_verify, true},
             {"digest", verb_digest, false}};

/* Each failure has its line. */
static lks_status each_path(const checkpoint_arguments *a, const struct verb *verb, lks_text *out)
{
    lks_status worst = LKS_OK;
    for (size_t i = 0; i < a->rest.count; ++i) {
        lks_status status = verb->run(a, a->rest.items[i], out);
        if (status == LKS_OK)
            continue;
        worst = status;
        lks_log_failure(status);
        lks_status_set_message("");
    }
    return worst;
}

static lks_status run_on_paths(checkpoint_arguments *a, const struct verb *verb, lks_text *out)
{
    if (!a->rest.count)
        return LKS_FAIL(LKS_ERR_USAGE, "no path: lockstep checkpoint %s PATH...", verb->name);
    a->facts = json_array();
    lks_status status = each_path(a, verb, out), printed = LKS_OK;
    bool array = verb->many ? status == LKS_OK || json_array_size(a->facts) : a->rest.count > 1;
    json_t *facts = array ? a->facts : json_array_get(a->facts, 0);
    if (a->json && facts)
        printed = append_json(out, facts, JSON_INDENT(2));
    json_decref(a->facts);
    return status != LKS_OK ? status : printed;
}

/* With --config: its model on its data, once for all paths. */
static lks_status run_expecting(checkpoint_arguments *a, const struct verb *verb, lks_text *out)
{
    lks_config *config = NULL;
    lks_expect *expect = NULL;
    lks_status status = LKS_OK;
    if (a->config)
        status = lks_config_create(&config);
    if (config)
        status = lks_command_read_config(config, a->config, &a->settings);
    if (config && status == LKS_OK)
        status = lks_expect_config(&expect, config, a->config);
    a->expect = expect;
    if (status == LKS_OK)
        status = run_on_paths(a, verb, out);
    lks_expect_close(expect);
    lks_config_destroy(config);
    return status;
}

static lks_status check_options(const checkpoint_arguments *a, const char *verb)
{
    bool is_verify = !strcmp(verb, "verify"), is_list = !strcmp(verb, "list");
    if (!a->config && a->settings.count)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--set changes the configuration of --config, which is missing");
    if (a->config && !is_verify)
        return LKS_FAIL(LKS_ERR_USAGE, "--config is for lockstep checkpoint verify");
    if (a->best && (is_verify || is_list))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--best is for lockstep checkpoint show, digest and diff; %s looks at all",
                        verb);
    return LKS_OK;
}

static lks_status run_verb(checkpoint_arguments *a, const char *verb, lks_text *out)
{
    LKS_TRY(check_options(a, verb));
    if (!strcmp(verb, "diff"))
        return verb_diff(a, out);
    for (size_t v = 0; v < sizeof verbs / sizeof verbs[0]; ++v)
        if (!strcmp(verb, verbs[v].name))
            return run_expecting(a, &verbs[v], out);
    return LKS_FAIL(LKS_ERR_USAGE, "checkpoint \"%s\", want list, show, verify, diff or digest",
                    verb);
}

static lks_status checkpoint_on_root(lks_command_context *context, void *user)
{
    checkpoint_arguments *a = user;
    lks_text out = {0};
    const char *verb = a->rest.count ? a->rest.items[0] : "";
    if (a->rest.count)
        memmove(a->rest.items, a->rest.items + 1, --a->rest.count * sizeof *a->rest.items);
    lks_status status = run_verb(a, verb, &out);
    lks_status printed = out.length ? lks_command_print(context, out.data, out.length) : LKS_OK;
    lks_text_release(&out);
    return status != LKS_OK ? status : printed;
}

static lks_status command_checkpoint(lks_command_context *context, int argc, char **argv)
{
    checkpoint_arguments a = {0};
    const lks_flag flags[] = {
        {"--json", LKS_FLAG_SWITCH, &a.json, NULL, "print JSON"},
        {"--config", LKS_FLAG_TEXT, &a.config, "CONFIG",
         "verify: whether they are of this configuration's model and data; default: of their "
         "run's"},
        {"--set", LKS_FLAG_LIST, &a.settings, "key=value", "overrides a setting of CONFIG"},
        {"--best", LKS_FLAG_SWITCH, &a.best, NULL,
         "of a run: the lowest validation loss instead of the newest"},
        LKS_FLAGS_END,
    };
    if (lks_command_help(context, &lks_command_checkpoint, flags, argc, argv))
        return LKS_OK;
    lks_status status =
        lks_comm_agree(context->comm, lks_arguments_parse(argc, argv, flags, NULL, &a.rest));
    if (status == LKS_OK)
        status = lks_command_on_root(context, checkpoint_on_root, &a);
    lks_texts_release(&a.settings);
    lks_texts_release(&a.rest);
    return status;
}

const lks_command lks_command_checkpoint = {
    "checkpoint", "list|show|verify|digest PATH... | diff A B [--json] [--best] [--config CONFIG]",
    "what a checkpoint holds, whether it is whole, how two differ", command_checkpoint};
