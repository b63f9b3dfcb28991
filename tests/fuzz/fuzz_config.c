#include "mutate.h"

#include "runtime/base/config.h"

#include <stdio.h>
#include <string.h>

typedef struct values {
    bool flag;
    int64_t steps;
    double lr;
    const char *path;
    int precision;
    lks_option_integers sizes;
} fuzz_values;

static const lks_option table[] = {
    {"flag", LKS_OPTION_BOOL, offsetof(fuzz_values, flag), "no", 0, 0, NULL, LKS_OPTION_FREE, ""},
    {"steps", LKS_OPTION_INTEGER, offsetof(fuzz_values, steps), "1", 0, 1e12, NULL,
     LKS_OPTION_FIXED, ""},
    {"lr", LKS_OPTION_NUMBER, offsetof(fuzz_values, lr), "1", 0, 0, NULL, LKS_OPTION_SCHEDULED, ""},
    {"path", LKS_OPTION_TEXT, offsetof(fuzz_values, path), "x", 0, 0, NULL, LKS_OPTION_FREE, ""},
    {"precision", LKS_OPTION_CHOICE, offsetof(fuzz_values, precision), "f32", 0, 0, "f32|bf16",
     LKS_OPTION_FREE, ""},
    {"sizes", LKS_OPTION_LIST, offsetof(fuzz_values, sizes), "1", -9, 1e12, NULL, LKS_OPTION_FREE,
     ""},
    LKS_OPTIONS_END,
};

static const char *const samples[] = {
    "train: {flag: yes, steps: 2000, lr: 1e-3, path: data/train, precision: bf16, sizes: [1, 2]}\n",
    "# comment\ntrain:\n  steps: 65_536  # more\n  path: \"a \\\"b\\\" \\xe4 c\"\n  sizes:\n    - "
    "3\n"
    "    - 4\nmodel:\n  name: 'gpt'\n",
    "---\ntrain:\n  path: |\n    two\n    lines\n  lr: -0.25\n  sizes: []\nmodel:\n...\n",
    "model: {name: >-\n  folded\n  text}\ntrain:\n",
};
static const char *const tokens[] = {
    "{",     "}",        "[",       "]",        ":",    ": ",   ",",       "\n",
    "- ",    "? ",       "&a ",     "*a",       "!!x ", "---",  "...",     "|\n",
    "\"",    "'",        "#",       "\t",       "%Y",   "\\x",  "null",    "~",
    "train", "train:\n", "steps: ", "  path: ", "1e3",  "9e99", "_",       "<<: ",
    "9",     "@",        "\xff",    "\xc3\xa4", "\r",   "  ",   "model: ", "\xef\xbb\xbf",
};

static bool fuzz_complain(const char *what)
{
    fprintf(stderr, "%s (last message: %s)\n", what, lks_status_message());
    return false;
}

/* A refusal is LKS_ERR_USAGE with one line that says why. */
static bool fuzz_refused_well(lks_status status)
{
    const char *message = lks_status_message();
    return status == LKS_ERR_USAGE && message[0] && !strpbrk(message, "\n\r\x1b");
}

static lks_status fuzz_load(lks_config *config, const char *data, size_t bytes, fuzz_values *out)
{
    LKS_TRY(lks_config_read_text(config, data, bytes, "fuzz.yaml"));
    lks_config_get(config, "model.name");
    LKS_TRY(lks_config_bind(config, "train", table, out));
    return lks_config_check_unknown(config);
}

/* What was accepted prints as YAML that is accepted and means the same. */
static bool fuzz_round_trip(const lks_config *config)
{
    lks_text first = {0}, second = {0}, changes = {0};
    lks_config *again;
    fuzz_values values;
    json_t *json = lks_config_to_json(config);
    bool right = json && lks_config_create(&again) == LKS_OK;
    if (!right)
        return fuzz_complain("no JSON");
    lks_config_print_yaml(config, true, &first);
    right = fuzz_load(again, first.data, first.length, &values) == LKS_OK;
    if (!right)
        fuzz_complain(first.data);
    lks_text_clear(&first);
    lks_config_print_yaml(config, false, &first);
    lks_config_print_yaml(again, false, &second);
    if (right && strcmp(first.data, second.data) != 0)
        right = fuzz_complain("printed twice, not the same");
    if (right && (lks_config_check_resume(again, json, &changes) != LKS_OK || changes.length))
        right = fuzz_complain("the same configuration does not resume");
    lks_text_release(&first);
    lks_text_release(&second);
    lks_text_release(&changes);
    json_decref(json);
    lks_config_destroy(again);
    return right;
}

static bool fuzz_config(const char *data, size_t bytes)
{
    lks_config *config;
    fuzz_values values;
    if (lks_config_create(&config) != LKS_OK)
        return fuzz_complain("no configuration");
    lks_status_set_message("");
    lks_status status = fuzz_load(config, data, bytes, &values);
    bool right = status == LKS_OK ? fuzz_round_trip(config)
                                  : fuzz_refused_well(status) || fuzz_complain("refused badly");
    lks_config_destroy(config);
    return right;
}

int main(int argc, char **argv)
{
    const fuzz_corpus corpus = {samples, sizeof samples / sizeof *samples, tokens,
                                sizeof tokens / sizeof *tokens, NULL};
    return fuzz_main(argc, argv, &corpus, 150000, fuzz_config);
}
