#include "collectives/verbs/device.h"
#include "collectives/verbs/gid.h"
#include "runtime/base/memory.h"

#include <arpa/inet.h>
#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The ports of this host that can be used, and why others cannot. */
typedef struct port_search {
    const lks_verbs_ops *ops;
    const lks_verbs_wish *wish;
    lks_verbs_port *ports;
    size_t count, capacity;
    lks_text reasons;
} port_search;

int lks_verbs_own_numa_node(void)
{
    unsigned cpu = 0, node = 0;
    return getcpu(&cpu, &node) == 0 ? (int)node : -1;
}

static int device_numa_node(const struct ibv_device *device)
{
    char path[IBV_SYSFS_PATH_MAX + 32];
    int node = -1;
    snprintf(path, sizeof path, "%s/device/numa_node", device->ibdev_path);
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    if (fscanf(file, "%d", &node) != 1)
        node = -1;
    fclose(file);
    return node;
}

/* Whether a part of "mlx5_0,mlx5_1:2" means this one; port 0: any port of the device. */
static bool is_named(const char *names, const char *device, int port)
{
    size_t length = strlen(device);
    for (const char *at = names; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        while (*at == ' ')
            ++at;
        if (strncmp(at, device, length) != 0)
            continue;
        char end = at[length];
        int number = 0;
        if (end == '\0' || end == ',' || end == ' ')
            return true;
        if (end == ':' &&
            (port == 0 || (sscanf(at + length + 1, "%d", &number) == 1 && number == port)))
            return true;
    }
    return false;
}

static bool is_wanted(const port_search *search, const char *device, int port)
{
    const char *names = search->wish->options->device;
    return *names == '\0' || is_named(names, device, port);
}

/* IBTA 1.5, 14.2.5.6 PortInfo: LinkSpeedActive and LinkWidthActive, as the port attributes have them. */
static uint32_t port_megabits(const struct ibv_port_attr *port)
{
    static const struct {
        uint8_t code;
        uint32_t value;
    } speeds[] = {{1, 2500},   {2, 5000},   {4, 10000},  {8, 10000},
                  {16, 14062}, {32, 25781}, {64, 53125}, {128, 106250}},
      widths[] = {{1, 1}, {2, 4}, {4, 8}, {8, 12}, {16, 2}};
    uint32_t speed = 0, width = 0;
    for (size_t i = 0; i < sizeof speeds / sizeof speeds[0]; ++i)
        speed = speeds[i].code == port->active_speed ? speeds[i].value : speed;
    for (size_t i = 0; i < sizeof widths / sizeof widths[0]; ++i)
        width = widths[i].code == port->active_width ? widths[i].value : width;
    return speed * width;
}

static const char *port_state(enum ibv_port_state state)
{
    static const char *const names[] = {"in no state", "down",   "initializing",
                                        "armed",       "active", "active but deferring"};
    return (size_t)state < sizeof names / sizeof names[0] ? names[state] : "in an unknown state";
}

/* Appends why not to `reason` and returns false, or fills `out`. */
static bool examine_port(const port_search *search, struct ibv_context *context, int number,
                         lks_verbs_port *out, lks_text *reason)
{
    struct ibv_port_attr port = {.state = IBV_PORT_NOP};
    int code = search->ops->query_port(context, (uint8_t)number, &port);
    if (code != 0) {
        lks_text_append(reason, "cannot be queried (%s)", strerror(code));
        return false;
    }
    if (port.state != IBV_PORT_ACTIVE) {
        lks_text_append(reason, "is %s", port_state(port.state));
        return false;
    }
    *out = (lks_verbs_port){.number = (uint8_t)number,
                            .ethernet = port.link_layer == IBV_LINK_LAYER_ETHERNET,
                            .lid = port.lid,
                            .mtu = port.active_mtu,
                            .megabits = port_megabits(&port),
                            .largest_message = port.max_msg_sz};
    if (!out->ethernet && port.lid == 0) {
        lks_text_append(reason, "has no LID: the fabric's subnet manager has not seen it");
        return false;
    }
    return lks_verbs_choose_gid(search->ops, context, search->wish->options->gid, out, reason);
}

static lks_status add_port(port_search *search, struct ibv_device *device,
                           struct ibv_context *context, int number)
{
    lks_verbs_port port;
    lks_text reason = {0};
    if (!examine_port(search, context, number, &port, &reason)) {
        lks_text_append(&search->reasons, "%s%s port %d %s", search->reasons.length ? ", " : "",
                        device->name, number, reason.data ? reason.data : "");
        lks_text_release(&reason);
        return LKS_OK;
    }
    snprintf(port.device, sizeof port.device, "%s", device->name);
    port.numa_node = device_numa_node(device);
    LKS_TRY(LKS_GROW(&search->ports, &search->capacity, search->count + 1));
    search->ports[search->count++] = port;
    return LKS_OK;
}

static lks_status add_ports(port_search *search, struct ibv_device *device)
{
    struct ibv_context *context = search->ops->open_device(device);
    struct ibv_device_attr attributes = {.phys_port_cnt = 0};
    lks_status status = LKS_OK;
    if (!context) {
        lks_text_append(&search->reasons, "%s%s cannot be opened (%s)",
                        search->reasons.length ? ", " : "", device->name, strerror(errno));
        return LKS_OK;
    }
    int code = search->ops->query_device(context, &attributes);
    if (code != 0)
        lks_text_append(&search->reasons, "%s%s cannot be queried (%s)",
                        search->reasons.length ? ", " : "", device->name, strerror(code));
    for (int port = 1; port <= attributes.phys_port_cnt && status == LKS_OK; ++port)
        if (is_wanted(search, device->name, port))
            status = add_port(search, device, context, port);
    (void)search->ops->close_device(context);
    return status;
}

static lks_status add_devices(port_search *search, struct ibv_device **devices, int count)
{
    for (int i = 0; i < count; ++i) {
        if (is_wanted(search, devices[i]->name, 0))
            LKS_TRY(add_ports(search, devices[i]));
        else
            lks_text_append(&search->reasons, "%s%s is not in verbs.device",
                            search->reasons.length ? ", " : "", devices[i]->name);
    }
    return LKS_OK;
}

/* 2: the same node; 1: nobody knows; 0: another. */
static int nearness(const port_search *search, const lks_verbs_port *port)
{
    if (port->numa_node < 0 || search->wish->numa_node < 0)
        return 1;
    return port->numa_node == search->wish->numa_node ? 2 : 0;
}

/* Above 0: a is better. */
static int compare_ports(const port_search *search, const lks_verbs_port *a,
                         const lks_verbs_port *b)
{
    int a_direct = !a->ethernet || a->ipv4, b_direct = !b->ethernet || b->ipv4;
    if (a_direct != b_direct)
        return a_direct - b_direct;
    if (a->megabits != b->megabits)
        return a->megabits > b->megabits ? 1 : -1;
    return nearness(search, a) - nearness(search, b);
}

static const lks_verbs_port *best_port(const port_search *search)
{
    const lks_verbs_port *best = &search->ports[0];
    int equals = 0, turn = 0;
    for (size_t i = 1; i < search->count; ++i)
        if (compare_ports(search, &search->ports[i], best) > 0)
            best = &search->ports[i];
    for (size_t i = 0; i < search->count; ++i)
        equals += compare_ports(search, &search->ports[i], best) == 0;
    turn = search->wish->local_rank % equals;
    for (size_t i = 0; i < search->count; ++i)
        if (compare_ports(search, &search->ports[i], best) == 0 && turn-- == 0)
            return &search->ports[i];
    return best;
}

static lks_status no_port(const port_search *search)
{
    char host[HOST_NAME_MAX + 1] = "this host";
    (void)gethostname(host, sizeof host - 1);
    return LKS_FAIL(LKS_ERR_USAGE,
                    "link verbs finds no RDMA port to use on %s: %s; mend that, or set "
                    "collectives.link=mpi",
                    host, search->reasons.data ? search->reasons.data : "there is no device");
}

static lks_status open_chosen(const lks_verbs_ops *ops, struct ibv_device **devices, int count,
                              const lks_verbs_port *port, struct ibv_context **out)
{
    for (int i = 0; i < count; ++i)
        if (strcmp(devices[i]->name, port->device) == 0 && (*out = ops->open_device(devices[i])))
            return LKS_OK;
    return LKS_FAIL(LKS_ERR_IO, "RDMA device %s cannot be opened any more: %s", port->device,
                    strerror(errno));
}

lks_status lks_verbs_choose(const lks_verbs_ops *ops, const lks_verbs_wish *wish,
                            lks_verbs_port *out, struct ibv_context **context)
{
    port_search search = {.ops = ops, .wish = wish};
    int count = 0;
    struct ibv_device **devices = ops->get_device_list(&count);
    lks_status status = devices ? add_devices(&search, devices, count) : LKS_OK;
    if (!devices && errno != ENOSYS)
        lks_text_append(&search.reasons, "listing devices: %s", strerror(errno));
    if (status == LKS_OK && search.count == 0)
        status = no_port(&search);
    if (status == LKS_OK)
        *out = *best_port(&search);
    if (status == LKS_OK && context)
        status = open_chosen(ops, devices, count, out, context);
    if (devices)
        ops->free_device_list(devices);
    lks_memory_free(search.ports);
    lks_text_release(&search.reasons);
    return status;
}

const char *lks_verbs_port_text(const lks_verbs_port *port, char *out, size_t size)
{
    char address[INET6_ADDRSTRLEN] = "?";
    int packet = 128 << port->mtu;
    (void)inet_ntop(AF_INET6, port->gid.raw, address, sizeof address);
    if (port->ethernet)
        snprintf(out, size, "%s port %d, RoCE v2 %s (GID %d), packets of %d bytes, %u Mbit/s",
                 port->device, port->number, address, port->gid_index, packet, port->megabits);
    else
        snprintf(out, size, "%s port %d, InfiniBand LID %d, packets of %d bytes, %u Mbit/s",
                 port->device, port->number, port->lid, packet, port->megabits);
    return out;
}
