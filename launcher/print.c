#include "launcher/print.h"
#include "launcher/launch_job.h"
#include "runtime/base/files.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { NODES_MAX = 65536, PER_NODE_MAX = 1024, NAME_MAX_LENGTH = 40 };

static const lks_print_kind *const kinds[] = {&lks_print_slurm, &lks_print_slurm_srun,
                                              &lks_print_k8s};
enum { KINDS = sizeof kinds / sizeof kinds[0] };

void lks_print_init(lks_print_spec *spec)
{
    *spec = (lks_print_spec){0};
    const lks_flag flags[] = {
        {"--print", LKS_FLAG_TEXT, &spec->kind, "KIND",
         "instead of starting, print a file for: slurm (sbatch, mpirun), slurm-srun (sbatch, "
         "srun), k8s (MPI Operator)"},
        {"--nodes", LKS_FLAG_INTEGER, &spec->nodes, "N", "with --print: how many"},
        {"--ranks-per-node", LKS_FLAG_INTEGER, &spec->ranks_per_node, "N",
         "with --print; default: --gpus-per-node, else 1"},
        {"--gpus-per-node", LKS_FLAG_INTEGER, &spec->gpus_per_node, "N",
         "with --print: a rank on each (0: ranks are cores)"},
        {"--name", LKS_FLAG_TEXT, &spec->name, "NAME",
         "with --print: of the job; default: CONFIG's name"},
        {"--partition", LKS_FLAG_TEXT, &spec->partition, "P", "with --print slurm"},
        {"--time", LKS_FLAG_TEXT, &spec->time, "T",
         "with --print slurm: of one start, as sbatch takes it (the partition's)"},
        {"--sbatch", LKS_FLAG_LIST, &spec->sbatch, "key[=value]",
         "with --print slurm: another option of sbatch, e.g. account=me (repeatable)"},
        {"--image", LKS_FLAG_TEXT, &spec->image, "IMAGE",
         "with --print k8s: of launcher and workers (lockstep:latest)"},
        {"--volume", LKS_FLAG_TEXT, &spec->volume, "CLAIM",
         "with --print k8s: a PersistentVolumeClaim that all pods can write to (lockstep)"},
        {"--memory", LKS_FLAG_TEXT, &spec->memory, "SIZE",
         "with --print k8s: of a worker, with its /dev/shm, as 64Gi"},
        {"--rdma", LKS_FLAG_TEXT, &spec->rdma, "RESOURCE",
         "with --print k8s: of the cluster's RDMA device plugin, one a worker"},
        {"--namespace", LKS_FLAG_TEXT, &spec->namespace_, "NAMESPACE", "with --print k8s"},
        LKS_FLAGS_END,
    };
    _Static_assert(sizeof flags <= sizeof spec->flags, "room for the flags");
    memcpy(spec->flags, flags, sizeof flags);
}

void lks_print_release(lks_print_spec *spec)
{
    lks_texts_release(&spec->sbatch);
    lks_texts_release(&spec->launch);
    *spec = (lks_print_spec){0};
}

void lks_print_quote(lks_text *out, const char *word)
{
    if (*word && word[strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                   "%+,-./:=@_")] == '\0') {
        lks_text_append(out, "%s", word);
        return;
    }
    lks_text_append(out, "'");
    for (; *word; ++word)
        lks_text_append(out, *word == '\'' ? "'\\''" : "%c", *word);
    lks_text_append(out, "'");
}

/* --- Reading -------------------------------------------------------------- */

typedef struct handed_on {
    lks_print_spec *spec;
    const lks_flag *launch;
} handed_on;

static lks_status keep(lks_texts *texts, const char *word)
{
    LKS_TRY(LKS_GROW(&texts->items, &texts->capacity, texts->count + 1));
    texts->items[texts->count++] = word;
    return LKS_OK;
}

/* An option of launch: read as launch would, and kept for the command line that is printed. */
static lks_status hand_on(void *user, const char *name, const char *value, bool *known)
{
    handed_on *h = user;
    const lks_flag *flag = h->launch;
    while (flag->name && strcmp(flag->name, name))
        ++flag;
    *known = flag->name != NULL;
    if (!*known)
        return LKS_OK;
    char *words[] = {(char *)(uintptr_t)name, (char *)(uintptr_t)value};
    lks_texts none = {0};
    LKS_TRY(lks_arguments_parse(value ? 2 : 1, words, h->launch, NULL, &none));
    lks_texts_release(&none);
    LKS_TRY(keep(&h->spec->launch, name));
    return keep(&h->spec->launch, value);
}

static const char *name_of(void *user, size_t i)
{
    return ((handed_on *)user)->launch[i].name;
}

static bool is_given(const lks_flag *flag)
{
    switch (flag->type) {
    case LKS_FLAG_LIST:
        return ((const lks_texts *)flag->target)->count > 0;
    case LKS_FLAG_INTEGER:
        return *(const int64_t *)flag->target != 0;
    default:
        return *(const char *const *)flag->target != NULL;
    }
}

static lks_status refuse_without_print(const lks_print_spec *spec)
{
    for (const lks_flag *flag = spec->flags; flag->name; ++flag)
        if (is_given(flag))
            return LKS_FAIL(LKS_ERR_USAGE, "%s is for --print: add --print slurm, or leave it out",
                            flag->name);
    return LKS_OK;
}

lks_status lks_print_parse(lks_print_spec *spec, int argc, char **argv, const lks_flag *launch)
{
    handed_on h = {spec, launch};
    lks_flag_fallback fallback = {hand_on, name_of, &h};
    lks_texts none = {0};
    lks_status status = lks_arguments_parse(argc, argv, spec->flags, &fallback, &none);
    lks_texts_release(&none);
    if (status == LKS_OK && !spec->kind)
        status = refuse_without_print(spec);
    return status;
}

/* --- Checking ------------------------------------------------------------- */

static lks_status find_kind(const char *name, const lks_print_kind **out)
{
    lks_text names = {0};
    for (size_t i = 0; i < KINDS; ++i) {
        *out = kinds[i];
        if (!strcmp(name, kinds[i]->name)) {
            lks_text_release(&names);
            return LKS_OK;
        }
        lks_text_append(&names, "%s%s", !i ? "" : i + 1 < KINDS ? ", " : " or ", kinds[i]->name);
    }
    lks_status status =
        LKS_FAIL(LKS_ERR_USAGE, "--print is \"%s\", want %s", name, names.failed ? "" : names.data);
    lks_text_release(&names);
    return status;
}

static bool is_among(const char *name, const char *const *names)
{
    while (*names && strcmp(*names, name))
        ++names;
    return *names != NULL;
}

/* Texts and lists are of one kind or another, but for those that all have. */
static lks_status check_options(const lks_print_spec *spec, const lks_print_kind *kind)
{
    static const char *const shared[] = {"--print", "--name", NULL};
    for (const lks_flag *flag = spec->flags; flag->name; ++flag)
        if (flag->type != LKS_FLAG_INTEGER && is_given(flag) && !is_among(flag->name, shared) &&
            !is_among(flag->name, kind->options))
            return LKS_FAIL(LKS_ERR_USAGE, "%s does not go with --print %s: leave it out",
                            flag->name, kind->name);
    static const char *const schedulers[] = {"--hosts", "--on-host", NULL};
    for (size_t i = 0; i < spec->launch.count; i += 2)
        if (is_among(spec->launch.items[i], schedulers))
            return LKS_FAIL(LKS_ERR_USAGE,
                            "%s does not go with --print %s: the scheduler says which hosts there "
                            "are",
                            spec->launch.items[i], kind->name);
    return LKS_OK;
}

static lks_status check_counts(lks_print_spec *spec)
{
    if (spec->nodes < 1 || spec->nodes > NODES_MAX)
        return LKS_FAIL(LKS_ERR_USAGE, "--nodes is %lld, want 1 to %d: --print %s --nodes N",
                        (long long)spec->nodes, NODES_MAX, spec->kind);
    if (spec->gpus_per_node < 0 || spec->gpus_per_node > PER_NODE_MAX)
        return LKS_FAIL(LKS_ERR_USAGE, "--gpus-per-node is %lld, want 0 to %d",
                        (long long)spec->gpus_per_node, PER_NODE_MAX);
    if (!spec->ranks_per_node)
        spec->ranks_per_node = spec->gpus_per_node ? spec->gpus_per_node : 1;
    if (spec->ranks_per_node < 1 || spec->ranks_per_node > PER_NODE_MAX)
        return LKS_FAIL(LKS_ERR_USAGE, "--ranks-per-node is %lld, want 1 to %d",
                        (long long)spec->ranks_per_node, PER_NODE_MAX);
    if (spec->gpus_per_node && spec->ranks_per_node != spec->gpus_per_node)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--ranks-per-node is %lld and --gpus-per-node %lld: a rank is one GPU, "
                        "leave out --ranks-per-node",
                        (long long)spec->ranks_per_node, (long long)spec->gpus_per_node);
    return LKS_OK;
}

static lks_status check_lanes(const lks_print_spec *spec, const lks_texts *train)
{
    int64_t ranks = spec->nodes * spec->ranks_per_node;
    char t[3][32];
    int lanes;
    if (!lks_files_exists(spec->config)) {
        lks_log_warn("%s is not here, so it was not asked whether it has lanes for %s",
                     spec->config, lks_text_count(t[0], sizeof t[0], (uint64_t)ranks, "rank"));
        return LKS_OK;
    }
    LKS_TRY(lks_launch_job_lanes(train, &lanes));
    if (ranks <= lanes)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_USAGE,
                    "%s of %s are %lld, and %s has %s, the most ranks it can use: set train.lanes, "
                    "or ask for fewer ranks",
                    lks_text_count(t[0], sizeof t[0], (uint64_t)spec->nodes, "node"),
                    lks_text_count(t[1], sizeof t[1], (uint64_t)spec->ranks_per_node, "rank"),
                    (long long)ranks, spec->config,
                    lks_text_count(t[2], sizeof t[2], (uint64_t)lanes, "lane"));
}

static bool fits_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
}

static void name_from_config(lks_print_spec *spec)
{
    const char *slash = strrchr(spec->config, '/'), *base = slash ? slash + 1 : spec->config;
    size_t length = 0;
    for (; base[length] && base[length] != '.' && length < NAME_MAX_LENGTH; ++length) {
        char c = (char)tolower((unsigned char)base[length]);
        spec->name_buffer[length] = fits_name(c) ? c : '-';
    }
    while (length && spec->name_buffer[length - 1] == '-')
        --length;
    spec->name_buffer[length] = '\0';
    spec->name = isalpha((unsigned char)*spec->name_buffer) ? spec->name_buffer : "lockstep";
}

/* A name that SLURM and Kubernetes both take. */
static lks_status choose_name(lks_print_spec *spec)
{
    if (!spec->name)
        name_from_config(spec);
    size_t length = strlen(spec->name), fitting = 0;
    while (fits_name(spec->name[fitting]))
        ++fitting;
    if (!length || length > NAME_MAX_LENGTH || fitting < length ||
        !isalpha((unsigned char)*spec->name) || spec->name[length - 1] == '-')
        return LKS_FAIL(
            LKS_ERR_USAGE,
            "--name is \"%s\", want 1 to %d of a-z, 0-9 and -, a letter first, no - last",
            spec->name, NAME_MAX_LENGTH);
    return LKS_OK;
}

static lks_status find_program(lks_print_spec *spec)
{
    ssize_t length =
        readlink("/proc/self/exe", spec->program_buffer, sizeof spec->program_buffer - 1);
    if (length <= 0)
        return LKS_FAIL(LKS_ERR_INTERNAL, "cannot find this program's own path: is /proc mounted?");
    spec->program_buffer[length] = '\0';
    spec->program = spec->program_buffer;
    return LKS_OK;
}

lks_status lks_print(lks_print_spec *spec, const lks_texts *train, lks_text *out)
{
    const lks_print_kind *kind;
    LKS_TRY(find_kind(spec->kind, &kind));
    spec->train = (lks_texts){.items = train->items + 1, .count = train->count - 1};
    spec->config = lks_launch_job_config(train);
    if (!spec->config)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "no CONFIG: lockstep launch --print %s --nodes N -- train CONFIG",
                        spec->kind);
    LKS_TRY(check_options(spec, kind));
    LKS_TRY(check_counts(spec));
    LKS_TRY(check_lanes(spec, train));
    LKS_TRY(choose_name(spec));
    LKS_TRY(find_program(spec));
    LKS_TRY(kind->print(spec, out));
    return out->failed ? LKS_FAIL(LKS_ERR_INTERNAL, "no memory for what is to be printed") : LKS_OK;
}
