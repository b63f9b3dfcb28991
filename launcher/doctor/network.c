/* Which networks join all hosts: every pair is tried over every interface, a round of pairs at a time. */
#include "launcher/doctor/network.h"
#include "launcher/doctor/interfaces.h"
#include "launcher/doctor/network_link.h"
#include "runtime/base/clock.h"
#include "runtime/base/json.h"

#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* Hosts are represented by their first ranks, in rank order. */
static int node_rank(const lks_doctor *d, int node)
{
    for (int r = 0; r < d->size; ++r)
        if (lks_comm_node_of(d->comm, r) == node)
            return r;
    return 0;
}

static bool are_joined(const json_t *mine, const json_t *theirs)
{
    return !strcmp(text_of(mine, "subnet"), text_of(theirs, "subnet")) ||
           !strcmp(text_of(mine, "name"), text_of(theirs, "name"));
}

static json_t *measure_pair(const json_t *mine, const json_t *theirs, const json_t *peer,
                            double seconds)
{
    lks_network_try it = {
        .from = text_of(mine, "address"),
        .to = text_of(theirs, "address"),
        .port = (int)json_integer_value(json_object_get(peer, "port")),
        .nonce = strtoull(text_of(peer, "nonce"), NULL, 16),
        .seconds = seconds,
    };
    lks_network_link link = {.problem = "no time was left to try"};
    if (seconds > 0)
        link = lks_network_measure(&it);
    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s?, s:f, s:f}", "interface",
                     text_of(mine, "name"), "subnet", text_of(mine, "subnet"), "from", it.from,
                     "to", it.to, "peer_interface", text_of(theirs, "name"), "problem",
                     link.problem, "latency_us", link.latency_us, "rate", link.bytes_per_second);
}

static void visit_peer(lks_doctor *d, const json_t *own, const json_t *peer, int rank,
                       json_t *links)
{
    uint64_t start = lks_clock_ns();
    const json_t *mine = json_object_get(own, "interfaces"),
                 *his = json_object_get(peer, "interfaces");
    json_t *here, *there;
    size_t i, j;
    json_array_foreach(mine, i, here) json_array_foreach(his, j, there)
    {
        double left = 0.8 * d->options->limit_seconds - lks_clock_seconds_since(start);
        if (!are_joined(here, there))
            continue;
        json_t *link = measure_pair(here, there, peer, left > 1 ? 1 : left);
        json_object_set_new(link, "rank", json_integer(rank));
        json_array_append_new(links, link);
    }
}

static lks_status serve(json_t *facts)
{
    uint64_t nonce = 0;
    char text[24];
    int port = 0;
    if (getrandom(&nonce, sizeof nonce, 0) != (ssize_t)sizeof nonce)
        nonce = lks_clock_ns();
    LKS_TRY(lks_network_serve(nonce, &port));
    snprintf(text, sizeof text, "%016llx", (unsigned long long)nonce);
    json_object_set_new(facts, "nonce", json_string(text));
    json_object_set_new(facts, "port", json_integer(port));
    return LKS_OK;
}

static lks_status network_look(lks_doctor *d, json_t *facts)
{
    int nodes = lks_comm_node_count(d->comm), node = lks_comm_node(d->comm);
    bool first = lks_doctor_is_first(d, d->rank);
    json_t *links = json_array(), *all = NULL;
    if (first)
        json_object_set_new(facts, "interfaces", lks_interfaces_list());
    json_object_set_new(facts, "links", links);
    const char *const names[] = {"OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_btl_tcp_if_exclude",
                                 "NCCL_SOCKET_IFNAME"};
    for (int i = 0; i < 3; ++i)
        if (getenv(names[i]) && *getenv(names[i]))
            json_object_set_new(facts, names[i], lks_json_text(getenv(names[i])));
    if (nodes == 1)
        return LKS_OK;
    if (first)
        LKS_TRY(serve(facts));
    LKS_TRY(lks_doctor_exchange(d, json_deep_copy(facts), &all));
    for (int k = 1; k < nodes; ++k) {
        json_t *met = NULL;
        int peer = node_rank(d, (node + k) % nodes);
        const json_t *peer_facts = json_array_get(all, (size_t)peer);
        if (first && json_is_object(peer_facts))
            visit_peer(d, facts, peer_facts, peer, links);
        LKS_TRY(lks_doctor_exchange(d, json_object(), &met));
        json_decref(met);
    }
    json_decref(all);
    return LKS_OK;
}

const lks_doctor_check lks_doctor_check_network = {
    .name = "network",
    .about = "which interfaces join all hosts, how fast, and the line that chooses one",
    .look = network_look,
    .judge = lks_network_judge,
};
