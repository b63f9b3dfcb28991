#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "suites.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

enum { STEPS = 2000 };

static int count_of(const char *text, const char *part)
{
    int count = 0;
    for (const char *at = text; (at = strstr(at, part)) != NULL; at += strlen(part))
        ++count;
    return count;
}

/* Runs steps [first, end); returns the seconds they took. */
static double run_steps(uint64_t first, uint64_t end)
{
    lks_report *report;
    uint64_t start = lks_clock_ns();
    ASSERT_OK(lks_report_open(&report, run_directory(), first - 1, STEPS));
    for (uint64_t step = first; step < end; ++step) {
        lks_step_metrics metrics = metrics_of(step);
        ASSERT_OK(lks_report_step(report, &metrics, false));
    }
    lks_report_close(report);
    return lks_clock_seconds_since(start);
}

START_TEST(first_and_last_step_are_told)
{
    double seconds = run_steps(1, STEPS + 1);
    char *text = run_read("stderr");
    ck_assert_int_le(count_of(text, "\n"), 2 + (int)(seconds / 5));
    static const char first[] = "lockstep: step 1/2000  loss 1.0000  lr 1.00e-01  256 samples/s  ";
    ck_assert_int_eq(strncmp(text, first, sizeof first - 1), 0);
    ck_assert_ptr_nonnull(strstr(text, "\nlockstep: step 2000/2000  loss 0.0005"));
    ck_assert_ptr_null(strchr(text, '\r'));
    ck_assert_ptr_null(strchr(text, '\033'));
    free(text);
}
END_TEST

START_TEST(a_run_that_stops_early_tells_its_last_step)
{
    run_steps(501, 601);
    char *text = run_read("stderr");
    ck_assert_ptr_nonnull(strstr(text, "lockstep: step 501/2000"));
    ck_assert_ptr_nonnull(strstr(text, "\nlockstep: step 600/2000"));
    free(text);
}
END_TEST

START_TEST(quiet_is_quiet)
{
    lks_log_set_level(LKS_LOG_QUIET);
    run_steps(1, STEPS + 1);
    char *text = run_read("stderr");
    ck_assert_str_eq(text, "");
    free(text);
}
END_TEST

/* --- On a terminal -------------------------------------------------------- */

static int terminal;

static void terminal_setup(void)
{
    run_setup();
    terminal = posix_openpt(O_RDWR | O_NOCTTY);
    ck_assert_int_ge(terminal, 0);
    ck_assert_int_eq(grantpt(terminal) | unlockpt(terminal), 0);
    int side = open(ptsname(terminal), O_RDWR | O_NOCTTY);
    ck_assert_int_ge(side, 0);
    struct winsize size = {.ws_col = 100, .ws_row = 25};
    ck_assert_int_eq(ioctl(terminal, TIOCSWINSZ, &size), 0);
    struct termios raw;
    ck_assert_int_eq(tcgetattr(side, &raw), 0);
    cfmakeraw(&raw);
    ck_assert_int_eq(tcsetattr(side, TCSANOW, &raw), 0);
    dup2(side, STDERR_FILENO);
    close(side);
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
}

static void terminal_teardown(void)
{
    close(terminal);
    run_teardown();
}

/* What has arrived on the terminal. */
static char *terminal_read(void)
{
    enum { BYTES = 65536 };
    char *text = calloc(1, BYTES);
    size_t length = 0;
    struct pollfd ready = {terminal, POLLIN, 0};
    while (length < BYTES - 1 && poll(&ready, 1, 0) == 1 && (ready.revents & POLLIN)) {
        ssize_t got = read(terminal, text + length, BYTES - 1 - length);
        ck_assert_int_gt(got, 0);
        length += (size_t)got;
    }
    return text;
}

static const char bar_start[] = "\r\033[K\033[32m[";

START_TEST(a_bar_is_drawn_and_taken_away)
{
    double seconds = run_steps(1, STEPS + 1);
    char *text = terminal_read();
    int bars = count_of(text, bar_start);
    ck_assert_int_ge(bars, 1);
    ck_assert_int_le(bars, 1 + (int)(seconds * 10)); /* however many steps there were */
    ck_assert_int_eq(count_of(text, "\n"), 1);
    const char *line = strstr(text, "lockstep: step 2000/2000");
    ck_assert_ptr_nonnull(line);
    ck_assert_int_eq(strncmp(line - 4, "\r\033[K", 4), 0); /* the bar went before it */
    ck_assert_ptr_null(strstr(line, "\r"));
    free(text);
}
END_TEST

START_TEST(a_log_line_wipes_the_bar)
{
    lks_report *report;
    lks_step_metrics metrics = metrics_of(1000);
    ASSERT_OK(lks_report_open(&report, run_directory(), 0, STEPS));
    ASSERT_OK(lks_report_step(report, &metrics, false));
    lks_log_warn("look");
    lks_log_warn("again");
    char *text = terminal_read();
    ck_assert_ptr_nonnull(strstr(text, " 50% step 1000/2000"));
    ck_assert_ptr_nonnull(
        strstr(text, "\r\033[Klockstep: warning: look\nlockstep: warning: again\n"));
    free(text);
    lks_report_close(report);
    text = terminal_read();
    ck_assert_str_ne(text, "");
    free(text);
    lks_log_warn("after");
    text = terminal_read();
    ck_assert_str_eq(text, "lockstep: warning: after\n");
    free(text);
}
END_TEST

/* Longest line between control sequences, as the terminal would show it. */
static size_t shown_width(const char *text)
{
    size_t width = 0, longest = 0;
    for (const char *c = text; *c; ++c) {
        if (*c == '\033') {
            while (*c != 'm' && *c != 'K')
                ++c;
        } else if (*c == '\r' || *c == '\n') {
            width = 0;
        } else if (++width > longest) {
            longest = width;
        }
    }
    return longest;
}

START_TEST(a_bar_fits_the_terminal)
{
    lks_step_metrics metrics = metrics_of(1999);
    for (unsigned short columns = 1; columns < 140; ++columns) {
        lks_report *report;
        struct winsize size = {.ws_col = columns, .ws_row = 25};
        ck_assert_int_eq(ioctl(terminal, TIOCSWINSZ, &size), 0);
        ASSERT_OK(lks_report_open(&report, run_directory(), 0, STEPS));
        ASSERT_OK(lks_report_step(report, &metrics, false));
        char *text = terminal_read();
        ck_assert_uint_lt(shown_width(text), columns);
        free(text);
        lks_report_close(report);
        free(terminal_read());
    }
}
END_TEST

START_TEST(no_color_is_respected)
{
    setenv("NO_COLOR", "1", 1);
    run_steps(1, 100);
    char *text = terminal_read();
    ck_assert_ptr_nonnull(strstr(text, "\r\033[K["));
    ck_assert_int_eq(count_of(text, "\033[3"), 0);
    free(text);
}
END_TEST

START_TEST(a_dumb_terminal_gets_lines)
{
    setenv("TERM", "dumb", 1);
    run_steps(1, STEPS + 1);
    char *text = terminal_read();
    ck_assert_ptr_null(strchr(text, '\r'));
    ck_assert_ptr_nonnull(strstr(text, "lockstep: step 1/2000"));
    free(text);
}
END_TEST

/* A rank's stderr is a pipe to mpirun, whose own is the terminal. */
START_TEST(a_bar_passes_through_mpirun)
{
    int pipe_ends[2];
    ck_assert_int_eq(pipe(pipe_ends), 0);
    setenv("OMPI_COMM_WORLD_RANK", "0", 1);
    pid_t child = fork(); /* of this process, whose stderr is the terminal */
    if (child == 0) {
        dup2(pipe_ends[1], STDERR_FILENO);
        lks_report *report;
        lks_step_metrics metrics = metrics_of(1000);
        bool right = lks_report_open(&report, run_directory(), 0, STEPS) == LKS_OK &&
                     lks_report_step(report, &metrics, false) == LKS_OK;
        _exit(right ? 0 : 1);
    }
    close(pipe_ends[1]);
    char text[4096] = "";
    size_t length = 0;
    ssize_t got;
    while ((got = read(pipe_ends[0], text + length, sizeof text - 1 - length)) > 0)
        length += (size_t)got;
    close(pipe_ends[0]);
    ck_assert_ptr_nonnull(strstr(text, bar_start));
}
END_TEST

TCase *case_progress(void)
{
    TCase *tcase = tcase_create("progress");
    tcase_add_checked_fixture(tcase, run_setup, run_teardown);
    tcase_add_test(tcase, first_and_last_step_are_told);
    tcase_add_test(tcase, a_run_that_stops_early_tells_its_last_step);
    tcase_add_test(tcase, quiet_is_quiet);
    return tcase;
}

TCase *case_terminal(void)
{
    TCase *tcase = tcase_create("progress on a terminal");
    tcase_add_checked_fixture(tcase, terminal_setup, terminal_teardown);
    tcase_add_test(tcase, a_bar_is_drawn_and_taken_away);
    tcase_add_test(tcase, a_log_line_wipes_the_bar);
    tcase_add_test(tcase, a_bar_fits_the_terminal);
    tcase_add_test(tcase, no_color_is_respected);
    tcase_add_test(tcase, a_dumb_terminal_gets_lines);
    tcase_add_test(tcase, a_bar_passes_through_mpirun);
    return tcase;
}
