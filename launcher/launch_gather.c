#include "launcher/launch_supervisor.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <stdio.h>
#include <string.h>

enum { SILENT_NAMED = 4, PAUSE_MS = 50, PAUSES = 20 };
static const double told_again_seconds = 30; /* the same hosts are still silent */

static lks_status ask_hosts(lks_supervisor *s)
{
    char order[64];
    snprintf(order, sizeof order, "clear:%s", s->mark);
    LKS_TRY(lks_probe_start(&s->probe, &s->hosts, order, s->program, s->options->probe_seconds,
                            &s->mask_before));
    s->probe.hurry = s->report.host_lost;
    while (!lks_probe_poll(&s->probe))
        lks_supervisor_wait(s, 5);
    return LKS_OK;
}

static int choose_hosts(lks_supervisor *s, bool frozen_too)
{
    int64_t room = 0;
    for (size_t i = 0; i < s->hosts.count; ++i) {
        const lks_host *host = &s->hosts.items[i];
        s->usable[i] = host->answers && (frozen_too || host->frozen < 0);
        if (s->usable[i])
            room += (int64_t)host->slots * s->per_slot;
    }
    return (int)(room < s->ranks_wanted ? room : s->ranks_wanted);
}

/* Those that answer. One whose ranks were stopped is left out while the others are enough. */
static int usable_ranks(lks_supervisor *s)
{
    int least = s->options->min_ranks > 1 ? (int)s->options->min_ranks : 1;
    int ranks = choose_hosts(s, false);
    return ranks >= least ? ranks : choose_hosts(s, true);
}

static size_t count_silent(const lks_supervisor *s)
{
    size_t silent = 0;
    for (size_t i = 0; i < s->hosts.count; ++i)
        silent += !s->hosts.items[i].answers;
    return silent;
}

bool lks_gather_is_complete(const lks_supervisor *s)
{
    return count_silent(s) == 0;
}

static void name_silent(const lks_supervisor *s, lks_text *out)
{
    size_t silent = count_silent(s), named = 0;
    for (size_t i = 0; i < s->hosts.count && named < SILENT_NAMED; ++i)
        if (!s->hosts.items[i].answers)
            lks_text_append(out, "%s%s", named++ ? ", " : "", s->hosts.items[i].name);
    if (silent > named)
        lks_text_append(out, " and %zu more", silent - named);
}

/* The wait for hosts, as it is told. */
typedef struct gathering {
    uint64_t start_ns, told_ns;
    lks_text silent, told;
} gathering;

static bool is_enough(const lks_supervisor *s)
{
    return s->ranks >= s->options->min_ranks && s->ranks > 0;
}

/* Whenever others are silent than before, and now and then. */
static void tell_waiting(const lks_supervisor *s, gathering *g)
{
    bool news = !g->told_ns || strcmp(g->told.data, g->silent.data) != 0;
    if (!news && lks_clock_seconds_since(g->told_ns) < told_again_seconds)
        return;
    lks_log_root("launch: %zu of %zu hosts answer after %.0f s; waiting up to %.0f s for %s",
                 s->hosts.count - count_silent(s), s->hosts.count,
                 lks_clock_seconds_since(g->start_ns), s->options->wait_seconds, g->silent.data);
    g->told_ns = lks_clock_ns();
    lks_text_clear(&g->told);
    lks_text_append(&g->told, "%s", g->silent.data);
}

/* No more waiting: go on with those that answer, or give up. */
static lks_status settle(const lks_supervisor *s, const gathering *g)
{
    char ranks[32];
    lks_text_count(ranks, sizeof ranks, (uint64_t)s->ranks, "rank");
    if (!is_enough(s))
        return LKS_FAIL(LKS_ERR_PEER,
                        "hosts for %s answer, want %lld (--min-ranks): no answer from %s "
                        "within %.0f s (--wait-seconds); start again when they are back",
                        ranks, (long long)s->options->min_ranks, g->silent.data,
                        s->options->wait_seconds);
    lks_log_warn("launch: no answer from %s within %.0f s (--wait-seconds); going on without, with "
                 "%s",
                 g->silent.data, s->options->wait_seconds, ranks);
    return LKS_OK;
}

/* One question to all. *over: there is nothing to wait for any more. */
static lks_status gather_once(lks_supervisor *s, gathering *g, bool for_all, bool *over)
{
    LKS_TRY(ask_hosts(s));
    s->ranks = s->notice ? 0 : usable_ranks(s);
    *over = s->notice || (is_enough(s) && (!for_all || lks_gather_is_complete(s)));
    if (*over)
        return LKS_OK;
    lks_text_clear(&g->silent);
    name_silent(s, &g->silent);
    if (g->silent.failed)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for the names of hosts");
    if (lks_clock_seconds_since(g->start_ns) > s->options->wait_seconds) {
        *over = true;
        return settle(s, g);
    }
    tell_waiting(s, g);
    for (int i = 0; i < PAUSES && !s->notice; ++i)
        lks_supervisor_wait(s, PAUSE_MS);
    return LKS_OK;
}

lks_status lks_gather(lks_supervisor *s, bool for_all)
{
    gathering g = {.start_ns = lks_clock_ns()};
    lks_status status = LKS_OK;
    for (bool over = false; status == LKS_OK && !over;)
        status = gather_once(s, &g, for_all, &over);
    lks_text_release(&g.silent);
    lks_text_release(&g.told);
    return status;
}
