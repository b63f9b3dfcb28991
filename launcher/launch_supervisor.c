#include "launcher/launch_supervisor.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <poll.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

static const double second_interrupt_seconds = 5;
/* Ranks need this long to be ready for a notice; one that comes earlier would kill them. */
static const double notice_ready_seconds = 2;

static void take_signal(lks_supervisor *s, int number)
{
    if (number == SIGCHLD)
        return;
    bool again = number == SIGINT && s->interrupt_ns &&
                 lks_clock_seconds_since(s->interrupt_ns) < second_interrupt_seconds;
    if (number == SIGINT)
        s->interrupt_ns = lks_clock_ns();
    if (again) {
        lks_log_root("launch: interrupted twice: ending the ranks without a checkpoint");
        s->killed = s->notice = true;
        if (s->mpirun)
            kill(s->mpirun, SIGINT);
    } else if (!s->notice) {
        s->notice = true;
        lks_log_root("launch: a notice to stop (signal %d): the ranks save and leave", number);
    }
}

static void take_signals(lks_supervisor *s)
{
    struct signalfd_siginfo info;
    while (read(s->signals, &info, sizeof info) == (ssize_t)sizeof info)
        take_signal(s, (int)info.ssi_signo);
}

/* False when the stream has ended or there is nothing now. */
static bool read_output(lks_supervisor *s)
{
    char part[16384];
    ssize_t got = read(s->output, part, sizeof part);
    if (got > 0)
        lks_launch_report_feed(&s->report, part, (size_t)got);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR)) {
        close(s->output);
        s->output = -1;
    }
    return got > 0;
}

static void forward_notice(lks_supervisor *s)
{
    if (!s->notice || s->notice_sent || !s->mpirun)
        return;
    if (!s->stepped && lks_clock_seconds_since(s->started_ns) < notice_ready_seconds)
        return;
    kill(s->mpirun, SIGUSR2);
    s->notice_sent = true;
}

void lks_supervisor_wait(lks_supervisor *s, int milliseconds)
{
    struct pollfd files[] = {{s->signals, POLLIN, 0}, {s->output, POLLIN, 0}};
    poll(files, 2, milliseconds);
    take_signals(s);
    if (s->output >= 0)
        read_output(s);
    forward_notice(s);
}

bool lks_supervisor_reap(lks_supervisor *s)
{
    if (waitpid(s->mpirun, &s->wait_status, WNOHANG) != s->mpirun)
        return false;
    s->mpirun = 0;
    while (s->output >= 0 && read_output(s))
        ;
    if (s->output >= 0)
        close(s->output);
    s->output = -1;
    lks_launch_report_end(&s->report);
    return true;
}

/* KILL: TERM would have mpirun continue the stopped ranks first. */
void lks_supervisor_kill(lks_supervisor *s)
{
    kill(s->mpirun, SIGKILL);
    while (!lks_supervisor_reap(s))
        lks_supervisor_wait(s, 5);
}
