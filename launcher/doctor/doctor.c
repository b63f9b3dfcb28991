/* Runs the checks: a look in a child with a time limit on each rank, then the judge on rank 0. */
#include "launcher/doctor/channel.h"
#include "launcher/doctor/check.h"
#include "runtime/base/clock.h"
#include "runtime/base/json.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

typedef struct look {
    pid_t pid;   /* 0: over */
    int channel; /* -1: none */
    lks_text text;
    char kind; /* of the last frame */
} look;

/* --- The child --------------------------------------------------------------------- */

static lks_status say_json(int channel, char kind, const json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT);
    bool said = text && lks_channel_write(channel, kind, text, strlen(text));
    free(text);
    return said ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "the rank does not listen to its check");
}

lks_status lks_doctor_exchange(lks_doctor *d, json_t *mine, json_t **all)
{
    lks_text text = {0};
    char kind;
    lks_status status = say_json(d->channel, LKS_CHANNEL_EXCHANGE, mine);
    json_decref(mine);
    if (status == LKS_OK && lks_channel_read(d->channel, 0, &kind, &text) == 1)
        *all = json_loadb(text.data, text.length, 0, NULL);
    lks_text_release(&text);
    LKS_TRY(status);
    return *all ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "the rank does not answer its check");
}

static void child(lks_doctor *d, int channel, pid_t parent)
{
    json_t *facts = json_object();
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    signal(SIGUSR2, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    setpgid(0, 0);
    if (getppid() != parent)
        _exit(LKS_ERR_INTERNAL);
    d->channel = channel;
    if (d->check->look(d, facts) == LKS_OK) {
        _exit(say_json(channel, LKS_CHANNEL_DONE, facts));
    }
    const char *message = lks_status_message();
    lks_channel_write(channel, LKS_CHANNEL_FAILED, message, strlen(message));
    _exit(LKS_OK);
}

/* --- The rank ---------------------------------------------------------------------- */

static lks_status look_start(lks_doctor *d, look *l)
{
    int ends[2];
    pid_t parent = getpid();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends))
        return LKS_FAIL(LKS_ERR_INTERNAL, "socketpair: %s", strerror(errno));
    l->pid = fork();
    if (l->pid == 0) {
        close(ends[0]);
        child(d, ends[1], parent);
    }
    close(ends[1]);
    l->channel = ends[0];
    return l->pid > 0 ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "fork: %s", strerror(errno));
}

static void look_end(look *l)
{
    if (l->pid > 0) {
        kill(-l->pid, SIGKILL);
        kill(l->pid, SIGKILL);
        /* One that hangs in the kernel cannot be killed: it is left behind. */
        for (int tries = 0; tries < 100 && waitpid(l->pid, NULL, WNOHANG) == 0; ++tries)
            usleep(10000);
    }
    if (l->channel >= 0)
        close(l->channel);
    l->channel = -1;
    l->pid = 0;
}

/* The next frame of this rank's look, as {"kind": ..., ...}. */
static json_t *look_next(lks_doctor *d, look *l)
{
    if (!l->pid)
        return json_pack("{s:s}", "kind", "over");
    uint64_t deadline = lks_clock_ns() + (uint64_t)(d->options->limit_seconds * 1e9);
    int got = lks_channel_read(l->channel, deadline, &l->kind, &l->text);
    json_t *said = NULL;
    if (got == 1 && l->kind == LKS_CHANNEL_EXCHANGE)
        return json_pack("{s:s, s:o}", "kind", "exchange", "facts",
                         json_loadb(l->text.data, l->text.length, 0, NULL));
    if (got == 1 && l->kind == LKS_CHANNEL_DONE)
        said = json_pack("{s:s, s:o}", "kind", "done", "facts",
                         json_loadb(l->text.data, l->text.length, 0, NULL));
    else if (got == 1)
        said = json_pack("{s:s, s:o}", "kind", "failed", "message", lks_json_text(l->text.data));
    else
        said = json_pack("{s:s}", "kind", got == 0 ? "hung" : "died");
    look_end(l);
    return said ? said : json_pack("{s:s}", "kind", "died");
}

/* (collective) `mine` of every rank, in rank order; takes `mine`. */
static lks_status gather(lks_doctor *d, json_t *mine, json_t **all)
{
    size_t *counts = NULL, *ones = NULL, total = 0;
    char *data = NULL, *text = mine ? json_dumps(mine, JSON_COMPACT) : NULL;
    size_t bytes = text ? strlen(text) : 0;
    lks_status status = LKS_NEW_ARRAY(&counts, (size_t)d->size);
    json_decref(mine);
    *all = json_array();
    if (status == LKS_OK)
        status = LKS_NEW_ARRAY(&ones, (size_t)d->size);
    for (int r = 0; status == LKS_OK && r < d->size; ++r)
        ones[r] = sizeof bytes;
    if (status == LKS_OK)
        status = lks_comm_all_gather(d->comm, &bytes, counts, ones);
    for (int r = 0; status == LKS_OK && r < d->size; ++r)
        total += counts[r];
    if (status == LKS_OK)
        status = lks_memory_allocate((void **)&data, total + 1, 1);
    if (status == LKS_OK)
        status = lks_comm_all_gather(d->comm, text ? text : "", data, counts);
    size_t at = 0;
    for (int r = 0; status == LKS_OK && r < d->size; at += counts[r], ++r) {
        json_t *one = json_loadb(data + at, counts[r], 0, NULL);
        json_array_append_new(*all, one ? one : json_object());
    }
    free(text);
    lks_memory_free(counts);
    lks_memory_free(ones);
    lks_memory_free(data);
    return status;
}

static const char *kind_of(const json_t *said)
{
    const char *kind = json_string_value(json_object_get(said, "kind"));
    return kind ? kind : "died";
}

/* A row for a look that did not end well. */
static void tell_trouble(lks_doctor *d, int rank, const json_t *said)
{
    const char *kind = kind_of(said);
    if (!strcmp(kind, "failed"))
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, rank, NULL, "%s",
                       json_string_value(json_object_get(said, "message")));
    if (!strcmp(kind, "hung"))
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, rank,
                       lks_doctor_say(d, "lockstep doctor --only %s --limit %g", d->check->name,
                                      10 * d->options->limit_seconds),
                       "the check did not end within %g s (%s)", d->options->limit_seconds,
                       d->check->about);
    if (!strcmp(kind, "died"))
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, rank, NULL, "the check's process died (%s)",
                       d->check->about);
}

/* What is to be kept of a round; *exchanges: somebody waits for it. */
static void take_round(lks_doctor *d, const json_t *round, json_t *facts, bool *exchanges)
{
    for (int r = 0; r < d->size; ++r) {
        const json_t *said = json_array_get(round, (size_t)r);
        json_t *found = json_object_get(said, "facts");
        *exchanges |= !strcmp(kind_of(said), "exchange");
        if (!strcmp(kind_of(said), "done") && found)
            json_array_set(facts, (size_t)r, found);
        if (d->rank == 0)
            tell_trouble(d, r, said);
    }
}

static void answer_exchange(look *l, const json_t *round)
{
    json_t *all = json_array(), *said;
    size_t i;
    json_array_foreach(round, i, said)
    {
        json_t *facts = json_object_get(said, "facts");
        bool exchanged = !strcmp(kind_of(said), "exchange") && facts;
        json_array_append(all, exchanged ? facts : json_null());
    }
    if (l->pid && say_json(l->channel, LKS_CHANNEL_EXCHANGE, all) != LKS_OK)
        look_end(l);
    json_decref(all);
}

static lks_status run_look(lks_doctor *d, json_t *facts)
{
    look l = {.channel = -1};
    lks_status status = lks_comm_agree(d->comm, look_start(d, &l));
    for (bool exchanges = true; status == LKS_OK && exchanges;) {
        json_t *round = NULL;
        exchanges = false;
        status = gather(d, look_next(d, &l), &round);
        if (status == LKS_OK) {
            take_round(d, round, facts, &exchanges);
            if (exchanges)
                answer_exchange(&l, round);
        }
        json_decref(round);
    }
    look_end(&l);
    lks_text_release(&l.text);
    return status;
}

static lks_status run_meet(lks_doctor *d, json_t *facts)
{
    json_t *mine = json_object(), *all = NULL;
    if (d->check->meet(d, mine) != LKS_OK)
        json_object_set_new(mine, "failed", lks_json_text(lks_status_message()));
    LKS_TRY(gather(d, mine, &all));
    for (int r = 0; r < d->size; ++r) {
        const json_t *found = json_array_get(all, (size_t)r);
        const char *failed = json_string_value(json_object_get(found, "failed"));
        json_object_update(json_array_get(facts, (size_t)r), json_array_get(all, (size_t)r));
        if (failed && d->rank == 0)
            lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, r, NULL, "%s", failed);
    }
    json_decref(all);
    return LKS_OK;
}

static lks_status run_check(lks_doctor *d)
{
    json_t *facts = json_array();
    for (int r = 0; r < d->size; ++r)
        json_array_append_new(facts, json_object());
    json_object_set_new(d->facts, d->check->name, facts);
    if (d->check->look)
        LKS_TRY(run_look(d, facts));
    if (d->check->meet)
        LKS_TRY(run_meet(d, facts));
    if (d->rank == 0)
        d->check->judge(d);
    return LKS_OK;
}

static bool is_wanted(const lks_doctor_options *options, const lks_doctor_check *check)
{
    bool wanted = !options->only.count;
    for (size_t i = 0; i < options->only.count; ++i)
        wanted |= !strcmp(options->only.items[i], check->name);
    /* Others ask what the configuration plans. */
    return wanted || (!strcmp(check->name, "plan") && options->config);
}

static lks_status check_names(const lks_doctor_options *options)
{
    const char *names[64];
    size_t count = 0;
    for (; lks_doctor_checks[count] && count < sizeof names / sizeof names[0]; ++count)
        names[count] = lks_doctor_checks[count]->name;
    for (size_t i = 0; i < options->only.count; ++i) {
        bool known = false;
        for (size_t n = 0; n < count; ++n)
            known |= !strcmp(options->only.items[i], names[n]);
        const char *near = lks_text_nearest(options->only.items[i], names, count);
        if (!known)
            return LKS_FAIL(
                LKS_ERR_USAGE,
                "--only %s: there is no such check%s%s; lockstep doctor --help lists them",
                options->only.items[i], near ? ", did you mean " : "", near ? near : "");
    }
    return LKS_OK;
}

static void describe(const lks_doctor *d, json_t **out)
{
    json_t *hosts = json_array();
    for (int r = 0; r < d->size; ++r)
        if (lks_doctor_is_first(d, r))
            json_array_append_new(hosts, lks_json_text(lks_doctor_host(d, r)));
    *out = json_pack("{s:s, s:s, s:i, s:o, s:O, s:O}", "version", LKS_VERSION, "comm",
                     lks_comm_about(d->comm), "ranks", d->size, "hosts", hosts, "rows", d->rows,
                     "facts", d->facts);
}

lks_status lks_doctor_run(lks_comm *comm, const lks_doctor_options *options, json_t **out)
{
    lks_doctor d = {.comm = comm,
                    .rank = lks_comm_rank(comm),
                    .size = lks_comm_size(comm),
                    .options = options,
                    .facts = json_object(),
                    .rows = json_array(),
                    .channel = -1};
    *out = NULL;
    lks_status status = lks_arena_create(&d.arena);
    if (status == LKS_OK)
        status = check_names(options);
    status = lks_comm_agree(comm, status);
    for (int i = 0; status == LKS_OK && lks_doctor_checks[i]; ++i) {
        d.check = lks_doctor_checks[i];
        if (is_wanted(options, d.check))
            status = run_check(&d);
    }
    if (status == LKS_OK && d.rank == 0)
        describe(&d, out);
    json_decref(d.rows);
    json_decref(d.facts);
    lks_arena_destroy(d.arena);
    return status;
}
