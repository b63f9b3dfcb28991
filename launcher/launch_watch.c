/* Notices a job that no longer steps.
 *
 * mpirun sees a rank that ends and, by keepalive, a host that is gone, where its daemon there can
 * still tell or dies with it. It does not see a rank that is stopped. A quiet run directory alone
 * proves nothing (a validation may be long), so it only makes us look: a stopped rank is proof at
 * once, a rank that has ended when mpirun has had the time to notice, a host that does not answer
 * after a while, and silence alone after a long time.
 */
#include "launcher/launch_look.h"
#include "launcher/launch_supervisor.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <stdio.h>

static const double look_seconds = 2, look_first_seconds = 10; /* before a step was seen */
static const double gone_seconds = 15, silent_seconds = 30, stall_seconds = 1800;
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
    s->pace = (lks_pace){0};
    s->stepped = s->met = s->whole = false;
    s->next_look_ns = 0;
    s->looking = s->meeting = false;
    s->stopped_looks = s->silent_looks = 0;
    s->gone_ns = 0;
}

static void stop_looking(lks_supervisor *s)
{
    if (s->looking && !s->meeting)
        lks_probe_stop(&s->probe);
    s->looking = s->meeting;
    s->stopped_looks = s->silent_looks = 0;
    s->gone_ns = 0;
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

/* Sees whether a step was written down since the last time. */
static void take_pulse(lks_supervisor *s)
{
    uint64_t pulse = lks_launch_job_pulse(&s->job), now = lks_clock_ns();
    if (pulse == s->pulse)
        return;
    if (s->stepped) /* before, it was the time to start */
        lks_pace_add(&s->pace, (double)(now - s->pulse_ns) * 1e-9);
    s->stepped = true;
    s->pulse = pulse;
    s->pulse_ns = now;
    tell_return(s);
    stop_looking(s);
}

static void start_looking(lks_supervisor *s, double quiet)
{
    char order[64];
    double pause =
        s->stopped_looks || s->gone_ns ? look_pause_seconds : larger(look_pause_seconds, quiet);
    pause = pause < look_pause_longest ? pause : look_pause_longest;
    s->next_look_ns = lks_clock_ns() + (uint64_t)(pause * 1e9);
    snprintf(order, sizeof order, "look:%s", s->mark);
    lks_log_verbose("launch: %.1f s since the last step: looking at the ranks", quiet);
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

/* Ranks whose neighbour is gone may end soon after it. */
static void tell_missing(const lks_supervisor *s, const lks_look *look, lks_text *cause)
{
    const char *on = look->on.length ? " on " : "", *hosts = look->on.length ? look->on.data : "";
    if (look->missing == 1)
        lks_text_append(cause, "rank %d%s%s has ended without a word to mpirun", look->rank, on,
                        hosts);
    else
        lks_text_append(cause, "%d of %d ranks%s%s have ended, and mpirun goes on", look->missing,
                        s->ranks, on, hosts);
}

static void tell_cause(const lks_supervisor *s, const lks_look *look, lks_text *cause)
{
    if (look->frozen)
        lks_text_append(cause, "rank %d on %s is stopped (SIGSTOP) and nobody goes on",
                        look->frozen->frozen, look->frozen->name);
    else if (mpirun_is_stopped(s))
        lks_text_append(cause, "mpirun is stopped (SIGSTOP)");
    else if (look->rank >= 0)
        tell_missing(s, look, cause);
    else if (look->silent)
        lks_text_append(cause, "no step ends and host %s does not answer", look->silent->name);
    else
        lks_text_append(cause, "no step ended for %.0f s", lks_clock_seconds_since(s->pulse_ns));
}

static bool hangs(lks_supervisor *s, const lks_look *look)
{
    if (s->report.cause.length)
        return true;
    tell_cause(s, look, &s->report.cause);
    s->report.lost = true;
    lks_log_verbose("launch: %s: ending mpirun", s->report.cause.data);
    return true;
}

static bool is_proof(lks_supervisor *s, const lks_look *look, double quiet)
{
    s->whole = s->whole || (!look->gone && !look->silent);
    if (s->meeting) {
        lks_log_verbose("launch: %s", s->whole ? "all ranks are seen" : "not all ranks are seen");
        s->meeting = false;
        return false;
    }
    s->stopped_looks = mpirun_is_stopped(s) ? s->stopped_looks + 1 : 0;
    s->silent_looks = look->silent ? s->silent_looks + 1 : 0;
    if (!look->gone || !s->whole)
        s->gone_ns = 0;
    else if (!s->gone_ns)
        s->gone_ns = lks_clock_ns();
    return look->frozen || s->stopped_looks > 1 ||
           (s->gone_ns && lks_clock_seconds_since(s->gone_ns) > gone_seconds) ||
           (s->silent_looks > 1 &&
            quiet > larger(silent_seconds, silent_steps * lks_pace_usual(&s->pace)));
}

/* All hosts have answered, or had their time. */
static bool judge(lks_supervisor *s, double quiet)
{
    lks_look look;
    if (lks_look_read(&look, &s->hosts, s->usable, s->per_slot, s->ranks) != LKS_OK)
        return false;
    bool over = is_proof(s, &look, quiet) && hangs(s, &look);
    lks_text_release(&look.on);
    return over;
}

/* The first look, at the first step, tells whether ranks can be seen at all: where they cannot, in
 * namespaces of their own, one that is not seen has not ended. No step breaks it off. */
bool lks_watch(lks_supervisor *s)
{
    take_pulse(s);
    double quiet = lks_clock_seconds_since(s->pulse_ns), limit = s->options->stall_seconds;
    if (limit <= 0)
        limit = larger(stall_seconds, silent_steps * s->pace.longest);
    if (quiet > limit)
        return hangs(s, &(lks_look){.rank = -1});
    if (s->looking) {
        s->looking = !lks_probe_poll(&s->probe);
        return !s->looking && judge(s, quiet);
    }
    double patience = s->stepped ? larger(look_seconds, look_steps * lks_pace_usual(&s->pace))
                                 : look_first_seconds;
    bool meeting = s->stepped && !s->met;
    if (!meeting && (quiet < patience || lks_clock_ns() < s->next_look_ns))
        return false;
    start_looking(s, quiet);
    s->meeting = meeting && s->looking;
    s->met = s->met || meeting;
    return false;
}
