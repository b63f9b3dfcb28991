#include "runtime/report/progress.h"

#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { PROGRESS_COLUMNS = 80, PROGRESS_LINE_BYTES = 1024 };

static const uint64_t progress_draw_ns = 100000000; /* at most 10 bars a second */
static const uint64_t progress_line_ns = 5000000000;

struct report_progress {
    uint64_t steps;
    int terminal; /* whose size bounds the bar; -1: not on a terminal */
    bool colour;
    atomic_bool visible; /* any thread may log, which wipes the bar */
    bool begun, told;    /* a step was seen; the last one seen was put into a line */
    lks_step_metrics last;
    uint64_t first_step, first_ns; /* of this start: the base of the time left */
    uint64_t shown_ns;
};

/* --- The terminal --------------------------------------------------------- */

/* mpirun reads the ranks' stderr through a pipe and writes it to its own, which may
 * be a terminal: then a bar arrives there all the same. */
static int progress_parent_terminal(void)
{
    if (!getenv("OMPI_COMM_WORLD_RANK") && !getenv("PMIX_RANK") && !getenv("PMI_RANK"))
        return -1;
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/fd/2", (long)getppid());
    int file = open(path, O_WRONLY | O_NOCTTY | O_CLOEXEC);
    if (file >= 0 && isatty(file))
        return file;
    if (file >= 0)
        close(file);
    return -1;
}

static int progress_find_terminal(void)
{
    const char *kind = getenv("TERM");
    if (!kind || strcmp(kind, "dumb") == 0 || lks_log_get_level() == LKS_LOG_QUIET)
        return -1;
    if (isatty(STDERR_FILENO))
        return fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 0);
    return progress_parent_terminal();
}

static int progress_columns(const report_progress *progress)
{
    struct winsize size;
    if (ioctl(progress->terminal, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    return PROGRESS_COLUMNS;
}

static void progress_write(const char *text, size_t length)
{
    ssize_t written = write(STDERR_FILENO, text, length);
    (void)written; /* a bar that cannot be drawn is no failure */
}

static void progress_wipe(void *user)
{
    report_progress *progress = user;
    if (atomic_exchange(&progress->visible, false))
        progress_write("\r\033[K", 4);
}

/* --- What is said --------------------------------------------------------- */

/* "45s", "8m 20s", "3h 5m", "2d 4h" */
static void progress_print_duration(double seconds, char *out, size_t size)
{
    unsigned long long s = seconds < 1e15 ? (unsigned long long)(seconds + 0.5) : 0;
    if (s < 60)
        snprintf(out, size, "%llus", s);
    else if (s < 3600)
        snprintf(out, size, "%llum %llus", s / 60, s % 60);
    else if (s < 86400)
        snprintf(out, size, "%lluh %llum", s / 3600, s % 3600 / 60);
    else
        snprintf(out, size, "%llud %lluh", s / 86400, s % 86400 / 3600);
}

static double progress_seconds_left(const report_progress *progress, const lks_step_metrics *m)
{
    double each = m->step_seconds;
    if (m->step > progress->first_step)
        each =
            lks_clock_seconds_since(progress->first_ns) / (double)(m->step - progress->first_step);
    return m->step < progress->steps ? each * (double)(progress->steps - m->step) : 0;
}

static size_t progress_describe(const report_progress *progress, const lks_step_metrics *m,
                                char *out, size_t size)
{
    char left[48];
    progress_print_duration(progress_seconds_left(progress, m), left, sizeof left);
    int length = snprintf(out, size, "step %llu/%llu  loss %.4f  lr %.2e  %.4g samples/s  %s left",
                          (unsigned long long)m->step, (unsigned long long)progress->steps, m->loss,
                          m->lr, m->samples_per_second, left);
    return (size_t)length < size ? (size_t)length : size - 1;
}

static void progress_tell(report_progress *progress, uint64_t now)
{
    char text[PROGRESS_LINE_BYTES];
    progress_describe(progress, &progress->last, text, sizeof text);
    lks_log_root("%s", text);
    progress->told = true;
    progress->shown_ns = now;
}

/* --- The bar -------------------------------------------------------------- */

/* "[=====>    ]  42% ", as wide as leaves room for the text; "" if that is too little. */
static size_t progress_print_bar(const report_progress *progress, int room, char *out, size_t size)
{
    static const char filled[] = "========================================";
    static const char empty[] = "                                        ";
    int width = room - (int)strlen("[>] 100% ");
    if (width > (int)sizeof filled - 1)
        width = (int)sizeof filled - 1;
    if (width < 4 || progress->steps == 0)
        return 0;
    double share = (double)progress->last.step / (double)progress->steps;
    share = share > 1 ? 1 : share;
    int done = (int)(share * width);
    int length = snprintf(out, size, "%s[%.*s>%.*s]%s %3d%% ", progress->colour ? "\033[32m" : "",
                          done, filled, width - done, empty, progress->colour ? "\033[0m" : "",
                          (int)(share * 100));
    return (size_t)length;
}

static void progress_draw(report_progress *progress, uint64_t now)
{
    char text[PROGRESS_LINE_BYTES], line[2 * PROGRESS_LINE_BYTES];
    int columns = progress_columns(progress) - 1; /* the last one would wrap */
    size_t length = progress_describe(progress, &progress->last, text, sizeof text);
    if (length > (size_t)columns)
        length = (size_t)columns;
    size_t used = (size_t)snprintf(line, sizeof line, "\r\033[K");
    used += progress_print_bar(progress, columns - (int)length, line + used, sizeof line - used);
    memcpy(line + used, text, length);
    atomic_store(&progress->visible, true);
    progress_write(line, used + length);
    progress->shown_ns = now;
    progress->told = false;
}

/* --- Steps ---------------------------------------------------------------- */

lks_status report_progress_open(report_progress **out, uint64_t steps)
{
    report_progress *progress;
    LKS_TRY(LKS_NEW(&progress));
    const char *no_colour = getenv("NO_COLOR");
    progress->steps = steps;
    progress->terminal = progress_find_terminal();
    progress->colour = !no_colour || no_colour[0] == '\0';
    if (progress->terminal >= 0)
        lks_log_set_before_line(progress_wipe, progress);
    *out = progress;
    return LKS_OK;
}

void report_progress_close(report_progress *progress)
{
    if (!progress)
        return;
    if (progress->begun && !progress->told)
        progress_tell(progress, lks_clock_ns());
    progress_wipe(progress);
    if (progress->terminal >= 0) {
        lks_log_set_before_line(NULL, NULL);
        close(progress->terminal);
    }
    lks_memory_free(progress);
}

void report_progress_step(report_progress *progress, const lks_step_metrics *metrics)
{
    uint64_t now = lks_clock_ns();
    bool first = !progress->begun;
    progress->last = *metrics;
    progress->told = false;
    if (first) {
        progress->begun = true;
        progress->first_step = metrics->step;
        progress->first_ns = now;
    }
    bool last = metrics->step >= progress->steps;
    bool terminal = progress->terminal >= 0;
    uint64_t pause = terminal ? progress_draw_ns : progress_line_ns;
    if (!first && !last && now - progress->shown_ns < pause)
        return;
    if (terminal && !last)
        progress_draw(progress, now);
    else
        progress_tell(progress, now);
}
