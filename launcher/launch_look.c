#include "launcher/launch_look.h"
#include "runtime/base/memory.h"

#include <stdio.h>
#include <string.h>

/* The rank and state of the next process of a rank; false at the end. */
static bool next_rank(const char **at, int *rank, char *state)
{
    while (*at && **at) {
        const char *line = *at, *end = strchr(line, '\n');
        *at = end ? end + 1 : NULL;
        if (sscanf(line, "%d %*d %c", rank, state) == 2 && *rank >= 0)
            return true;
    }
    return false;
}

int lks_look_frozen(const char *answer)
{
    int frozen = -1, rank;
    char state;
    while (next_rank(&answer, &rank, &state))
        if (state == 'T' && (frozen < 0 || rank < frozen))
            frozen = rank;
    return frozen;
}

/* What has been found of the ranks. */
typedef struct tally {
    bool *found; /* [ranks] */
    int ranks, count;
    int hidden;    /* the most that may run on silent hosts */
    bool in_order; /* each is where its number says */
} tally;

/* Where mpirun fills the hosts in their order, this one's ranks are [first, end). */
static int end_of_share(const lks_host *host, bool usable, int per_slot, int first, int ranks)
{
    int room = usable ? host->slots * per_slot : 0;
    return room < ranks - first ? first + room : ranks;
}

static void count_host(tally *t, const lks_host *host, int first, int end)
{
    int rank;
    char state;
    const char *answer = host->said;
    while (next_rank(&answer, &rank, &state)) {
        t->in_order = t->in_order && rank >= first && rank < end;
        if (rank >= t->ranks || t->found[rank])
            continue;
        t->found[rank] = true;
        ++t->count;
    }
}

static int lowest_missing(const tally *t)
{
    int rank = 0;
    while (rank < t->ranks && t->found[rank])
        ++rank;
    return rank;
}

static void read_hosts(tally *t, lks_look *out, const lks_hosts *hosts, const bool *usable,
                       int per_slot)
{
    int first = 0;
    for (size_t i = 0; i < hosts->count; ++i) {
        const lks_host *host = &hosts->items[i];
        int end = end_of_share(host, usable[i], per_slot, first, t->ranks);
        if (usable[i] && host->answers)
            count_host(t, host, first, end);
        else if (usable[i])
            t->hidden += host->slots * per_slot;
        if (usable[i] && !host->answers && !out->silent)
            out->silent = host;
        if (usable[i] && host->frozen >= 0 && !out->frozen)
            out->frozen = host;
        first = end;
    }
}

static void name_hosts(const tally *t, lks_look *out, const lks_hosts *hosts, const bool *usable,
                       int per_slot)
{
    int rank = 0;
    for (size_t i = 0; i < hosts->count; ++i) {
        const lks_host *host = &hosts->items[i];
        int end = end_of_share(host, usable[i], per_slot, rank, t->ranks);
        while (rank < end && t->found[rank])
            ++rank;
        if (rank < end)
            lks_text_append(&out->on, "%s%s", out->on.length ? ", " : "", host->name);
        rank = end;
    }
}

lks_status lks_look_read(lks_look *out, const lks_hosts *hosts, const bool *usable, int per_slot,
                         int ranks)
{
    tally t = {.ranks = ranks, .in_order = true};
    *out = (lks_look){.rank = -1};
    LKS_TRY(LKS_NEW_ARRAY(&t.found, (size_t)ranks));
    read_hosts(&t, out, hosts, usable, per_slot);
    out->gone = t.count + t.hidden < ranks;
    if (out->gone && !out->silent) {
        out->rank = lowest_missing(&t);
        out->missing = ranks - t.count;
    }
    if (out->rank >= 0 && t.in_order)
        name_hosts(&t, out, hosts, usable, per_slot);
    lks_memory_free(t.found);
    return LKS_OK;
}
