#include "launcher/launch_report.h"
#include "runtime/base/log.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { RULE_MIN = 60, BLOCK_MAX = 65536 };

static void pass_on(const char *bytes, size_t count)
{
    while (count) {
        ssize_t written = write(STDERR_FILENO, bytes, count);
        if (written <= 0)
            return;
        bytes += written;
        count -= (size_t)written;
    }
}

void lks_launch_report_reset(lks_launch_report *report, lks_hosts *hosts)
{
    lks_text_clear(&report->line);
    lks_text_clear(&report->block);
    lks_text_clear(&report->cause);
    report->in_block = report->passing = report->lost = report->host_lost = false;
    report->hosts = hosts;
}

void lks_launch_report_release(lks_launch_report *report)
{
    lks_text_release(&report->line);
    lks_text_release(&report->block);
    lks_text_release(&report->cause);
}

/* --- What a block means --------------------------------------------------- */

static void suspect(lks_launch_report *report, const char *name)
{
    lks_host *host = lks_hosts_named(report->hosts, name);
    if (host)
        host->suspect = true;
}

/* "mpirun noticed that process rank 1 with PID 0 on node host2 exited on signal 9 (Killed)." */
static bool read_signal(lks_launch_report *report, const char *text)
{
    unsigned long rank, pid;
    int number, end = 0;
    char host[256];
    const char *at = strstr(text, "noticed that process rank ");
    if (!at || sscanf(at,
                      "noticed that process rank %lu with PID %lu on node %255s exited on signal "
                      "%d%n",
                      &rank, &pid, host, &number, &end) != 4)
        return false;
    const char *name = at + end, *name_end = name;
    if (!strncmp(name, " (", 2) && (name_end = strchr(name, ')')))
        ++name_end;
    else
        name_end = name;
    if (!report->cause.length)
        lks_text_append(&report->cause, "rank %lu on %s was killed by signal %d%.*s", rank, host,
                        number, (int)(name_end - name), name);
    report->lost = true;
    return true;
}

/* "Remote daemon: [[5713,0],2] on node host2" */
static bool read_lost_host(lks_launch_report *report, const char *text)
{
    char host[256];
    const char *at = strstr(text, "Remote daemon:");
    if (!strstr(text, "lost communication with a remote daemon") || !at ||
        !(at = strstr(at, "on node ")) || sscanf(at, "on node %255s", host) != 1)
        return false;
    suspect(report, host);
    if (!report->cause.length)
        lks_text_append(&report->cause, "host %s was lost with its ranks", host);
    report->lost = report->host_lost = true;
    return true;
}

static bool read_lost_daemon(lks_launch_report *report, const char *text)
{
    if (!strstr(text, "ORTE daemon has unexpectedly failed") &&
        !strstr(text, "unable to reliably start one or more daemons") &&
        !strstr(text, "a required daemon terminated"))
        return false;
    report->lost = report->host_lost = true; /* the probe will tell which */
    return true;
}

/* "Process name: [[21443,1],0]" and "Exit code:    75" */
static bool read_exit(lks_launch_report *report, const char *text)
{
    unsigned family, job, rank;
    int code;
    const char *name = strstr(text, "Process name: [["), *exit = strstr(text, "Exit code:");
    if (!name || !exit || sscanf(name, "Process name: [[%u,%u],%u]", &family, &job, &rank) != 3 ||
        sscanf(exit, "Exit code: %d", &code) != 1)
        return false;
    if (!report->cause.length)
        lks_text_append(&report->cause, "rank %u ended with status %d", rank, code);
    return true;
}

static bool read_abort(lks_launch_report *report, const char *text)
{
    unsigned rank;
    int code;
    const char *at = strstr(text, "MPI_ABORT was invoked on rank "), *error;
    if (!at || sscanf(at, "MPI_ABORT was invoked on rank %u", &rank) != 1 ||
        !(error = strstr(at, "errorcode ")) || sscanf(error, "errorcode %d", &code) != 1)
        return false;
    if (!report->cause.length)
        lks_text_append(&report->cause, "rank %u ended all with status %d", rank, code);
    return true;
}

static bool is_known(lks_launch_report *report, const char *text)
{
    return read_signal(report, text) || read_lost_host(report, text) ||
           read_lost_daemon(report, text) || read_exit(report, text) || read_abort(report, text) ||
           strstr(text, "Primary job  terminated normally");
}

static void block_end(lks_launch_report *report)
{
    static const char rule[] =
        "--------------------------------------------------------------------------\n";
    report->in_block = false;
    bool known = report->block.length && is_known(report, report->block.data);
    if (!known || lks_log_get_level() == LKS_LOG_VERBOSE) {
        pass_on(rule, sizeof rule - 1);
        pass_on(report->block.data, report->block.length);
        pass_on(rule, sizeof rule - 1);
    }
    lks_text_clear(&report->block);
}

/* --- Lines ---------------------------------------------------------------- */

static bool is_rule(const char *line, size_t length)
{
    size_t dashes = strspn(line, "-");
    return dashes >= RULE_MIN && (dashes == length || line[dashes] == '\n' || line[dashes] == '\r');
}

static void line_end(lks_launch_report *report)
{
    const lks_text *line = &report->line;
    bool own = !strncmp(line->data, "lockstep: ", 10);
    if (is_rule(line->data, line->length)) {
        if (report->in_block)
            block_end(report);
        else
            report->in_block = true;
    } else if (report->in_block && !own) {
        lks_text_append_bytes(&report->block, line->data, line->length);
        if (report->block.length > BLOCK_MAX)
            block_end(report);
    } else {
        pass_on(line->data, line->length);
    }
    lks_text_clear(&report->line);
}

void lks_launch_report_feed(lks_launch_report *report, const char *bytes, size_t count)
{
    while (count) {
        const char *newline = memchr(bytes, '\n', count);
        size_t part = newline ? (size_t)(newline - bytes) + 1 : count;
        if (report->passing)
            pass_on(bytes, part);
        else
            lks_text_append_bytes(&report->line, bytes, part);
        if (newline && !report->passing)
            line_end(report);
        if (newline)
            report->passing = false;
        bytes += part;
        count -= part;
    }
    /* What is no rule of dashes need not wait for its end: a bar has none. */
    if (report->line.length && !report->in_block && report->line.data[0] != '-') {
        pass_on(report->line.data, report->line.length);
        lks_text_clear(&report->line);
        report->passing = true;
    }
}

void lks_launch_report_end(lks_launch_report *report)
{
    if (report->line.length)
        line_end(report);
    if (report->in_block)
        block_end(report);
    report->passing = false;
}
