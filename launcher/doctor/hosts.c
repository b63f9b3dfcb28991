/* Whether every host of the list is there, and is who it is called. */
#include "launcher/doctor/check.h"
#include "launcher/launch_probe.h"
#include "runtime/base/clock.h"
#include "runtime/base/json.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* One of a list that somebody wrote; not "this machine". */
static bool is_list(const lks_doctor *d, const lks_hosts *hosts)
{
    return d->options->hosts || getenv("SLURM_JOB_NODELIST") ||
           !strcmp(hosts->source, "/etc/mpi/hostfile");
}

static json_t *host_json(const lks_host *host)
{
    char name[256] = "", version[64] = "";
    if (host->said)
        sscanf(host->said, "%255s %63s", name, version);
    return json_pack("{s:o, s:b, s:i, s:o, s:o}", "name", lks_json_text(host->name), "answers",
                     host->answers, "ended", host->ended, "called", lks_json_text(name), "version",
                     lks_json_text(version));
}

static lks_status program_path(json_t *facts)
{
    char program[PATH_MAX] = "";
    Dl_info library = {0};
    ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
    if (length <= 0)
        return LKS_FAIL(LKS_ERR_IO, "/proc/self/exe: the program's own path cannot be read");
    json_object_set_new(facts, "program", lks_json_text(program));
    /* The compiler knows no other way from a function to the address of it. */
    void *address = (void *)(uintptr_t)&lks_comm_open;
    if (dladdr(address, &library) && library.dli_fname && realpath(library.dli_fname, program))
        json_object_set_new(facts, "library", lks_json_text(program));
    return LKS_OK;
}

/* Asks all of them, in less than the check's time. */
static lks_status probe(lks_doctor *d, lks_hosts *hosts, const char *program)
{
    lks_probe p = {0};
    sigset_t mask;
    sigprocmask(SIG_SETMASK, NULL, &mask);
    LKS_TRY(lks_probe_start(&p, hosts, "name:", program, 0.8 * d->options->limit_seconds, &mask));
    while (!lks_probe_poll(&p))
        usleep(10000);
    return LKS_OK;
}

static lks_status hosts_look(lks_doctor *d, json_t *facts)
{
    lks_hosts hosts;
    if (d->rank != 0)
        return LKS_OK;
    LKS_TRY(lks_hosts_find(&hosts, d->options->hosts));
    LKS_TRY(program_path(facts));
    bool asked = d->size == 1 && is_list(d, &hosts);
    if (asked)
        LKS_TRY(probe(d, &hosts, json_string_value(json_object_get(facts, "program"))));
    json_t *list = json_array();
    for (size_t i = 0; i < hosts.count; ++i)
        json_array_append_new(list, host_json(&hosts.items[i]));
    json_object_set_new(facts, "hosts", list);
    json_object_set_new(facts, "source", lks_json_text(hosts.source));
    json_object_set_new(facts, "listed", json_boolean(is_list(d, &hosts)));
    json_object_set_new(facts, "asked", json_boolean(asked));
    return LKS_OK;
}

static const char *text_of(const json_t *host, const char *key)
{
    return json_string_value(json_object_get(host, key));
}

/* The line that takes a host out. */
static const char *drop_line(const lks_doctor *d, const char *name)
{
    const char *source = lks_doctor_text(d, 0, "source");
    if (strcmp(source, "SLURM") != 0)
        return lks_doctor_say(d, "sed -i -E '/^%s([ :]|$)/d' %s", name, source);
    return lks_doctor_say(d, "scontrol update NodeName=%s State=DRAIN Reason='does not answer'",
                          name);
}

static const char *rename_line(const lks_doctor *d, const char *name, const char *called)
{
    const char *source = lks_doctor_text(d, 0, "source");
    if (!strcmp(source, "SLURM"))
        return lks_doctor_say(d, "ssh %s hostname %s", name, name);
    return lks_doctor_say(d, "sed -i -E 's/^%s([ :]|$)/%s\\1/' %s", name, called, source);
}

static const char *copy_line(const lks_doctor *d, const char *host)
{
    const char *program = lks_doctor_text(d, 0, "program"),
               *library = lks_doctor_text(d, 0, "library");
    const char *end = strstr(library, ".so");
    if (!end || !strcmp(library, program))
        return lks_doctor_say(d, "tar -C / -cf - %s | ssh %s tar -C / -xf -", program + 1, host);
    return lks_doctor_say(d, "(cd / && tar -cf - %s %.*s.so*) | ssh %s tar -C / -xf -", program + 1,
                          (int)(end - library - 1), library + 1, host);
}

static bool same_name(const char *a, const char *b)
{
    size_t length = strcspn(a, ".");
    return strcspn(b, ".") == length && !strncmp(a, b, length);
}

static const char *earlier_namesake(const json_t *hosts, size_t index, const char *called)
{
    for (size_t i = 0; i < index; ++i) {
        const json_t *host = json_array_get(hosts, i);
        if (json_is_true(json_object_get(host, "answers")) &&
            same_name(text_of(host, "called"), called))
            return text_of(host, "name");
    }
    return NULL;
}

static void judge_answer(lks_doctor *d, const json_t *hosts, size_t index)
{
    const json_t *host = json_array_get(hosts, index);
    const char *name = text_of(host, "name"), *called = text_of(host, "called");
    const char *twin = earlier_namesake(hosts, index, called);
    if (twin)
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, LKS_DOCTOR_ALL, drop_line(d, name),
                       "%s and %s are one machine, that calls itself %s", twin, name, called);
    else if (!same_name(name, called) && strcmp(name, "localhost") != 0)
        lks_doctor_row(d, NULL, LKS_DOCTOR_WARN, LKS_DOCTOR_ALL, rename_line(d, name, called),
                       "%s answers under another name: %s", name, called);
    if (strcmp(text_of(host, "version"), LKS_VERSION) != 0)
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, LKS_DOCTOR_ALL, copy_line(d, name),
                       "%s has lockstep %s, this machine %s", name, text_of(host, "version"),
                       LKS_VERSION);
}

static void judge_silence(lks_doctor *d, const json_t *host)
{
    const char *name = text_of(host, "name");
    json_int_t ended = json_integer_value(json_object_get(host, "ended"));
    if (ended < 0)
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, LKS_DOCTOR_ALL, drop_line(d, name),
                       "%s does not answer within %g s", name, 0.8 * d->options->limit_seconds);
    else if (ended == 126 || ended == 127)
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, LKS_DOCTOR_ALL, copy_line(d, name),
                       "%s answers, but %s does not start there", name,
                       lks_doctor_text(d, 0, "program"));
    else
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, LKS_DOCTOR_ALL, drop_line(d, name),
                       "%s does not answer: ssh or srun to it ends with status %d", name,
                       (int)ended);
}

static void judge_asked(lks_doctor *d, const json_t *hosts)
{
    size_t i;
    json_t *host;
    json_array_foreach(hosts, i, host)
    {
        if (json_is_true(json_object_get(host, "answers")))
            judge_answer(d, hosts, i);
        else
            judge_silence(d, host);
    }
    if (!lks_doctor_has_trouble(d))
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "all %zu hosts of %s answer under their names, with lockstep %s",
                       json_array_size(hosts), lks_doctor_text(d, 0, "source"), LKS_VERSION);
}

/* --- Under mpirun or srun: who has ranks -------------------------------------------- */

static bool has_rank(const lks_doctor *d, const char *name)
{
    for (int r = 0; r < d->size; ++r)
        if (same_name(lks_doctor_host(d, r), name))
            return true;
    return false;
}

static const char *listed_without_rank(const lks_doctor *d, const json_t *hosts)
{
    size_t i;
    json_t *host;
    json_array_foreach(hosts, i,
                       host) if (!has_rank(d, text_of(host, "name"))) return text_of(host, "name");
    return NULL;
}

static bool is_listed(const json_t *hosts, const char *name)
{
    bool listed = false;
    size_t i;
    json_t *host;
    json_array_foreach(hosts, i, host) listed |= same_name(text_of(host, "name"), name);
    return listed;
}

static void judge_twins(lks_doctor *d)
{
    for (int r = 0; r < d->size; ++r)
        for (int s = 0; s < r; ++s)
            if (lks_doctor_is_first(d, r) && lks_doctor_is_first(d, s) &&
                !strcmp(lks_doctor_host(d, r), lks_doctor_host(d, s)))
                lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, r,
                               lks_doctor_say(d, "hostname %s-%d", lks_doctor_host(d, r), r),
                               "two nodes, of ranks %d and %d, call themselves %s: Open MPI mixes "
                               "up what they keep under that name",
                               s, r, lks_doctor_host(d, r));
}

static void judge_ranks(lks_doctor *d, const json_t *hosts)
{
    const char *source = lks_doctor_text(d, 0, "source");
    const char *unused = listed_without_rank(d, hosts);
    for (int r = 0; r < d->size; ++r) {
        const char *name = lks_doctor_host(d, r);
        if (!lks_doctor_is_first(d, r) || is_listed(hosts, name))
            continue;
        lks_doctor_row(d, NULL, LKS_DOCTOR_WARN, r, unused ? rename_line(d, unused, name) : NULL,
                       "the host calls itself %s, which %s does not list", name, source);
        unused = NULL;
    }
    if (unused)
        lks_doctor_row(d, NULL, LKS_DOCTOR_WARN, LKS_DOCTOR_ALL, drop_line(d, unused),
                       "%s of %s has no rank", unused, source);
}

static void hosts_judge(lks_doctor *d)
{
    const json_t *hosts = json_object_get(lks_doctor_facts(d, "hosts", 0), "hosts");
    if (!hosts)
        return;
    if (lks_doctor_number(d, 0, "asked") == 1) {
        judge_asked(d, hosts);
        return;
    }
    judge_twins(d);
    if (lks_doctor_number(d, 0, "listed") == 1)
        judge_ranks(d, hosts);
    if (!lks_doctor_has_trouble(d))
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL, "%d host%s with ranks%s%s",
                       lks_comm_node_count(d->comm), lks_comm_node_count(d->comm) == 1 ? "" : "s",
                       lks_doctor_number(d, 0, "listed") == 1 ? ", all of " : "",
                       lks_doctor_number(d, 0, "listed") == 1 ? lks_doctor_text(d, 0, "source")
                                                              : "");
}

const lks_doctor_check lks_doctor_check_hosts = {
    .name = "hosts",
    .about = "hosts that do not answer, or answer under another name",
    .look = hosts_look,
    .judge = hosts_judge,
};
