/* RDMA ports: active, at their full rate, on one network with the other hosts', with a GID that routes. */
#include "launcher/doctor/check.h"
#include "launcher/doctor/host.h"
#include "launcher/doctor/interfaces.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char devices[] = "/sys/class/infiniband";

/* --- Looking ----------------------------------------------------------------------- */

static const char *line_of(const lks_doctor *d, const char *path)
{
    char line[256] = "";
    (void)lks_host_read_line(path, line, sizeof line);
    return lks_doctor_say(d, "%s", line);
}

/* IPv4-mapped: ::ffff:a.b.c.d */
static bool is_mapped(const char *gid)
{
    return !strncmp(gid, "0000:0000:0000:0000:0000:ffff:", 30);
}

static bool is_empty(const char *gid)
{
    return !*gid || !strcmp(gid, "0000:0000:0000:0000:0000:0000:0000:0000");
}

/* The network of the GID's address, "" when no interface has that address. */
static const char *subnet_of(const lks_doctor *d, const char *gid)
{
    unsigned high = 0, low = 0;
    const char *subnet = "";
    json_t *interfaces = lks_interfaces_list(), *it;
    size_t i;
    (void)sscanf(gid + 30, "%x:%x", &high, &low);
    const char *address =
        lks_doctor_say(d, "%u.%u.%u.%u", high >> 8, high & 255, low >> 8, low & 255);
    json_array_foreach(interfaces, i,
                       it) if (!strcmp(address, json_string_value(json_object_get(it, "address"))))
        subnet = lks_doctor_say(d, "%s", json_string_value(json_object_get(it, "subnet")));
    json_decref(interfaces);
    return subnet;
}

/* The one that lockstep and NCCL take over RoCE: v2, IPv4-mapped; of InfiniBand the first. */
static void look_at_gids(lks_doctor *d, const char *port, bool roce, json_t *out)
{
    lks_file_list names;
    int first_of_any = -1;
    if (lks_files_list(lks_doctor_say(d, "%s/gids", port), &names) != LKS_OK)
        return;
    for (int i = 0; i < (int)names.count; ++i) {
        const char *gid = line_of(d, lks_doctor_say(d, "%s/gids/%d", port, i));
        const char *type = line_of(d, lks_doctor_say(d, "%s/gid_attrs/types/%d", port, i));
        bool fits = roce ? !strcmp(type, "RoCE v2") && is_mapped(gid) : !is_empty(gid);
        if (is_empty(gid))
            continue;
        first_of_any = first_of_any < 0 ? i : first_of_any;
        if (!fits)
            continue;
        json_object_set_new(out, "gid_index", json_integer(i));
        json_object_set_new(out, "gid", json_string(gid));
        json_object_set_new(out, "subnet", json_string(roce ? subnet_of(d, gid) : ""));
        break;
    }
    json_object_set_new(out, "gids", json_integer(first_of_any < 0 ? 0 : 1));
    json_object_set_new(out, "netdev",
                        json_string(line_of(d, lks_doctor_say(d, "%s/gid_attrs/ndevs/0", port))));
    lks_file_list_release(&names);
}

static void look_at_port(lks_doctor *d, const char *device, const char *number, json_t *ports)
{
    const char *base = lks_doctor_say(d, "%s/%s", devices, device);
    const char *port = lks_doctor_say(d, "%s/ports/%s", base, number);
    const char *layer = line_of(d, lks_doctor_say(d, "%s/link_layer", port));
    const char *state = line_of(d, lks_doctor_say(d, "%s/state", port));
    json_t *out =
        json_pack("{s:s, s:s, s:s, s:s, s:f, s:s, s:s, s:s}", "device", device, "port", number,
                  "state", strchr(state, ' ') ? strchr(state, ' ') + 1 : state, "layer", layer,
                  "rate", atof(line_of(d, lks_doctor_say(d, "%s/rate", port))), "board",
                  line_of(d, lks_doctor_say(d, "%s/board_id", base)), "width",
                  line_of(d, lks_doctor_say(d, "%s/device/current_link_width", base)), "max_width",
                  line_of(d, lks_doctor_say(d, "%s/device/max_link_width", base)));
    look_at_gids(d, port, !strcmp(layer, "Ethernet"), out);
    json_array_append_new(ports, out);
}

static lks_status rdma_look(lks_doctor *d, json_t *facts)
{
    lks_file_list names, numbers;
    json_t *ports = json_array();
    json_object_set_new(facts, "ports", ports);
    static const char *const choices[] = {"NCCL_IB_HCA", "NCCL_IB_GID_INDEX", "NCCL_IB_DISABLE"};
    for (int i = 0; i < 3; ++i)
        if (getenv(choices[i]) && *getenv(choices[i]))
            json_object_set_new(facts, choices[i], lks_json_text(getenv(choices[i])));
    if (!lks_files_is_directory(devices) || lks_files_list(devices, &names) != LKS_OK)
        return LKS_OK;
    for (size_t i = 0; i < names.count; ++i) {
        const char *folder = lks_doctor_say(d, "%s/%s/ports", devices, names.names[i]);
        if (!lks_files_is_directory(folder) || lks_files_list(folder, &numbers) != LKS_OK)
            continue;
        for (size_t p = 0; p < numbers.count; ++p)
            look_at_port(d, names.names[i], numbers.names[p], ports);
        lks_file_list_release(&numbers);
    }
    lks_file_list_release(&names);
    return LKS_OK;
}

/* --- Judging ----------------------------------------------------------------------- */

static const char *text_of(const json_t *port, const char *key)
{
    const char *text = json_string_value(json_object_get(port, key));
    return text ? text : "";
}

static const json_t *ports_of(const lks_doctor *d, int rank)
{
    return json_object_get(lks_doctor_facts(d, "rdma", rank), "ports");
}

static bool is_usable(const json_t *port)
{
    return !strcmp(text_of(port, "state"), "ACTIVE") && json_object_get(port, "gid_index");
}

/* What the job's other ports of the same board have. */
static double best_rate(const lks_doctor *d, const json_t *port)
{
    double best = 0;
    for (int r = 0; r < d->size; ++r) {
        json_t *it;
        size_t i;
        json_array_foreach(ports_of(d, r), i,
                           it) if (!strcmp(text_of(it, "board"), text_of(port, "board"))) best =
            fmax(best, json_number_value(json_object_get(it, "rate")));
    }
    return best;
}

static const char *port_name(const lks_doctor *d, const json_t *port)
{
    return lks_doctor_say(d, "%s:%s", text_of(port, "device"), text_of(port, "port"));
}

/* "mlx5_0:1,mlx5_2:1": what is usable on every host. */
static const char *usable_list(const lks_doctor *d, int rank)
{
    lks_text list = {0};
    json_t *port;
    size_t i;
    json_array_foreach(ports_of(d, rank), i, port) if (is_usable(port) &&
                                                       json_number_value(json_object_get(
                                                           port, "rate")) >= best_rate(d, port))
        lks_text_append(&list, "%s%s", list.length ? "," : "", port_name(d, port));
    const char *copy = lks_doctor_say(d, "%s", list.data ? list.data : "");
    lks_text_release(&list);
    return copy;
}

static const char *choose_line(const lks_doctor *d, int rank)
{
    const char *list = usable_list(d, rank);
    return lks_doctor_export(
        d, lks_doctor_say(d, "NCCL_IB_HCA='=%s' LOCKSTEP_VERBS_DEVICE=%s", list, list));
}

static void judge_down(lks_doctor *d, int rank, const json_t *port, bool others)
{
    const char *list = lks_doctor_text(d, rank, "NCCL_IB_HCA");
    const char *netdev = text_of(port, "netdev");
    if (others && *list && !strstr(list, text_of(port, "device")))
        return; /* it is left out already */
    lks_doctor_row(
        d, NULL, others ? LKS_DOCTOR_WARN : LKS_DOCTOR_FAIL, rank,
        others ? choose_line(d, rank)
               : lks_doctor_on(d, rank,
                               *netdev ? lks_doctor_say(d, "ip link set %s up", netdev)
                                       : lks_doctor_say(d, "ibportstate -C %s -D 0 %s enable",
                                                        text_of(port, "device"),
                                                        text_of(port, "port"))),
        "%s is %s", port_name(d, port), text_of(port, "state"));
}

static void judge_port(lks_doctor *d, int rank, const json_t *port, bool others)
{
    double rate = json_number_value(json_object_get(port, "rate")), best = best_rate(d, port);
    const char *list = lks_doctor_text(d, rank, "NCCL_IB_HCA");
    bool left_out = *list && *list != '^' && !strstr(list, text_of(port, "device"));
    int width = atoi(text_of(port, "width")), most = atoi(text_of(port, "max_width"));
    if (strcmp(text_of(port, "state"), "ACTIVE") != 0) {
        judge_down(d, rank, port, others);
        return;
    }
    if (left_out)
        return;
    if (!json_object_get(port, "gid_index"))
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, rank,
                       lks_doctor_on(d, rank,
                                     lks_doctor_say(d, "ip addr add ADDRESS/24 dev %s",
                                                    text_of(port, "netdev"))),
                       "%s has no RoCE v2 GID with an IPv4 address: %s has none",
                       port_name(d, port), text_of(port, "netdev"));
    if (rate < best)
        lks_doctor_row(
            d, NULL, LKS_DOCTOR_WARN, rank,
            others && *usable_list(d, rank)
                ? choose_line(d, rank)
                : lks_doctor_on(d, rank,
                                lks_doctor_say(d, "mlxlink -d %s -a TG", text_of(port, "device"))),
            "%s runs at %.0f Gbit/s, others of its kind at %.0f", port_name(d, port), rate, best);
    if (width > 0 && width < most)
        lks_doctor_row(d, NULL, LKS_DOCTOR_WARN, rank, NULL,
                       "%s sits in a PCIe slot of %d lanes and could use %d", port_name(d, port),
                       width, most);
}

/* InfiniBand's subnet prefix, or the network of the GIDs' addresses where both are known. */
static bool same_network(const json_t *a, const json_t *b)
{
    const char *one = text_of(a, "subnet"), *two = text_of(b, "subnet");
    if (strcmp(text_of(a, "layer"), text_of(b, "layer")) != 0)
        return false;
    if (strcmp(text_of(a, "layer"), "Ethernet") != 0)
        return !strncmp(text_of(a, "gid"), text_of(b, "gid"), strlen("fe80:0000:0000:0000"));
    return !*one || !*two || !strcmp(one, two);
}

static const json_t *meeting_port(const lks_doctor *d, int a, int b)
{
    json_t *one, *two;
    size_t i, j;
    json_array_foreach(ports_of(d, a), i, one) json_array_foreach(ports_of(d, b), j, two)
    {
        if (is_usable(one) && is_usable(two) && same_network(one, two))
            return one;
    }
    return NULL;
}

static void judge_pairs(lks_doctor *d)
{
    for (int r = 1; r < d->size; ++r)
        if (lks_doctor_is_first(d, r) &&
            lks_comm_node_of(d->comm, r) != lks_comm_node_of(d->comm, 0) && !meeting_port(d, 0, r))
            lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, r,
                           lks_doctor_export(d, "NCCL_IB_DISABLE=1 LOCKSTEP_COLLECTIVES_LINK=mpi"),
                           "no RDMA port here is on one network with a port of %s",
                           lks_doctor_host(d, 0));
}

/* A fixed index picks another GID on every host whose table differs. */
static void judge_index(lks_doctor *d)
{
    for (int r = 0; r < d->size; ++r) {
        const char *index = lks_doctor_text(d, r, "NCCL_IB_GID_INDEX");
        const json_t *port = json_array_get(ports_of(d, r), 0);
        json_int_t wanted = json_integer_value(json_object_get(port, "gid_index"));
        if (*index && is_usable(port) && atoi(index) != (int)wanted)
            lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, r, "unset NCCL_IB_GID_INDEX",
                           "NCCL_IB_GID_INDEX is %s, and the GID to use has index %d here", index,
                           (int)wanted);
    }
}

static void tell_ok(lks_doctor *d)
{
    for (int r = 0; r < d->size; ++r) {
        const json_t *port = json_array_get(ports_of(d, r), 0);
        if (!lks_doctor_is_first(d, r) || !port)
            continue;
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, r,
                       *lks_doctor_text(d, r, "NCCL_IB_HCA") ? NULL : choose_line(d, r),
                       "%s: %s, GID index %d of %s", usable_list(d, r), text_of(port, "layer"),
                       (int)json_integer_value(json_object_get(port, "gid_index")),
                       port_name(d, port));
    }
}

static int hosts_with_ports(const lks_doctor *d)
{
    int count = 0;
    for (int r = 0; r < d->size; ++r)
        count += lks_doctor_is_first(d, r) && json_array_size(ports_of(d, r)) > 0;
    return count;
}

static bool is_switched_off(const lks_doctor *d)
{
    for (int r = 0; r < d->size; ++r)
        if (strcmp(lks_doctor_text(d, r, "NCCL_IB_DISABLE"), "1") != 0)
            return false;
    return true;
}

static void rdma_judge(lks_doctor *d)
{
    int with = hosts_with_ports(d), nodes = lks_comm_node_count(d->comm);
    if (!with) {
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "no RDMA device: messages go over TCP");
        return;
    }
    if (is_switched_off(d)) {
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "switched off by NCCL_IB_DISABLE: messages go over TCP");
        return;
    }
    for (int r = 0; r < d->size; ++r) {
        json_t *port;
        size_t i;
        bool usable = false;
        if (!lks_doctor_is_first(d, r))
            continue;
        if (!json_array_size(ports_of(d, r)))
            lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, r, lks_doctor_on(d, r, "modprobe mlx5_ib"),
                           "no RDMA device, and %d of %d hosts have one", with, nodes);
        json_array_foreach(ports_of(d, r), i, port) usable |= is_usable(port);
        json_array_foreach(ports_of(d, r), i, port) judge_port(d, r, port, usable);
    }
    if (with == nodes)
        judge_pairs(d);
    judge_index(d);
    if (!lks_doctor_has_trouble(d))
        tell_ok(d);
}

const lks_doctor_check lks_doctor_check_rdma = {
    .name = "rdma",
    .about = "RDMA ports, their rates and GIDs, and the line that chooses them",
    .look = rdma_look,
    .judge = rdma_judge,
};
