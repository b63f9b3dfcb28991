#include "mutate.h"

#include "runtime/base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const samples[] = {
    "{\"schema\": {\"vocabulary\": 256, \"kind\": \"text\"}, \"mean\": 0.1, \"shards\": [1, 2]}\n",
    "[true, false, null, -1e-3, \"\\u00e4\\n\", {\"a\": {\"b\": {\"c\": [[], {}]}}}]",
    "{\"step\": 9223372036854775807, \"lr\": 1.7976931348623157e308}",
};
static const char *const tokens[] = {
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "\\u",
    "\\ud800",
    "null",
    "true",
    "1e999",
    "-",
    "0",
    "9",
    ".",
    "e",
    "\n",
    "\xff",
    "\xc3\xa4",
    "\"schema\":",
    "\"schema.kind\":",
    " ",
    "//",
};

static bool fuzz_complain(const char *what)
{
    fprintf(stderr, "%s (last message: %s)\n", what, lks_status_message());
    return false;
}

/* The getters either give a value or say what is wrong. */
static bool fuzz_getters(const json_t *json)
{
    const char *string = NULL;
    int64_t integer = 7;
    double number;
    json_t *member = NULL;
    lks_status status = lks_json_get_string(json, "fuzz.json", "schema.kind", &string);
    if (status == LKS_OK ? !string : status != LKS_ERR_CORRUPT)
        return false;
    status = lks_json_get_integer(json, "fuzz.json", "schema.vocabulary", 1, 1000, &integer);
    if (status == LKS_OK ? integer < 1 || integer > 1000 : status != LKS_ERR_CORRUPT)
        return false;
    status = lks_json_get_number(json, "fuzz.json", "mean", &number);
    if (status != LKS_OK && status != LKS_ERR_CORRUPT)
        return false;
    status = lks_json_get_array(json, "fuzz.json", "shards", &member);
    return status == LKS_OK ? json_is_array(member) : status == LKS_ERR_CORRUPT;
}

static bool fuzz_json(const char *data, size_t bytes)
{
    json_t *json = NULL, *again = NULL;
    lks_status_set_message("");
    lks_status status = lks_json_parse(data, bytes, "fuzz.json", &json);
    if (status != LKS_OK)
        return (status == LKS_ERR_CORRUPT && !json &&
                strncmp(lks_status_message(), "fuzz.json:", 10) == 0 &&
                !strpbrk(lks_status_message(), "\n\r\x1b")) ||
               fuzz_complain("refused badly");
    bool right = fuzz_getters(json) || fuzz_complain("a getter is wrong");
    char *text = json_dumps(json, JSON_REAL_PRECISION(17));
    if (right && lks_json_parse(text, strlen(text), "again.json", &again) != LKS_OK)
        right = fuzz_complain("what was written is not read");
    if (right && !json_equal(json, again))
        right = fuzz_complain("written and read, not the same");
    free(text);
    json_decref(json);
    json_decref(again);
    return right;
}

int main(int argc, char **argv)
{
    const fuzz_corpus corpus = {samples, sizeof samples / sizeof *samples, tokens,
                                sizeof tokens / sizeof *tokens, NULL};
    return fuzz_main(argc, argv, &corpus, 300000, fuzz_json);
}
