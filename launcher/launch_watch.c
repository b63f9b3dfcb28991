/* Notices a job that no longer steps.
 *
 * mpirun sees a rank that ends and, by keepalive, a host that is gone. It does not see a rank
 * that is stopped. A quiet run directory alone proves nothing (a validation may be long), so it
 * only makes us look: a stopped rank is proof at once, a host that does not answer after a
 * while, and silence alone after a long time.
 */
#include "launcher/launch_supervisor.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <stdio.h>

static const double look_seconds = 2, look_first_seconds = 10; /* before a step was seen */
static const double silent_seconds = 30, stall_seconds = 1800;
static const double look_steps = 3, silent_steps = 20;
static const double look_pause_seconds = 1, look_pause_longest = 30;

static double larger(double a, double b)
{
    return a > b ? a : b;
}

void lks_watch_begin(lks_supervisor *s)
{
    s->pulse = lks_launch_job_pulse(&s->job);
    s->pulse_ns = lks_clock_ns();
    s->longest_seconds = 0;
    s->stepped = false;
    s->next_look_ns = 0;
    s->looking = false;
    s->stopped_looks = s->silent_looks = 0;
}

static void stop_looking(lks_supervisor *s)
{
    if (s->looking)
        lks_probe_stop(&s->probe);
    s->looking = false;
    s->stopped_looks = s->silent_looks = 0;
    s->next_look_ns = 0;
}

static void tell_return(lks_supervisor *s)
{
    int64_t first;
    if (!s->fault_ns || lks_launch_job_starts(&s->job, &first) <= s->starts_before)
        return;
    int64_t step = lks_launch_job_newest_step(&s->job);
    if (step <= first)
        return;
    lks_log_root("launch: training again: step %lld done, %.1f s after the last one before the "
                 "fault",
                 (long long)step, lks_clock_seconds_since(s->fault_ns));
    s->fault_ns = 0;
}

/* True when a step was written down since the last time. */
static bool take_pulse(lks_supervisor *s)
{
    uint64_t pulse = lks_launch_job_pulse(&s->job), now = lks_clock_ns();
    if (pulse == s->pulse)
        return false;
    double seconds = (double)(now - s->pulse_ns) * 1e-9;
    if (!s->stepped) /* that was the time to start */
        seconds = 0;
    if (seconds > s->longest_seconds)
        s->longest_seconds = seconds;
    else
        s->longest_seconds += 0.02 * (seconds - s->longest_seconds); /* forget slowly */
    s->stepped = true;
    s->pulse = pulse;
    s->pulse_ns = now;
    tell_return(s);
    stop_looking(s);
    return true;
}

static void start_looking(lks_supervisor *s, double quiet)
{
    char order[64];
    double pause = s->stopped_looks ? look_pause_seconds : larger(look_pause_seconds, quiet);
    pause = pause < look_pause_longest ? pause : look_pause_longest;
    s->next_look_ns = lks_clock_ns() + (uint64_t)(pause * 1e9);
    snprintf(order, sizeof order, "look:%s", s->mark);
    lks_log_verbose("launch: no step ended for %.1f s: looking at the ranks", quiet);
    s->looking = lks_probe_start(&s->probe, &s->hosts, order, s->program, s->options->probe_seconds,
                                 &s->mask_before) == LKS_OK;
}

static bool mpirun_is_stopped(const lks_supervisor *s)
{
    char path[64], state = 0;
    snprintf(path, sizeof path, "/proc/%ld/stat", (long)s->mpirun);
    FILE *file = fopen(path, "re");
    if (file && fscanf(file, "%*d (%*[^)]) %c", &state) != 1)
        state = 0;
    if (file)
        fclose(file);
    return state == 'T';
}

static bool hangs(lks_supervisor *s, const lks_host *host)
{
    if (s->report.cause.length)
        return true;
    if (host && host->frozen >= 0)
        lks_text_append(&s->report.cause, "rank %d on %s is stopped (SIGSTOP) and nobody goes on",
                        host->frozen, host->name);
    else if (host)
        lks_text_append(&s->report.cause, "no step ends and host %s does not answer", host->name);
    else if (mpirun_is_stopped(s))
        lks_text_append(&s->report.cause, "mpirun is stopped (SIGSTOP)");
    else
        lks_text_append(&s->report.cause, "no step ended for %.0f s",
                        lks_clock_seconds_since(s->pulse_ns));
    s->report.lost = true;
    lks_log_verbose("launch: %s: ending mpirun", s->report.cause.data);
    return true;
}

/* All hosts have answered, or had their time. */
static bool judge(lks_supervisor *s, double quiet)
{
    const lks_host *frozen = NULL, *silent = NULL;
    for (size_t i = 0; i < s->hosts.count; ++i) {
        const lks_host *host = &s->hosts.items[i];
        if (s->usable[i] && !host->answers && !silent)
            silent = host;
        if (s->usable[i] && host->frozen >= 0 && !frozen)
            frozen = host;
    }
    s->stopped_looks = mpirun_is_stopped(s) ? s->stopped_looks + 1 : 0;
    s->silent_looks = silent ? s->silent_looks + 1 : 0;
    if (frozen || s->stopped_looks > 1)
        return hangs(s, frozen);
    if (s->silent_looks > 1 && quiet > larger(silent_seconds, silent_steps * s->longest_seconds))
        return hangs(s, silent);
    return false;
}

bool lks_watch(lks_supervisor *s)
{
    if (take_pulse(s))
        return false;
    double quiet = lks_clock_seconds_since(s->pulse_ns), limit = s->options->stall_seconds;
    if (limit <= 0)
        limit = larger(stall_seconds, silent_steps * s->longest_seconds);
    if (quiet > limit)
        return hangs(s, NULL);
    if (s->looking) {
        s->looking = !lks_probe_poll(&s->probe);
        return !s->looking && judge(s, quiet);
    }
    double patience =
        s->stepped ? larger(look_seconds, look_steps * s->longest_seconds) : look_first_seconds;
    if (quiet > patience && lks_clock_ns() > s->next_look_ns)
        start_looking(s, quiet);
    return false;
}
