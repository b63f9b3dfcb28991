#include "runtime/base/log.h"
#include "suites.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static int saved_stderr;
static FILE *captured;

static void setup(void)
{
    captured = tmpfile();
    fflush(stderr);
    saved_stderr = dup(STDERR_FILENO);
    dup2(fileno(captured), STDERR_FILENO);
}

static void teardown(void)
{
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    fclose(captured);
}

/* What was logged since the last call. */
static const char *logged(void)
{
    static char text[16384];
    rewind(captured);
    size_t bytes = fread(text, 1, sizeof text - 1, captured);
    text[bytes] = '\0';
    ck_assert_int_eq(ftruncate(fileno(captured), 0), 0);
    lseek(STDERR_FILENO, 0, SEEK_SET);
    return text;
}

START_TEST(lines_name_their_rank)
{
    lks_log_root("hello %d", 5);
    ck_assert_str_eq(logged(), "lockstep: hello 5\n");
    lks_log_identify("host3", 5, 8);
    lks_log_warn("slow");
    ck_assert_str_eq(logged(), "lockstep: host3 rank 5: warning: slow\n");
    lks_log_error("two\nlines");
    ck_assert_str_eq(logged(), "lockstep: host3 rank 5: two lines\n");
    lks_log_root("not mine");
    ck_assert_str_eq(logged(), "");
    lks_log_identify("host3", 0, 1);
    lks_log_error("alone");
    ck_assert_str_eq(logged(), "lockstep: alone\n");
}
END_TEST

START_TEST(levels_hide_lines)
{
    lks_log_verbose("detail");
    ck_assert_str_eq(logged(), "");
    lks_log_set_level(LKS_LOG_VERBOSE);
    ck_assert_int_eq(lks_log_get_level(), LKS_LOG_VERBOSE);
    lks_log_verbose("detail");
    ck_assert_str_eq(logged(), "lockstep: detail\n");
    lks_log_set_level(LKS_LOG_QUIET);
    lks_log_root("news");
    lks_log_verbose("detail");
    ck_assert_str_eq(logged(), "");
    lks_log_error("bad");
    ck_assert_str_eq(logged(), "lockstep: bad\n");
}
END_TEST

START_TEST(long_lines_are_whole)
{
    char *text = malloc(10001);
    memset(text, 'x', 10000);
    text[10000] = '\0';
    lks_log_root("%s!", text);
    const char *line = logged();
    ck_assert_uint_eq(strlen(line), strlen("lockstep: ") + 10002);
    ck_assert_str_eq(line + strlen(line) - 3, "x!\n");
    for (size_t length = 2030; length < 2050; ++length) { /* around the size of the fixed buffer */
        text[length] = '\0';
        lks_log_root("%s", text);
        ck_assert_uint_eq(strlen(logged()), strlen("lockstep: ") + length + 1);
        text[length] = 'x';
    }
    free(text);
}
END_TEST

START_TEST(failures_are_worded_once)
{
    lks_status_set_message("");
    lks_log_failure(LKS_ERR_IO);
    ck_assert_str_eq(logged(), "");
    ck_assert_int_eq(LKS_FAIL(LKS_ERR_IO, "%s: torn", "file"), LKS_ERR_IO);
    ck_assert_str_eq(lks_status_message(), "file: torn");
    ck_assert_int_eq(strncmp(lks_status_origin(), "test_log.c:", 11), 0);
    lks_log_failure(LKS_ERR_IO);
    ck_assert_str_eq(logged(), "lockstep: file: torn\n");
    /* The old message may be part of the new one. */
    (void)LKS_FAIL(LKS_ERR_PEER, "rank 3: %s", lks_status_message());
    ck_assert_str_eq(lks_status_message(), "rank 3: file: torn");
    lks_status_set_message(lks_status_message() + 8);
    ck_assert_str_eq(lks_status_message(), "file: torn");
    (void)LKS_FAIL(LKS_ERR_USAGE, "key \n\x1b[31m is unknown");
    ck_assert_str_eq(lks_status_message(), "key   [31m is unknown");
    (void)LKS_FAIL(LKS_ERR_PEER, "file: torn");
    lks_log_set_level(LKS_LOG_VERBOSE);
    lks_log_failure(LKS_ERR_PEER);
    ck_assert_ptr_nonnull(strstr(logged(), "file: torn (peer, at test_log.c:"));
    ck_assert_str_eq(lks_status_name(LKS_ERR_NOT_FINITE), "not-finite");
}
END_TEST

START_TEST(overlong_messages_are_cut)
{
    char text[9000];
    memset(text, 'y', sizeof text - 1);
    text[sizeof text - 1] = '\0';
    (void)LKS_FAIL(LKS_ERR_USAGE, "%s", text);
    size_t length = strlen(lks_status_message());
    ck_assert_uint_gt(length, 4000);
    ck_assert_str_eq(lks_status_message() + length - 4, "y...");
}
END_TEST

static void count_call(void *user)
{
    ++*(int *)user;
}

START_TEST(a_bar_is_wiped_before_a_line)
{
    int calls = 0;
    lks_log_set_before_line(count_call, &calls);
    lks_log_root("one");
    lks_log_verbose("hidden");
    ck_assert_int_eq(calls, 1);
    lks_log_set_before_line(NULL, NULL);
    lks_log_root("two");
    ck_assert_int_eq(calls, 1);
}
END_TEST

TCase *case_log(void)
{
    TCase *tcase = tcase_create("log, status");
    tcase_add_checked_fixture(tcase, setup, teardown);
    tcase_add_test(tcase, lines_name_their_rank);
    tcase_add_test(tcase, levels_hide_lines);
    tcase_add_test(tcase, long_lines_are_whole);
    tcase_add_test(tcase, failures_are_worded_once);
    tcase_add_test(tcase, overlong_messages_are_cut);
    tcase_add_test(tcase, a_bar_is_wiped_before_a_line);
    return tcase;
}
