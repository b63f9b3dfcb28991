/* From the links that were tried to the network to use. */
#include "launcher/doctor/interfaces.h"
#include "launcher/doctor/network.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Links that belong together: those of a subnet; an interface's name where the hosts' subnets differ. */
typedef struct network {
    const char *key; /* "10.0.0.0/24" or "eth0" */
    bool is_subnet;
    bool whole;            /* all pairs connect, both ways */
    const json_t *problem; /* the first link that does not, NULL: a host is not on it */
    int problem_rank;
    const char *absent; /* a host without an address on it */
    double slowest, latency_us;
    int slow_from, slow_to;
    const char *interface; /* of its hosts; "" when they differ */
} network;

typedef struct networks {
    network *items;
    size_t count, capacity;
} networks;

static const char *text_of(const json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

static const json_t *list_of(const lks_doctor *d, int rank, const char *key)
{
    return json_object_get(lks_doctor_facts(d, "network", rank), key);
}

/* --- Gathering --------------------------------------------------------------------- */

static void network_add(networks *all, const char *key, bool is_subnet)
{
    for (size_t i = 0; i < all->count; ++i)
        if (!strcmp(all->items[i].key, key))
            return;
    if (LKS_GROW(&all->items, &all->capacity, all->count + 1) != LKS_OK)
        return;
    all->items[all->count++] = (network){.key = key, .is_subnet = is_subnet, .slowest = INFINITY};
}

static bool belongs(const network *n, const json_t *interface)
{
    return !strcmp(text_of(interface, n->is_subnet ? "subnet" : "name"), n->key);
}

static const json_t *interface_on(const lks_doctor *d, const network *n, int rank)
{
    json_t *it;
    size_t i;
    json_array_foreach(list_of(d, rank, "interfaces"), i, it) if (belongs(n, it)) return it;
    return NULL;
}

static bool covers(const lks_doctor *d, const network *n)
{
    for (int r = 0; r < d->size; ++r)
        if (lks_doctor_is_first(d, r) && !interface_on(d, n, r))
            return false;
    return true;
}

/* Subnets; names too where a name is on all hosts and no subnet of it is. */
static void networks_find(const lks_doctor *d, networks *all)
{
    for (int r = 0; r < d->size; ++r) {
        json_t *it;
        size_t i;
        json_array_foreach(list_of(d, r, "interfaces"), i, it)
        {
            network by_name = {.key = text_of(it, "name")};
            network by_subnet = {.key = text_of(it, "subnet"), .is_subnet = true};
            if (covers(d, &by_name) && !covers(d, &by_subnet))
                network_add(all, by_name.key, false);
            else
                network_add(all, by_subnet.key, true);
        }
    }
}

static bool link_belongs(const network *n, const json_t *link)
{
    if (n->is_subnet)
        return !strcmp(text_of(link, "subnet"), n->key);
    return !strcmp(text_of(link, "interface"), n->key) &&
           !strcmp(text_of(link, "peer_interface"), n->key);
}

static void take_link(network *n, const json_t *link, int rank)
{
    double rate = json_number_value(json_object_get(link, "rate"));
    double latency = json_number_value(json_object_get(link, "latency_us"));
    if (!json_is_null(json_object_get(link, "problem"))) {
        /* Silence says less than an error. */
        if (n->whole || !strcmp(text_of(n->problem, "problem"), "no answer")) {
            n->problem = link;
            n->problem_rank = rank;
        }
        n->whole = false;
        return;
    }
    n->latency_us = latency > n->latency_us ? latency : n->latency_us;
    if (rate < n->slowest) {
        n->slowest = rate;
        n->slow_from = rank;
        n->slow_to = (int)json_integer_value(json_object_get(link, "rank"));
    }
}

static void network_fill(const lks_doctor *d, network *n)
{
    int nodes = lks_comm_node_count(d->comm), links = 0;
    n->whole = true;
    n->interface = NULL;
    for (int r = 0; r < d->size; ++r) {
        json_t *link;
        size_t i;
        const json_t *own = interface_on(d, n, r);
        const char *name = text_of(own, "name");
        if (!lks_doctor_is_first(d, r))
            continue;
        if (!own)
            n->absent = n->absent ? n->absent : lks_doctor_host(d, r);
        else if (!n->interface)
            n->interface = name;
        else if (strcmp(n->interface, name) != 0)
            n->interface = "";
        json_array_foreach(list_of(d, r, "links"), i, link) if (link_belongs(n, link))
        {
            ++links;
            take_link(n, link, r);
        }
    }
    n->interface = n->interface ? n->interface : "";
    n->whole = n->whole && !n->absent && links >= nodes * (nodes - 1);
}

static const network *best_of(const networks *all)
{
    const network *best = NULL;
    for (size_t i = 0; i < all->count; ++i)
        if (all->items[i].whole && (!best || all->items[i].slowest > 1.1 * best->slowest))
            best = &all->items[i];
    return best;
}

/* --- What is chosen ---------------------------------------------------------------- */

static bool list_has(const char *list, const char *name, const char *subnet)
{
    for (const char *at = list; *at;) {
        size_t length = strcspn(at, ",");
        if ((strlen(name) == length && !strncmp(at, name, length)) ||
            (strlen(subnet) == length && !strncmp(at, subnet, length)))
            return true;
        at += length;
        at += *at == ',';
    }
    return false;
}

static bool is_used(const lks_doctor *d, const network *n)
{
    const char *include = lks_doctor_text(d, 0, "OMPI_MCA_btl_tcp_if_include");
    const char *exclude = lks_doctor_text(d, 0, "OMPI_MCA_btl_tcp_if_exclude");
    for (int r = 0; r < d->size; ++r) {
        const json_t *own = interface_on(d, n, r);
        if (!own)
            continue;
        if (*include ? list_has(include, text_of(own, "name"), text_of(own, "subnet"))
                     : !list_has(exclude, text_of(own, "name"), text_of(own, "subnet")))
            return true;
    }
    return false;
}

static void add_name(lks_text *names, const char *name)
{
    if (!list_has(names->data ? names->data : "", name, ""))
        lks_text_append(names, "%s%s", names->length ? "," : "", name);
}

static const char *choose_line(const lks_doctor *d, const network *n)
{
    lks_text names = {0};
    for (int r = 0; r < d->size; ++r)
        if (interface_on(d, n, r))
            add_name(&names, text_of(interface_on(d, n, r), "name"));
    const char *include = *n->interface ? n->interface : n->is_subnet ? n->key : names.data;
    const char *line = lks_doctor_export(
        d, lks_doctor_say(d, "NCCL_SOCKET_IFNAME='=%s' OMPI_MCA_btl_tcp_if_include=%s",
                          names.data ? names.data : "", include ? include : n->key));
    lks_text_release(&names);
    return line;
}

static bool is_chosen(const lks_doctor *d, const network *n)
{
    return *lks_doctor_text(d, 0, "OMPI_MCA_btl_tcp_if_include") && is_used(d, n);
}

/* --- Rows -------------------------------------------------------------------------- */

static const char *describe(const lks_doctor *d, const network *n)
{
    if (*n->interface && n->is_subnet)
        return lks_doctor_say(d, "%s (%s)", n->interface, n->key);
    return n->key;
}

static const char *trouble_of(const lks_doctor *d, const network *n)
{
    if (n->problem)
        return lks_doctor_say(
            d, "%s to %s: %s", lks_doctor_host(d, n->problem_rank),
            lks_doctor_host(d, (int)json_integer_value(json_object_get(n->problem, "rank"))),
            text_of(n->problem, "problem"));
    if (n->absent)
        return lks_doctor_say(d, "%s is not on it", n->absent);
    return "not all pairs were tried";
}

/* What to do on a host when no network is whole. */
static const char *repair_line(const lks_doctor *d, const network *n)
{
    if (!n->problem)
        return NULL;
    int from = n->problem_rank;
    int to = (int)json_integer_value(json_object_get(n->problem, "rank"));
    if (!strcmp(text_of(n->problem, "problem"), "no route"))
        return lks_doctor_on(d, from,
                             lks_doctor_say(d, "ip route add %s dev %s",
                                            text_of(interface_on(d, n, to), "subnet"),
                                            text_of(n->problem, "interface")));
    return lks_doctor_on(
        d, to, lks_doctor_say(d, "iptables -I INPUT -s %s -j ACCEPT", text_of(n->problem, "from")));
}

static void judge_none_whole(lks_doctor *d, const networks *all)
{
    for (size_t i = 0; i < all->count; ++i)
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, LKS_DOCTOR_ALL, repair_line(d, &all->items[i]),
                       "%s does not join all hosts: %s", describe(d, &all->items[i]),
                       trouble_of(d, &all->items[i]));
    if (!all->count)
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, LKS_DOCTOR_ALL, NULL,
                       "no host has a network interface that is up and has an IPv4 address");
}

static void judge_used(lks_doctor *d, const network *n, const network *best)
{
    bool chosen = is_chosen(d, n);
    if (n == best || !is_used(d, n))
        return;
    /* One that some hosts are not on does no harm: Open MPI sees that. One that leads nowhere hangs it. */
    if (!n->whole && (n->problem || chosen))
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, LKS_DOCTOR_ALL, choose_line(d, best),
                       "Open MPI %s %s, which does not join all hosts: %s",
                       chosen ? "is told to use" : "may use", describe(d, n), trouble_of(d, n));
    else if (n->whole && n->slowest < best->slowest / 4)
        lks_doctor_row(d, NULL, LKS_DOCTOR_WARN, LKS_DOCTOR_ALL, choose_line(d, best),
                       "Open MPI may use %s: %s/s, where %s has %s/s", describe(d, n),
                       lks_doctor_bytes(d, n->slowest), describe(d, best),
                       lks_doctor_bytes(d, best->slowest));
}

/* NCCL takes a name as a prefix unless it starts with '='; '^' turns the choice round. */
static bool nccl_takes(const char *choice, const char *name)
{
    bool none = *choice == '^', found = false;
    choice += none;
    bool exact = *choice == '=';
    choice += exact;
    for (const char *at = choice; *at && !found;) {
        size_t length = strcspn(at, ",");
        found = !strncmp(at, name, length) && (!exact || strlen(name) == length);
        at += length;
        at += *at == ',';
    }
    return found != none;
}

static void judge_nccl(lks_doctor *d, const network *best)
{
    for (int r = 0; r < d->size; ++r) {
        const char *choice = lks_doctor_text(d, r, "NCCL_SOCKET_IFNAME");
        json_t *it;
        size_t i;
        bool takes = false;
        if (!lks_doctor_is_first(d, r) || !*choice)
            continue;
        json_array_foreach(list_of(d, r, "interfaces"), i, it) takes |=
            nccl_takes(choice, text_of(it, "name"));
        if (!takes)
            lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, r, choose_line(d, best),
                           "NCCL_SOCKET_IFNAME is %s, and no interface that is up has such a name",
                           choice);
    }
}

/* Frames that are larger than the other end takes are dropped without a word. */
static void judge_mtu(lks_doctor *d, const network *n)
{
    json_int_t largest = 0;
    for (int r = 0; r < d->size; ++r) {
        json_int_t mtu = json_integer_value(json_object_get(interface_on(d, n, r), "mtu"));
        largest = mtu > largest ? mtu : largest;
    }
    for (int r = 0; r < d->size; ++r) {
        const json_t *own = interface_on(d, n, r);
        json_int_t mtu = json_integer_value(json_object_get(own, "mtu"));
        if (own && mtu > 0 && mtu < largest)
            lks_doctor_row(d, "mtu", LKS_DOCTOR_WARN, r,
                           lks_doctor_on(d, r,
                                         lks_doctor_say(d, "ip link set %s mtu %d",
                                                        text_of(own, "name"), (int)largest)),
                           "%s takes frames of %d bytes, others on %s send %d",
                           text_of(own, "name"), (int)mtu, n->key, (int)largest);
    }
}

static void judge_best(lks_doctor *d, const networks *all, const network *best)
{
    int nodes = lks_comm_node_count(d->comm), pairs = nodes * (nodes - 1) / 2;
    for (size_t i = 0; i < all->count; ++i)
        judge_used(d, &all->items[i], best);
    judge_nccl(d, best);
    if (!lks_doctor_has_trouble(d))
        lks_doctor_row(
            d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL,
            is_chosen(d, best) ? NULL : choose_line(d, best),
            "%s joins all hosts, %d pair%s: %.0f us there and back, %s/s at least (%s to %s)",
            describe(d, best), pairs, pairs == 1 ? "" : "s", best->latency_us,
            lks_doctor_bytes(d, best->slowest), lks_doctor_host(d, best->slow_from),
            lks_doctor_host(d, best->slow_to));
    for (size_t i = 0; i < all->count; ++i)
        if (all->items[i].whole && is_used(d, &all->items[i]))
            judge_mtu(d, &all->items[i]);
    /* For what a step will take. */
    json_t *first = json_array_get(json_object_get(d->facts, "network"), 0);
    json_object_set_new(first, "best_rate", json_real(best->slowest));
}

void lks_network_judge(lks_doctor *d)
{
    networks all = {0};
    if (lks_comm_node_count(d->comm) == 1) {
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "one host: ranks talk through its memory");
        return;
    }
    networks_find(d, &all);
    for (size_t i = 0; i < all.count; ++i)
        network_fill(d, &all.items[i]);
    const network *best = best_of(&all);
    if (best)
        judge_best(d, &all, best);
    else
        judge_none_whole(d, &all);
    lks_memory_free(all.items);
}
