#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "suites.h"

#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static char folder[64];
static int saved_stderr;

static const char *in_run(const char *name)
{
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

void run_setup(void)
{
    strcpy(folder, "/tmp/lks-report-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    saved_stderr = dup(STDERR_FILENO);
    int file = open(in_run("stderr"), O_WRONLY | O_CREAT | O_APPEND, 0600);
    ck_assert_int_ge(file, 0);
    dup2(file, STDERR_FILENO);
    close(file);
}

void run_teardown(void)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    ck_assert_int_eq(lks_files_remove_tree(folder), LKS_OK);
}

const char *run_directory(void)
{
    return folder;
}

char *run_read(const char *name)
{
    char *text;
    size_t bytes;
    ASSERT_OK(lks_files_read(in_run(name), 1 << 20, &text, &bytes));
    return text;
}

lks_step_metrics metrics_of(uint64_t step)
{
    return (lks_step_metrics){.step = step,
                              .epoch = (double)step / 3,
                              .loss = 1.0 / (double)step,
                              .lr = 0.1,
                              .grad_norm = 2.5,
                              .accuracy = NAN,
                              .samples = step * 64,
                              .tokens = step * 64 * 256,
                              .world_size = 3,
                              .step_seconds = 0.25,
                              .samples_per_second = 256};
}

static void write_text(const char *name, const char *text)
{
    ASSERT_OK(lks_files_write_atomically(in_run(name), text, strlen(text)));
}

static void check_text(const char *name, const char *want)
{
    char *text = run_read(name);
    ck_assert_str_eq(text, want);
    free(text);
}

static void open_and_close(uint64_t resume_step)
{
    lks_report *report;
    ASSERT_OK(lks_report_open(&report, folder, resume_step, 100));
    lks_report_close(report);
}

static json_t *parse_line(const char *name)
{
    char *text = run_read(name);
    json_t *json = NULL;
    ck_assert_int_eq(text[strlen(text) - 1], '\n');
    ck_assert_ptr_eq(strchr(text, '\n'), text + strlen(text) - 1);
    ASSERT_OK(lks_json_parse(text, strlen(text), name, &json));
    free(text);
    return json;
}

START_TEST(a_step_is_one_line_with_all_keys)
{
    static const char *const keys[] = {"step",
                                       "epoch",
                                       "loss",
                                       "lr",
                                       "grad_norm",
                                       "samples",
                                       "tokens",
                                       "world_size",
                                       "step_seconds",
                                       "loader_wait_seconds",
                                       "reduce_wait_seconds",
                                       "checkpoint_stall_seconds",
                                       "checkpoint_running_seconds",
                                       "samples_per_second",
                                       "gradient_bytes",
                                       "gradient_bytes_early"};
    lks_report *report;
    lks_step_metrics metrics = metrics_of(7);
    ASSERT_OK(lks_report_open(&report, folder, 0, 100));
    ASSERT_OK(lks_report_step(report, &metrics, true));
    metrics.step = 8;
    ASSERT_OK(lks_report_step(report, &metrics, false));
    lks_report_close(report);
    json_t *json = parse_line("metrics.jsonl");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; ++i)
        ck_assert_msg(json_is_number(json_object_get(json, keys[i])), "%s", keys[i]);
    ck_assert_uint_eq(json_object_size(json), sizeof keys / sizeof *keys);
    ck_assert_int_eq(json_integer_value(json_object_get(json, "step")), 7);
    ck_assert(json_real_value(json_object_get(json, "loss")) == 1.0 / 7); /* to the last digit */
    ck_assert_int_eq(json_integer_value(json_object_get(json, "tokens")), 7 * 64 * 256);
    json_decref(json);
}
END_TEST

START_TEST(numbers_that_are_not_finite)
{
    lks_report *report;
    lks_step_metrics metrics = metrics_of(1);
    metrics.loss = NAN;
    metrics.grad_norm = INFINITY;
    metrics.accuracy = 0.5;
    ASSERT_OK(lks_report_open(&report, folder, 0, 100));
    ASSERT_OK(lks_report_step(report, &metrics, true));
    lks_report_close(report);
    json_t *json = parse_line("metrics.jsonl");
    ck_assert(json_is_null(json_object_get(json, "loss")));
    ck_assert(json_is_null(json_object_get(json, "grad_norm")));
    ck_assert(json_real_value(json_object_get(json, "accuracy")) == 0.5);
    json_decref(json);
}
END_TEST

START_TEST(a_validation_has_its_own_keys)
{
    lks_report *report;
    lks_validation_metrics metrics = {200, 1.75, NAN, 1000, 0.5};
    ASSERT_OK(lks_report_open(&report, folder, 0, 1000));
    ASSERT_OK(lks_report_validation(report, &metrics));
    lks_report_close(report);
    json_t *json = parse_line("metrics.jsonl");
    json_t *want = json_pack("{s:i, s:f, s:i, s:f}", "step", 200, "validation_loss", 1.75,
                             "validation_samples", 1000, "validation_seconds", 0.5);
    ck_assert(json_equal(json, want));
    json_decref(json);
    json_decref(want);
    check_text("stderr", "lockstep: step 200: validation loss 1.7500\n");
}
END_TEST

START_TEST(lines_append_over_starts)
{
    for (uint64_t step = 1; step <= 3; ++step) {
        lks_report *report;
        char line[32];
        snprintf(line, sizeof line, "{\"step\": %d}", (int)step);
        ASSERT_OK(lks_report_open(&report, folder, step - 1, 100));
        ASSERT_OK(lks_report_line(report, "ledger", line));
        ASSERT_OK(lks_report_line(report, "other", line));
        lks_report_close(report);
    }
    check_text("ledger.jsonl", "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3}\n");
    check_text("other.jsonl", "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 3}\n");
    ck_assert(!lks_files_exists(in_run("undone")));
}
END_TEST

START_TEST(lines_beyond_the_resumed_step_move)
{
    write_text("metrics.jsonl",
               "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 2, \"validation_loss\": 1}\n"
               "{\"step\": 3}\n{\"step\": 4}\n");
    write_text("ledger.jsonl", "{\"step\": 2}\n{\"step\": 3}\n");
    write_text("trace.json", "{\"step\": 9}\n");
    open_and_close(2);
    check_text("metrics.jsonl",
               "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 2, \"validation_loss\": 1}\n");
    check_text("undone/metrics-1.jsonl", "{\"step\": 3}\n{\"step\": 4}\n");
    check_text("ledger.jsonl", "{\"step\": 2}\n");
    check_text("undone/ledger-1.jsonl", "{\"step\": 3}\n");
    check_text("trace.json", "{\"step\": 9}\n");
    open_and_close(2); /* again: nothing to do */
    ck_assert(!lks_files_exists(in_run("undone/metrics-2.jsonl")));
    open_and_close(0); /* back to the beginning */
    check_text("metrics.jsonl", "");
    check_text("undone/metrics-2.jsonl",
               "{\"step\": 1}\n{\"step\": 2}\n{\"step\": 2, \"validation_loss\": 1}\n");
}
END_TEST

/* As one that was stopped right before it writes, and goes on when another has taken over. */
START_TEST(a_fenced_start_writes_where_nobody_reads)
{
    lks_report *stopped, *next;
    ASSERT_OK(lks_report_open(&stopped, folder, 0, 9));
    for (uint64_t step = 1; step < 4; ++step) {
        lks_step_metrics metrics = metrics_of(step);
        ASSERT_OK(lks_report_step(stopped, &metrics, true));
    }
    ASSERT_OK(lks_report_line(stopped, "ledger", "{\"step\": 3}"));
    write_text("empty.jsonl", "");
    ASSERT_OK(lks_report_fence(folder));
    ASSERT_OK(lks_report_open(&next, folder, 2, 9));
    ASSERT_OK(lks_report_line(next, "ledger", "{\"step\": 3, \"of\": \"next\"}"));
    char *metrics = run_read("metrics.jsonl");
    ASSERT_OK(lks_report_line(stopped, "ledger", "{\"step\": 4}"));
    lks_step_metrics late = metrics_of(4);
    ASSERT_OK(lks_report_step(stopped, &late, true));
    ASSERT_OK(lks_report_sync(stopped));
    check_text("ledger.jsonl", "{\"step\": 3, \"of\": \"next\"}\n");
    check_text("metrics.jsonl", metrics);
    check_text("empty.jsonl", "");
    check_text("undone/ledger-1.jsonl", "{\"step\": 3}\n");
    free(metrics);
    lks_report_close(stopped);
    lks_report_close(next);
}
END_TEST

START_TEST(a_torn_last_line_is_cut_off)
{
    static const struct {
        const char *before, *after, *undone;
    } cases[] = {
        {"{\"step\": 1}\n{\"step\": 2, \"lo", "{\"step\": 1}\n", NULL},
        {"{\"step\": 1}\n{\"step\": 6}\n{\"st", "{\"step\": 1}\n", "{\"step\": 6}\n"},
        {"{\"st", "", NULL},
        {"{\"step\": 1}\n{\"step\": 2}", "{\"step\": 1}\n{\"step\": 2}\n", NULL},
        {"{\"step\": 1}\n{\"step\": 6}", "{\"step\": 1}\n", "{\"step\": 6}"},
        {"{\"step\": 6}", "", "{\"step\": 6}"},
        {"", "", NULL},
        {"\n", "\n", NULL},
        {"not json\n{\"step\": 1}\n", "not json\n{\"step\": 1}\n", NULL},
        {"{\"step\": 1}\nnot json\n", "{\"step\": 1}\nnot json\n", NULL},
        {"{\"step\": 1}\n{\"step\": 6}\nnot json\n", "{\"step\": 1}\n",
         "{\"step\": 6}\nnot json\n"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; ++i) {
        write_text("metrics.jsonl", cases[i].before);
        open_and_close(5);
        check_text("metrics.jsonl", cases[i].after);
        ck_assert_int_eq(lks_files_exists(in_run("undone/metrics-1.jsonl")),
                         cases[i].undone != NULL);
        if (cases[i].undone)
            check_text("undone/metrics-1.jsonl", cases[i].undone);
        ASSERT_OK(lks_files_remove_tree(in_run("undone")));
    }
}
END_TEST

static void set_file_limit(rlim_t bytes)
{
    struct rlimit limit = {bytes, RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

static void check_length(const char *name, size_t want)
{
    char *text = run_read(name);
    ck_assert_uint_eq(strlen(text), want);
    free(text);
}

/* A limit on the size of files stands for a full disk. */
START_TEST(lines_wait_for_space_and_are_whole)
{
    lks_report *report;
    char line[600];
    memset(line, ' ', sizeof line);
    memcpy(line, "{\"step\": 1", 10);
    strcpy(line + sizeof line - 2, "}");
    ASSERT_OK(lks_report_open(&report, folder, 0, 100));
    ASSERT_OK(lks_report_line(report, "ledger", line));
    set_file_limit(1000);
    ASSERT_OK(lks_report_line(report, "ledger", line));
    ASSERT_OK(lks_report_line(report, "ledger", "{\"step\": 3}"));
    check_length("ledger.jsonl", sizeof line);
    set_file_limit(RLIM_INFINITY);
    ASSERT_OK(lks_report_line(report, "ledger", "{\"step\": 4}"));
    check_length("ledger.jsonl", 2 * sizeof line + 2 * sizeof "{\"step\": 3}");
    set_file_limit(1300);
    ASSERT_OK(lks_report_line(report, "ledger", line));
    set_file_limit(RLIM_INFINITY);
    lks_report_close(report);
    check_length("ledger.jsonl", 3 * sizeof line + 2 * sizeof "{\"step\": 3}");
}
END_TEST

START_TEST(a_missing_run_directory_is_told)
{
    lks_report *report = NULL;
    ck_assert_int_eq(lks_report_open(&report, in_run("none"), 0, 100), LKS_ERR_IO);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "none"));
    ck_assert_ptr_null(report);
    lks_report_close(NULL);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("report");
    TCase *tcase = tcase_create("report");
    tcase_add_checked_fixture(tcase, run_setup, run_teardown);
    tcase_add_test(tcase, a_step_is_one_line_with_all_keys);
    tcase_add_test(tcase, numbers_that_are_not_finite);
    tcase_add_test(tcase, a_validation_has_its_own_keys);
    tcase_add_test(tcase, lines_append_over_starts);
    tcase_add_test(tcase, lines_beyond_the_resumed_step_move);
    tcase_add_test(tcase, a_fenced_start_writes_where_nobody_reads);
    tcase_add_test(tcase, a_torn_last_line_is_cut_off);
    tcase_add_test(tcase, lines_wait_for_space_and_are_whole);
    tcase_add_test(tcase, a_missing_run_directory_is_told);
    suite_add_tcase(suite, tcase);
    suite_add_tcase(suite, case_progress());
    suite_add_tcase(suite, case_terminal());
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_NORMAL);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
