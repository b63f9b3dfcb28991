/* A batch script: the lines of scripts/slurm/train.sbatch or train-srun.sbatch, of which those for
 * sbatch and the first assignments are filled in. */
#include "launcher/print.h"
#include "runtime/base/memory.h"

#include <stdlib.h>
#include <string.h>

static const char sbatch_prefix[] = "#SBATCH --";
enum { NOTICE_SECONDS = 300, NOTICE_SECONDS_LEAST = 60, DAY_SECONDS = 86400 };

/* --- Options of sbatch ---------------------------------------------------- */

typedef struct setting {
    const char *key, *value; /* value NULL: a switch */
    size_t key_length;
    bool written;
} setting;

typedef struct settings {
    lks_arena *arena;
    setting *items;
    size_t count, capacity;
} settings;

static setting *settings_find(const settings *s, const char *key, size_t length)
{
    for (size_t i = 0; i < s->count; ++i)
        if (s->items[i].key_length == length && !strncmp(s->items[i].key, key, length))
            return &s->items[i];
    return NULL;
}

static lks_status settings_add(settings *s, const char *key, const char *value)
{
    LKS_TRY(LKS_GROW(&s->items, &s->capacity, s->count + 1));
    s->items[s->count++] = (setting){.key = key, .value = value, .key_length = strcspn(key, "=")};
    return LKS_OK;
}

static lks_status settings_add_number(settings *s, const char *key, int64_t number)
{
    const char *value = lks_arena_format(s->arena, "%lld", (long long)number);
    return value ? settings_add(s, key, value) : LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
}

/* "key=value", "key", with or without the dashes. */
static lks_status settings_add_text(settings *s, const char *text)
{
    static const char *const elsewhere[] = {"wrap", "help", "usage", "version", "test-only"};
    const char *key = text + strspn(text, "-"), *equals = strchr(key, '=');
    size_t length = equals ? (size_t)(equals - key) : strlen(key);
    if (!length || strspn(key, "abcdefghijklmnopqrstuvwxyz-") < length || strchr(key, '\n') ||
        (equals && !equals[1]))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--sbatch is \"%s\", want a long option of sbatch on one line: account=me, "
                        "exclusive",
                        text);
    for (size_t i = 0; i < sizeof elsewhere / sizeof elsewhere[0]; ++i)
        if (strlen(elsewhere[i]) == length && !strncmp(elsewhere[i], key, length))
            return LKS_FAIL(LKS_ERR_USAGE,
                            "--sbatch %s: --%s goes on sbatch's command line alone, and a script "
                            "with it would not run: leave it out",
                            text, elsewhere[i]);
    if (settings_find(s, key, length))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--sbatch %s: --%.*s is set already, by an option of launch "
                        "or by another --sbatch",
                        text, (int)length, key);
    return settings_add(s, key, equals ? equals + 1 : NULL);
}

/* "M", "M:S", "H:M:S", "D-H", "D-H:M", "D-H:M:S"; -1: none of these. */
static int64_t time_seconds(const char *text)
{
    static const int64_t plain[][3] = {{60, 0, 0}, {60, 1, 0}, {3600, 60, 1}};
    static const int64_t after_days[] = {3600, 60, 1};
    int64_t parts[3] = {0}, seconds = 0;
    size_t count = 0, days_length = strcspn(text, "-");
    bool days = text[days_length] == '-';
    if (days) {
        if (!days_length || days_length > 9 || strspn(text, "0123456789") != days_length)
            return -1;
        seconds = DAY_SECONDS * strtoll(text, NULL, 10);
        text += days_length + 1;
    }
    for (;; ++text) {
        size_t digits = strspn(text, "0123456789");
        if (!digits || digits > 9 || count == 3)
            return -1;
        parts[count++] = strtoll(text, NULL, 10);
        text += digits;
        if (*text != ':')
            break;
    }
    if (*text)
        return -1;
    for (size_t i = 0; i < count; ++i)
        seconds += parts[i] * (days ? after_days[i] : plain[count - 1][i]);
    return seconds;
}

/* A start that is short gets its notice later, or it would get it at once. */
static lks_status settings_add_time(settings *s, const char *text)
{
    bool unlimited = !strcmp(text, "UNLIMITED") || !strcmp(text, "INFINITE");
    int64_t seconds = unlimited ? DAY_SECONDS : time_seconds(text);
    if (seconds < 0)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "--time is \"%s\", want minutes, H:M:S, D-H, D-H:M:S or UNLIMITED", text);
    if (seconds < 3 * NOTICE_SECONDS_LEAST)
        return LKS_FAIL(
            LKS_ERR_USAGE,
            "--time is \"%s\", which SLURM rounds to minutes and ends with a notice that "
            "may come two minutes early: want 3 minutes or more",
            text);
    LKS_TRY(settings_add(s, "time", text));
    if (seconds >= 4 * NOTICE_SECONDS)
        return LKS_OK;
    int64_t lead = seconds / 4 > NOTICE_SECONDS_LEAST ? seconds / 4 : NOTICE_SECONDS_LEAST;
    const char *signal = lks_arena_format(s->arena, "B:USR2@%lld", (long long)lead);
    return signal ? settings_add(s, "signal", signal) : LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
}

static lks_status settings_fill(settings *s, const lks_print_spec *spec)
{
    LKS_TRY(settings_add(s, "job-name", spec->name));
    LKS_TRY(settings_add_number(s, "nodes", spec->nodes));
    LKS_TRY(settings_add_number(s, "ntasks-per-node", spec->ranks_per_node));
    if (spec->gpus_per_node) {
        LKS_TRY(settings_add_number(s, "gpus-per-node", spec->gpus_per_node));
        LKS_TRY(settings_add(s, "gpu-bind", "none"));
    }
    if (spec->partition && (!*spec->partition || strpbrk(spec->partition, " \t\n'\"")))
        return LKS_FAIL(LKS_ERR_USAGE, "--partition is \"%s\", want a partition's name",
                        spec->partition);
    if (spec->partition)
        LKS_TRY(settings_add(s, "partition", spec->partition));
    if (spec->time)
        LKS_TRY(settings_add_time(s, spec->time));
    for (size_t i = 0; i < spec->sbatch.count; ++i)
        LKS_TRY(settings_add_text(s, spec->sbatch.items[i]));
    return LKS_OK;
}

/* --- The script ----------------------------------------------------------- */

static void write_setting(lks_text *out, setting *one)
{
    lks_text_append(out, "%s%.*s", sbatch_prefix, (int)one->key_length, one->key);
    lks_text_append(out, one->value ? "=%s\n" : "\n", one->value);
    one->written = true;
}

static void write_words(lks_text *out, const lks_texts *words)
{
    for (size_t i = 0; i < words->count; ++i) {
        lks_text_append(out, i ? " " : "");
        lks_print_quote(out, words->items[i]);
    }
}

/* True: an option of sbatch, written as it was set or as it stands. */
static bool fill_option(lks_text *out, const settings *s, const char *line)
{
    if (strncmp(line, sbatch_prefix, sizeof sbatch_prefix - 1))
        return false;
    const char *key = line + sizeof sbatch_prefix - 1;
    setting *one = settings_find(s, key, strcspn(key, "="));
    if (one)
        write_setting(out, one);
    else
        lks_text_append(out, "%s\n", line);
    return true;
}

/* True: one of the assignments that are meant to be filled in. */
static bool fill_assignment(lks_text *out, const lks_print_spec *spec, const char *line)
{
    if (!strncmp(line, "train=(", 7)) {
        lks_text_append(out, "train=(");
        write_words(out, &spec->train);
        lks_text_append(out, " \"$@\")\n");
    } else if (!strncmp(line, "options=(", 9)) {
        lks_text_append(out, "options=(");
        write_words(out, &spec->launch);
        lks_text_append(out, ")\n");
    } else if (!strncmp(line, "lockstep=", 9)) {
        lks_text_append(out, "lockstep=");
        lks_print_quote(out, spec->program);
        lks_text_append(out, "\n");
    } else {
        return false;
    }
    return true;
}

static lks_status write_script(const lks_print_spec *spec, const char *const *lines, lks_text *out)
{
    settings s = {0};
    bool in_head = false;
    LKS_TRY(lks_arena_create(&s.arena));
    lks_status status = settings_fill(&s, spec);
    for (; *lines && status == LKS_OK; ++lines) {
        bool is_option = fill_option(out, &s, *lines);
        for (size_t i = 0; in_head && !is_option && i < s.count; ++i)
            if (!s.items[i].written)
                write_setting(out, &s.items[i]);
        in_head = is_option;
        if (!is_option && !fill_assignment(out, spec, *lines))
            lks_text_append(out, "%s\n", *lines);
    }
    lks_memory_free(s.items);
    lks_arena_destroy(s.arena);
    return status;
}

static lks_status slurm_print(const lks_print_spec *spec, lks_text *out)
{
    return write_script(spec, lks_print_template_slurm, out);
}

static lks_status slurm_srun_print(const lks_print_spec *spec, lks_text *out)
{
    if (spec->launch.count)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%s is for launch, which a job of srun does without: leave it out, or take "
                        "--print slurm",
                        spec->launch.items[0]);
    return write_script(spec, lks_print_template_slurm_srun, out);
}

static const char *const slurm_options[] = {"--partition", "--time", "--sbatch", NULL};

const lks_print_kind lks_print_slurm = {"slurm", "a batch script that calls lockstep launch",
                                        slurm_options, slurm_print};
const lks_print_kind lks_print_slurm_srun = {"slurm-srun", "a batch script that calls srun",
                                             slurm_options, slurm_srun_print};
