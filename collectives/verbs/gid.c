#include "collectives/verbs/gid.h"
#include "runtime/base/memory.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>

typedef struct gid_table {
    struct ibv_gid_entry *entries;
    size_t count;
} gid_table;

static const struct in6_addr *gid_address(const union ibv_gid *gid)
{
    return (const struct in6_addr *)gid->raw;
}

static bool gid_is_ipv4(const union ibv_gid *gid)
{
    return IN6_IS_ADDR_V4MAPPED(gid_address(gid));
}

static bool gid_is_link_local(const union ibv_gid *gid)
{
    if (gid_is_ipv4(gid))
        return gid->raw[12] == 169 && gid->raw[13] == 254;
    return IN6_IS_ADDR_LINKLOCAL(gid_address(gid));
}

/* 2: IPv4 over RoCE v2; 1: IPv6; 0: not to be taken without being asked for. */
static int gid_worth(const struct ibv_gid_entry *entry, bool ethernet)
{
    if (!ethernet)
        return entry->gid_index == 0;
    if (entry->gid_type != IBV_GID_TYPE_ROCE_V2 || gid_is_link_local(&entry->gid) ||
        IN6_IS_ADDR_UNSPECIFIED(gid_address(&entry->gid)))
        return 0;
    return gid_is_ipv4(&entry->gid) ? 2 : 1;
}

static const struct ibv_gid_entry *gid_find(const gid_table *table, int64_t wanted, bool ethernet)
{
    const struct ibv_gid_entry *best = NULL;
    int best_worth = 0;
    for (size_t i = 0; i < table->count; ++i) {
        const struct ibv_gid_entry *entry = &table->entries[i];
        if (entry->gid_index > UINT8_MAX) /* more than an address handle takes */
            continue;
        int worth = wanted >= 0 ? entry->gid_index == (uint64_t)wanted : gid_worth(entry, ethernet);
        if (worth > best_worth) {
            best = entry;
            best_worth = worth;
        }
    }
    return best;
}

/* Of this port alone; the library gives those of all. Returns an error number. */
static int gid_read(const lks_verbs_ops *ops, struct ibv_context *context, uint8_t port,
                    int capacity, gid_table *out)
{
    if (LKS_NEW_ARRAY(&out->entries, (size_t)capacity) != LKS_OK)
        return ENOMEM;
    ssize_t count =
        ops->query_gid_table(context, out->entries, (size_t)capacity, 0, sizeof *out->entries);
    for (ssize_t i = 0; i < count; ++i)
        if (out->entries[i].port_num == port)
            out->entries[out->count++] = out->entries[i];
    return count < 0 ? (int)-count : 0;
}

static int gid_capacity(const lks_verbs_ops *ops, struct ibv_context *context)
{
    struct ibv_device_attr device = {.phys_port_cnt = 0};
    int capacity = 0;
    if (ops->query_device(context, &device) != 0)
        return 0;
    for (int port = 1; port <= device.phys_port_cnt; ++port) {
        struct ibv_port_attr attributes = {.gid_tbl_len = 0};
        if (ops->query_port(context, (uint8_t)port, &attributes) == 0)
            capacity += attributes.gid_tbl_len;
    }
    return capacity;
}

static void gid_missing(const gid_table *table, int64_t wanted, bool ethernet, lks_text *reason)
{
    if (wanted >= 0)
        lks_text_append(reason, "has no GID %lld", (long long)wanted);
    else if (!ethernet)
        lks_text_append(reason, "has no GID");
    else
        lks_text_append(reason,
                        "has no RoCE v2 GID but link-local ones (of %zu): give its network "
                        "interface an IP address",
                        table->count);
}

bool lks_verbs_choose_gid(const lks_verbs_ops *ops, struct ibv_context *context, int64_t wanted,
                          lks_verbs_port *port, lks_text *reason)
{
    gid_table table = {0};
    int code = gid_read(ops, context, port->number, gid_capacity(ops, context), &table);
    const struct ibv_gid_entry *entry = gid_find(&table, wanted, port->ethernet);
    if (code != 0)
        lks_text_append(reason, "does not give its GIDs (%s)", strerror(code));
    else if (!entry)
        gid_missing(&table, wanted, port->ethernet, reason);
    if (entry) {
        port->gid = entry->gid;
        port->gid_index = (uint8_t)entry->gid_index;
        port->ipv4 = gid_is_ipv4(&entry->gid);
    }
    lks_memory_free(table.entries);
    return entry != NULL;
}
