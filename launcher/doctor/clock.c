/* How far the hosts' clocks are apart, by messages there and back. */
#include "runtime/base/clock.h"
#include "launcher/doctor/check.h"

#include <math.h>
#include <string.h>
#include <time.h>

enum { PINGS = 20, TAG = LKS_TAG_FREE + 1000 };
static const double warn_seconds = 1,
                    fail_seconds = 300; /* tokens and tickets stop to work at five minutes */

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_REALTIME, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static lks_status wait_for(lks_doctor *d, lks_comm_request **request, uint64_t deadline_ns)
{
    bool done = false;
    for (unsigned spins = 0; !done; ++spins) {
        LKS_TRY(lks_comm_test(d->comm, request, &done, NULL));
        if (!done && lks_clock_ns() > deadline_ns) {
            (void)lks_comm_cancel(d->comm, request);
            return LKS_FAIL(LKS_ERR_PEER, "no message came through within %g s",
                            d->options->limit_seconds);
        }
        lks_comm_relax(d->comm, spins);
    }
    return LKS_OK;
}

static lks_status pass(lks_doctor *d, int peer, bool sending, double *time, uint64_t deadline_ns)
{
    lks_comm_request *request = NULL;
    LKS_TRY(sending ? lks_comm_send(d->comm, peer, TAG, time, sizeof *time, &request)
                    : lks_comm_receive(d->comm, peer, TAG, time, sizeof *time, &request));
    return wait_for(d, &request, deadline_ns);
}

static lks_status ask(lks_doctor *d, int peer, double *skew, double *error, uint64_t deadline_ns)
{
    for (int i = 0; i < PINGS; ++i) {
        double theirs = 0, sent = now();
        uint64_t start = lks_clock_ns();
        LKS_TRY(pass(d, peer, true, &sent, deadline_ns));
        LKS_TRY(pass(d, peer, false, &theirs, deadline_ns));
        double trip = lks_clock_seconds_since(start);
        if (i == 0 || trip < *error) {
            *error = trip;
            *skew = theirs - (sent + trip / 2);
        }
    }
    return LKS_OK;
}

static lks_status answer(lks_doctor *d, uint64_t deadline_ns)
{
    for (int i = 0; i < PINGS; ++i) {
        double time;
        LKS_TRY(pass(d, 0, false, &time, deadline_ns));
        time = now();
        LKS_TRY(pass(d, 0, true, &time, deadline_ns));
    }
    return LKS_OK;
}

/* One host after another. */
static lks_status clock_meet(lks_doctor *d, json_t *facts)
{
    json_t *skews = json_object();
    json_object_set_new(facts, "skews", skews);
    for (int r = 1; r < d->size; ++r) {
        uint64_t deadline = lks_clock_ns() + (uint64_t)(d->options->limit_seconds * 1e9);
        double skew = 0, error = 0;
        char key[16];
        if (d->rank == r)
            LKS_TRY(answer(d, deadline));
        if (d->rank != 0)
            continue;
        LKS_TRY(ask(d, r, &skew, &error, deadline));
        snprintf(key, sizeof key, "%d", r);
        json_object_set_new(skews, key, json_pack("{s:f, s:f}", "seconds", skew, "within", error));
    }
    return LKS_OK;
}

static const json_t *skew_of(const lks_doctor *d, int rank)
{
    char key[16];
    snprintf(key, sizeof key, "%d", rank);
    return json_object_get(json_object_get(lks_doctor_facts(d, "clock", 0), "skews"), key);
}

static void clock_judge(lks_doctor *d)
{
    double largest = 0, within = 0;
    for (int r = 1; r < d->size; ++r) {
        double skew = json_number_value(json_object_get(skew_of(d, r), "seconds"));
        double error = json_number_value(json_object_get(skew_of(d, r), "within"));
        largest = fabs(skew) > largest ? fabs(skew) : largest;
        within = error > within ? error : within;
        if (fabs(skew) < warn_seconds)
            continue;
        lks_doctor_row(d, NULL, fabs(skew) < fail_seconds ? LKS_DOCTOR_WARN : LKS_DOCTOR_FAIL, r,
                       lks_doctor_on(d, r, "chronyc makestep"), "the clock is %.0f s %s that of %s",
                       fabs(skew), skew > 0 ? "ahead of" : "behind", lks_doctor_host(d, 0));
    }
    if (!lks_doctor_has_trouble(d) && d->size == 1)
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "one rank: nothing to compare");
    else if (!lks_doctor_has_trouble(d))
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "at most %.3f ms apart, measured to %.3f ms", largest * 1e3, within * 1e3);
}

const lks_doctor_check lks_doctor_check_clock = {
    .name = "clock",
    .about = "how far the hosts' clocks are apart",
    .meet = clock_meet,
    .judge = clock_judge,
};
