#include "support.h"

#include "runtime/datasets/csv.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Reads all rows as "a|b\n" lines; returns the last status. */
static lks_status read_all(const char *path, char delimiter, char *out, size_t size)
{
    lks_csv *csv;
    out[0] = '\0';
    lks_status status = lks_csv_open(&csv, path, delimiter);
    if (status != LKS_OK)
        return status;
    for (;;) {
        lks_csv_row row;
        bool end;
        status = lks_csv_next(csv, &row, &end);
        if (status != LKS_OK || end)
            break;
        for (size_t i = 0; i < row.count; ++i) {
            size_t used = strlen(out);
            snprintf(out + used, size - used, "%s%s", row.fields[i],
                     i + 1 < row.count ? "|" : "\n");
        }
    }
    lks_csv_close(csv);
    return status;
}

static void check_parse(const char *text, char delimiter, const char *wanted)
{
    char out[512];
    write_text("a.csv", text);
    ck_assert_msg(read_all("a.csv", delimiter, out, sizeof out) == LKS_OK, "%s",
                  lks_status_message());
    ck_assert_str_eq(out, wanted);
}

static void check_bad(const char *text, size_t bytes, const char *message)
{
    char out[512];
    write_bytes("a.csv", text, bytes);
    check_refused(read_all("a.csv", ',', out, sizeof out), LKS_ERR_CORRUPT, message);
}

START_TEST(parses_rfc_4180)
{
    check_parse("a,b\n1,2\n", ',', "a|b\n1|2\n");
    check_parse("a,b\r\n1,2\r\n", ',', "a|b\n1|2\n");
    check_parse("a,b\n1,2", ',', "a|b\n1|2\n");
    check_parse("a,b\r\n1,2\r", ',', "a|b\n1|2\n");
    check_parse("\"a\"\"b\",\"c,d\"\n\"e\nf\",\"\"\n", ',', "a\"b|c,d\ne\nf|\n");
    check_parse(",\n,,\n", ',', "|\n||\n");
    check_parse("a;b,c\n", ';', "a|b,c\n");
    check_parse("a\tb\n", '\t', "a|b\n");
    check_parse("a b  c\n", ' ', "a|b||c\n");
    check_parse("\xEF\xBB\xBF\xC3\xA9,\xE2\x82\xAC\n", ',', "\xC3\xA9|\xE2\x82\xAC\n");
}
END_TEST

START_TEST(is_lenient_where_it_says)
{
    check_parse(" a , \"b \" ,c d \n", ',', "a|b |c d\n");
    check_parse("5\" pipe,x\ry\n", ',', "5\" pipe|x\ry\n");
    check_parse("a,b\n\n\r\n1,2\n\n", ',', "a|b\n1|2\n");
    check_parse("", ',', "");
}
END_TEST

START_TEST(refuses_with_the_line)
{
    check_bad("a,b\n1,\"2\n3\n", 11, "a.csv:2: a quoted field is never closed");
    check_bad("a\n\"1\n2\"x\n", 9, "a.csv:3: field 1 has text after its closing quote");
    check_bad("a,b\n1,\0\n", 8, "a.csv:2: a NUL byte");
    check_bad("a,b\n1,\"\0\"\n", 10, "a.csv:2: a NUL byte");
    lks_csv *csv;
    check_refused(lks_csv_open(&csv, "none.csv", ','), LKS_ERR_USAGE, "none.csv");
}
END_TEST

/* Row i of the big file; quotes and line ends fall on every buffer boundary in turn. */
static void append_row(FILE *file, uint64_t i)
{
    fprintf(file, "%llu,\"x\"\"%.*s\ny\",%u\r\n", (unsigned long long)i, (int)(i % 7), "abcdefg",
            random_word(1, i) % 1000);
    if (i % 5 == 0)
        fputs("\r\n", file);
}

static void check_row(const lks_csv_row *row, uint64_t i)
{
    char wanted[64];
    ck_assert_uint_eq(row->count, 3);
    snprintf(wanted, sizeof wanted, "%llu", (unsigned long long)i);
    ck_assert_str_eq(row->fields[0], wanted);
    snprintf(wanted, sizeof wanted, "x\"%.*s\ny", (int)(i % 7), "abcdefg");
    ck_assert_str_eq(row->fields[1], wanted);
    snprintf(wanted, sizeof wanted, "%u", random_word(1, i) % 1000);
    ck_assert_str_eq(row->fields[2], wanted);
}

START_TEST(reads_beyond_its_buffer_and_seeks)
{
    enum { ROWS = 120000 };
    FILE *file = fopen("big.csv", "w");
    for (uint64_t i = 0; i < ROWS; ++i)
        append_row(file, i);
    fclose(file);
    uint64_t *offsets = malloc(ROWS * sizeof *offsets), *lines = malloc(ROWS * sizeof *lines);
    lks_csv *csv;
    lks_csv_row row;
    bool end;
    ck_assert_int_eq(lks_csv_open(&csv, "big.csv", ','), LKS_OK);
    for (uint64_t i = 0; i < ROWS; ++i) {
        ck_assert_int_eq(lks_csv_next(csv, &row, &end), LKS_OK);
        ck_assert(!end);
        check_row(&row, i);
        offsets[i] = row.offset;
        lines[i] = row.line;
        ck_assert_uint_eq(row.line, 1 + 2 * i + (i + 4) / 5);
    }
    ck_assert_int_eq(lks_csv_next(csv, &row, &end), LKS_OK);
    ck_assert(end);
    for (uint64_t k = 0; k < 2000; ++k) {
        uint64_t i = random_word(2, k) % ROWS;
        lks_csv_seek(csv, offsets[i], lines[i]);
        for (int more = 0; more < 3 && i < ROWS; ++more, ++i) {
            ck_assert_int_eq(lks_csv_next(csv, &row, &end), LKS_OK);
            check_row(&row, i);
            ck_assert_uint_eq(row.line, lines[i]);
        }
    }
    lks_csv_close(csv);
    free(offsets);
    free(lines);
}
END_TEST

/* What is quoted by the rules comes back as it was. */
START_TEST(fuzz_round_trip)
{
    static const char *const pieces[] = {"a", ",", "\"", "\n", "\r", " ", "\xC3\xA9", "", "7", ""};
    for (uint32_t round = 0; round < 500; ++round) {
        char fields[3][32], wanted[256] = "", text[512] = "", out[256];
        for (int f = 0; f < 3; ++f) {
            fields[f][0] = '\0';
            for (int p = 0; p < 5; ++p)
                strcat(fields[f], pieces[random_word(3 + round, (uint64_t)(f * 8 + p)) % 10]);
            sprintf(wanted + strlen(wanted), "%s%s", fields[f], f < 2 ? "|" : "\n");
            strcat(text, "\"");
            for (const char *c = fields[f]; *c; ++c)
                sprintf(text + strlen(text), *c == '"' ? "%c\"" : "%c", *c);
            strcat(text, f < 2 ? "\"," : "\"\r\n");
        }
        write_text("f.csv", text);
        ck_assert_msg(read_all("f.csv", ',', out, sizeof out) == LKS_OK, "%s: %s", text,
                      lks_status_message());
        ck_assert_str_eq(out, wanted);
    }
}
END_TEST

START_TEST(fuzz_anything)
{
    static const char alphabet[] = "aab1,,\"\"\n\n\r \t\xEF\xBB\xBF\0";
    char *out = malloc(4096);
    int good = 0;
    for (uint32_t round = 0; round < 3000; ++round) {
        char text[64];
        size_t bytes = random_word(9, round) % sizeof text;
        for (size_t i = 0; i < bytes; ++i)
            text[i] = alphabet[random_word(1000 + round, i) % sizeof alphabet];
        write_bytes("f.csv", text, bytes);
        lks_status status = read_all("f.csv", ',', out, 4096);
        ck_assert(status == LKS_OK || status == LKS_ERR_CORRUPT);
        good += status == LKS_OK;
    }
    ck_assert_int_gt(good, 50);
    ck_assert_int_lt(good, 2950);
    free(out);
}
END_TEST

TCase *csv_tests(void)
{
    TCase *tcase = tcase_create("csv");
    tcase_add_test(tcase, parses_rfc_4180);
    tcase_add_test(tcase, is_lenient_where_it_says);
    tcase_add_test(tcase, refuses_with_the_line);
    tcase_add_test(tcase, reads_beyond_its_buffer_and_seeks);
    tcase_add_test(tcase, fuzz_round_trip);
    tcase_add_test(tcase, fuzz_anything);
    return tcase;
}
