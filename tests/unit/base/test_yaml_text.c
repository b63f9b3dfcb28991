#include "runtime/base/yaml_text.h"
#include "suites.h"

#include <yaml.h>

static const char *const texts[] = {
    "plain",
    "two words",
    "",
    " ",
    "1",
    "1e3",
    "0x1f",
    "on",
    "No",
    "NULL",
    "~",
    "y",
    "-",
    "--",
    "--run",
    "--9",
    "-x",
    "/a/b",
    "a:b",
    "a: b",
    "a:",
    "a #b",
    "#a",
    "a,b",
    "[a]",
    "{a}",
    "*a",
    "&a",
    "!a",
    "%a",
    "@a",
    "`a`",
    "a=b",
    "=",
    "\"a\"",
    "'a'",
    "a\\b",
    "a\tb",
    "a\nb",
    "\n",
    "\n\n",
    "a\n",
    "a\n\n\n",
    "\n\na\n",
    " a\n  b\n",
    "\ta\n",
    "a \nb\t\n",
    "a\r\nb\r\n",
    "\x01\x7f",
    "---",
    "--- a\n",
    "...\n",
    "gr\xc3\xbc\xc3\x9f\n",
    "\xf0\x9f\x98\x80",
    "a\xc2\x85"
    "b\n",
    "a\xe2\x80\xa8"
    "b",
    "\xef\xbb\xbf"
    "a\n",
    "key: |\n  block\n",
};
enum { TEXTS = sizeof texts / sizeof texts[0] };

/* The value of k of the document, as libyaml reads it; it must be plain text and not a number. */
static void reads_back(const char *document, const char *text)
{
    yaml_parser_t parser;
    yaml_event_t event;
    int scalars = 0;
    yaml_parser_initialize(&parser);
    yaml_parser_set_input_string(&parser, (const unsigned char *)document, strlen(document));
    for (bool over = false; !over;) {
        ck_assert_msg(yaml_parser_parse(&parser, &event), "not YAML: %s", document);
        over = event.type == YAML_STREAM_END_EVENT;
        if (event.type == YAML_SCALAR_EVENT && ++scalars == 2)
            ck_assert_msg(!strcmp((const char *)event.data.scalar.value, text),
                          "\"%s\" came back from %s", event.data.scalar.value, document);
        yaml_event_delete(&event);
    }
    ck_assert_msg(scalars == 4, "%d scalars in %s", scalars, document);
    yaml_parser_delete(&parser);
}

typedef void append(lks_text *out, const char *text);

static void append_block(lks_text *out, const char *text)
{
    lks_yaml_append_block(out, text, 2);
}

static void check_all(append *write, const char *before, const char *after)
{
    for (int i = 0; i < TEXTS; ++i) {
        lks_text document = {0};
        ck_assert(lks_yaml_is_text(texts[i]));
        lks_text_append(&document, "%s", before);
        write(&document, texts[i]);
        lks_text_append(&document, "%s", after);
        reads_back(document.data, texts[i]);
        lks_text_release(&document);
    }
}

START_TEST(quoted_texts_read_back)
{
    check_all(lks_yaml_append_quoted, "k: ", "\nm: n\n");
    check_all(lks_yaml_append_quoted, "{k: ", ", m: n}\n");
}
END_TEST

START_TEST(words_read_back)
{
    check_all(lks_yaml_append_word, "k: ", "\nm: n\n");
    check_all(lks_yaml_append_word, "{k: ", ", m: n}\n");
    check_all(lks_yaml_append_word, "- [k, ", "]\n- [m, n]\n");
}
END_TEST

START_TEST(blocks_read_back)
{
    check_all(append_block, "k: ", "\nm: n\n");
}
END_TEST

/* What other readers would not take for a text is never written as it stands. */
START_TEST(words_are_no_values)
{
    static const char *const quoted[] = {"1", "1e3", "on", "No", "NULL", "y",
                                         "",  "-",   "-x", "~",  ".inf"};
    static const char *const plain[] = {"gpt", "--", "--run", "/a", "a:b", "k=v", "v1.2", "a@b"};
    lks_text out = {0};
    for (size_t i = 0; i < sizeof quoted / sizeof *quoted; ++i) {
        lks_text_clear(&out);
        lks_yaml_append_word(&out, quoted[i]);
        ck_assert_msg(out.data[0] == '"', "%s", out.data);
    }
    for (size_t i = 0; i < sizeof plain / sizeof *plain; ++i) {
        lks_text_clear(&out);
        lks_yaml_append_word(&out, plain[i]);
        ck_assert_str_eq(out.data, plain[i]);
    }
    lks_text_release(&out);
}
END_TEST

START_TEST(blocks_are_for_people)
{
    lks_text out = {0};
    lks_yaml_append_block(&out, "a: 1\n\n# b\n", 4);
    ck_assert_str_eq(out.data, "|\n    a: 1\n\n    # b");
    lks_text_release(&out);
    ck_assert(!lks_yaml_is_text("\xff"));
}
END_TEST

TCase *case_yaml_text(void)
{
    TCase *tcase = tcase_create("yaml_text");
    tcase_add_test(tcase, quoted_texts_read_back);
    tcase_add_test(tcase, words_read_back);
    tcase_add_test(tcase, blocks_read_back);
    tcase_add_test(tcase, words_are_no_values);
    tcase_add_test(tcase, blocks_are_for_people);
    return tcase;
}
