/* An MPIJob and the ConfigMap with the configuration: the lines of scripts/k8s/base/mpijob.yaml, of
 * which those with a mark are filled in ("#= FIELD", "#: FIELD") or left out ("#? FIELD"). */
#include "launcher/k8s_names.h"
#include "launcher/print.h"
#include "runtime/base/files.h"
#include "runtime/base/memory.h"
#include "runtime/base/yaml_text.h"

#include <stdlib.h>
#include <string.h>

enum { CONFIG_BYTES_MAX = 1 << 20, MEMORY_BYTES_MIN = 64 << 20 };
static const char wait_seconds[] = "600"; /* images are pulled, nodes are made */

/* --- Names ---------------------------------------------------------------- */

static lks_status check_names(const lks_print_spec *spec, const char *key)
{
    if (spec->namespace_ && !lks_k8s_is_label(spec->namespace_))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--namespace is \"%s\", want 1 to 63 of a-z, 0-9 and -, no - first or last",
                        spec->namespace_);
    if (spec->volume && !lks_k8s_is_domain(spec->volume))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--volume is \"%s\", want the name of a PersistentVolumeClaim: a-z, 0-9, - "
                        "and .",
                        spec->volume);
    if (spec->image && !lks_k8s_is_image(spec->image))
        return LKS_FAIL(LKS_ERR_USAGE, "--image is \"%s\", want an image: [HOST/]NAME[:TAG]",
                        spec->image);
    if (spec->memory && lks_k8s_quantity_bytes(spec->memory) < MEMORY_BYTES_MIN)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--memory is \"%s\", want 64Mi to less than 8Ei, as 64Gi or 512Mi",
                        spec->memory);
    if (spec->rdma && !lks_k8s_is_resource(spec->rdma))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--rdma is \"%s\", want the resource of the cluster's device plugin, as "
                        "rdma/hca_shared_devices_a",
                        spec->rdma);
    if (!lks_k8s_is_key(key))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%s: the file is to be a key of a ConfigMap, whose name has letters, "
                        "digits, -, _ and . alone: rename it",
                        spec->config);
    return LKS_OK;
}

/* --- Fields --------------------------------------------------------------- */

typedef struct field {
    const char *name;
    const char *value; /* NULL: not asked for */
} field;

typedef struct fields {
    lks_arena *arena;
    const lks_print_spec *spec;
    const char *key; /* of the ConfigMap: the configuration's file name */
    field *items;
    size_t count, capacity;
} fields;

static lks_status fields_add(fields *f, const char *name, const char *value)
{
    LKS_TRY(LKS_GROW(&f->items, &f->capacity, f->count + 1));
    f->items[f->count++] = (field){name, value};
    return LKS_OK;
}

static lks_status fields_no_memory(void)
{
    return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for what is to be printed");
}

/* `text` is emptied. */
static lks_status fields_take(fields *f, const char *name, lks_text *text)
{
    const char *value = text->failed || !text->data ? NULL : lks_arena_copy(f->arena, text->data);
    lks_text_release(text);
    return value ? fields_add(f, name, value) : fields_no_memory();
}

static lks_status fields_add_word(fields *f, const char *name, const char *word)
{
    lks_text text = {0};
    lks_yaml_append_word(&text, word);
    return fields_take(f, name, &text);
}

static lks_status fields_add_number(fields *f, const char *name, const char *format, int64_t number)
{
    const char *value = lks_arena_format(f->arena, "%lld", (long long)number);
    value = value ? lks_arena_format(f->arena, format, value) : NULL;
    return value ? fields_add(f, name, value) : fields_no_memory();
}

/* The line `name:` of a resource's metadata, and its namespace. */
static lks_status fields_add_metadata(fields *f, const char *name, const char *resource)
{
    lks_text text = {0};
    lks_text_append(&text, "name: ");
    lks_yaml_append_word(&text, resource);
    if (f->spec->namespace_) {
        lks_text_append(&text, "\nnamespace: ");
        lks_yaml_append_word(&text, f->spec->namespace_);
    }
    return fields_take(f, name, &text);
}

static lks_status read_config(fields *f, char **text)
{
    size_t bytes;
    LKS_TRY(lks_files_read(f->spec->config, CONFIG_BYTES_MAX, text, &bytes));
    if (strlen(*text) == bytes && lks_yaml_is_text(*text))
        return LKS_OK;
    free(*text);
    return LKS_FAIL(LKS_ERR_USAGE, "%s is not UTF-8, which a ConfigMap wants", f->spec->config);
}

static lks_status fields_add_config(fields *f)
{
    char *config;
    lks_text text = {0};
    LKS_TRY(read_config(f, &config));
    lks_yaml_append_word(&text, f->key);
    lks_text_append(&text, ": ");
    lks_yaml_append_block(&text, config, 2);
    free(config);
    return fields_take(f, "config", &text);
}

typedef struct list {
    lks_text text;
    bool refused; /* a word is not UTF-8 */
} list;

static void list_add(list *l, const char *word)
{
    lks_text escaped = {0};
    l->refused = l->refused || !lks_yaml_is_text(word);
    lks_text_append(&l->text, l->text.length ? ", " : "[");
    lks_text_append(&escaped, "%s", "");
    for (; *word; ++word) /* Kubernetes reads $(NAME) as a variable, and $$ as $ */
        lks_text_append(&escaped, *word == '$' ? "$$" : "%c", *word);
    l->text.failed = l->text.failed || escaped.failed;
    if (!l->refused && !escaped.failed)
        lks_yaml_append_word(&l->text, escaped.data);
    lks_text_release(&escaped);
}

/* What launch is given in the launcher's pod. */
static lks_status fields_add_arguments(fields *f)
{
    const lks_print_spec *spec = f->spec;
    const char *config = lks_arena_format(f->arena, "/etc/lockstep/%s", f->key);
    bool waits = false;
    list l = {0};
    if (!config)
        return fields_no_memory();
    list_add(&l, "launch");
    list_add(&l, "--hosts");
    list_add(&l, "/etc/mpi/hostfile");
    for (size_t i = 0; i < spec->launch.count; ++i) {
        waits = waits || (i % 2 == 0 && !strcmp(spec->launch.items[i], "--wait-seconds"));
        if (spec->launch.items[i])
            list_add(&l, spec->launch.items[i]);
    }
    for (const char *const *word = (const char *const[]){"--wait-seconds", wait_seconds, NULL};
         *word && !waits; ++word)
        list_add(&l, *word);
    list_add(&l, "--");
    list_add(&l, "train");
    for (size_t i = 0; i < spec->train.count; ++i)
        list_add(&l, spec->train.items[i] == spec->config ? config : spec->train.items[i]);
    lks_text_append(&l.text, "]");
    if (!l.refused)
        return fields_take(f, "arguments", &l.text);
    lks_text_release(&l.text);
    return LKS_FAIL(LKS_ERR_USAGE, "an argument of train is not UTF-8, which YAML wants");
}

static lks_status fields_fill(fields *f)
{
    const lks_print_spec *spec = f->spec;
    const char *map = lks_arena_format(f->arena, "%s-train", spec->name);
    if (!map)
        return fields_no_memory();
    LKS_TRY(fields_add_metadata(f, "config_map_name", map));
    LKS_TRY(fields_add_config(f));
    LKS_TRY(fields_add_metadata(f, "job_name", spec->name));
    LKS_TRY(fields_add_word(f, "name", spec->name));
    LKS_TRY(fields_add_word(f, "config_map", map));
    LKS_TRY(fields_add_word(f, "image", spec->image ? spec->image : "lockstep:latest"));
    LKS_TRY(fields_add_word(f, "volume", spec->volume ? spec->volume : "lockstep"));
    LKS_TRY(fields_add_arguments(f));
    LKS_TRY(fields_add_number(f, "nodes", "%s", spec->nodes));
    LKS_TRY(fields_add_number(f, "slots", "%s", spec->ranks_per_node));
    LKS_TRY(fields_add_number(f, "cores", "\"%s\"", spec->ranks_per_node));
    if (spec->gpus_per_node)
        LKS_TRY(fields_add_number(f, "gpus", "%s", spec->gpus_per_node));
    if (spec->memory)
        LKS_TRY(fields_add(f, "memory", spec->memory));
    if (spec->rdma)
        LKS_TRY(fields_add(f, "rdma", lks_arena_format(f->arena, "%s: 1", spec->rdma)));
    if (spec->gpus_per_node || spec->memory || spec->rdma)
        LKS_TRY(fields_add(f, "limits", ""));
    return LKS_OK;
}

/* --- Lines ---------------------------------------------------------------- */

/* The field that `line` names after `mark`; NULL: no mark, or *found says that it was not given. */
static const field *marked(const fields *f, const char *line, const char *mark, bool *found)
{
    const char *at = strstr(line, mark);
    *found = at != NULL;
    if (!at)
        return NULL;
    at += strlen(mark);
    size_t length = strcspn(at, " ");
    for (size_t i = 0; i < f->count; ++i)
        if (strlen(f->items[i].name) == length && !strncmp(f->items[i].name, at, length))
            return &f->items[i];
    return NULL;
}

/* The lines of `text`, the last of which has no end of its own. */
static void write_lines(lks_text *out, const char *text, int indent)
{
    for (const char *line = text, *end; line; line = *end ? end + 1 : NULL) {
        end = line + strcspn(line, "\n");
        lks_text_append(out, "%*s%.*s\n", end > line ? indent : 0, "", (int)(end - line), line);
    }
}

static lks_status write_line(lks_text *out, const fields *f, const char *line)
{
    bool conditional, value, block;
    const field *condition = marked(f, line, " #? ", &conditional);
    if (conditional && !condition)
        return LKS_OK;
    const field *filled = marked(f, line, " #= ", &value);
    const field *lines = marked(f, line, " #: ", &block);
    const char *colon = strstr(line, ": ");
    if ((value && (!filled || !colon)) || (block && !lines))
        return LKS_FAIL(LKS_ERR_INTERNAL, "mpijob.yaml: nothing fills in \"%s\"", line);
    if (block)
        write_lines(out, lines->value, (int)strspn(line, " "));
    else if (value)
        lks_text_append(out, "%.*s: %s\n", (int)(colon - line), line, filled->value);
    else if (conditional)
        lks_text_append(out, "%.*s\n", (int)(strstr(line, " #? ") - line), line);
    else
        lks_text_append(out, "%s\n", line);
    return LKS_OK;
}

static bool is_block(const char *line)
{
    return strstr(line, " #: ") != NULL;
}

/* The example's lines below one that is replaced as a whole go with it. */
static lks_status write_job(lks_text *out, const fields *f)
{
    size_t below = 0;
    bool dropping = false, head = true;
    lks_text_append(out, "# Written by lockstep launch --print k8s: kubectl apply -f THIS-FILE\n");
    for (const char *const *line = lks_print_template_k8s; *line; ++line) {
        size_t indent = strspn(*line, " ");
        head = head && **line == '#';
        dropping = dropping && indent > below;
        if (head || dropping)
            continue;
        LKS_TRY(write_line(out, f, *line));
        dropping = is_block(*line);
        below = indent;
    }
    return LKS_OK;
}

static lks_status k8s_print(const lks_print_spec *spec, lks_text *out)
{
    const char *slash = strrchr(spec->config, '/');
    fields f = {.spec = spec, .key = slash ? slash + 1 : spec->config};
    LKS_TRY(check_names(spec, f.key));
    LKS_TRY(lks_arena_create(&f.arena));
    lks_status status = fields_fill(&f);
    if (status == LKS_OK)
        status = write_job(out, &f);
    lks_memory_free(f.items);
    lks_arena_destroy(f.arena);
    return status;
}

static const char *const k8s_options[] = {"--namespace", "--image", "--volume",
                                          "--memory",    "--rdma",  NULL};

const lks_print_kind lks_print_k8s = {"k8s", "an MPIJob for the MPI Operator", k8s_options,
                                      k8s_print};
