/* Which device, port and GID a rank uses. */
#ifndef LKS_COLLECTIVES_VERBS_DEVICE_H
#define LKS_COLLECTIVES_VERBS_DEVICE_H

#include "collectives/verbs/library.h"
#include "collectives/verbs_options.h"

#include <stdbool.h>

/* A port that can be used. */
typedef struct lks_verbs_port {
    char device[64];
    uint8_t number;
    bool ethernet; /* RoCE: peers are found by GID; else InfiniBand: by LID */
    uint16_t lid;
    union ibv_gid gid;
    uint8_t gid_index;
    bool ipv4; /* the GID is an IPv4 address */
    enum ibv_mtu mtu;
    uint32_t megabits; /* a second */
    int numa_node;     /* of the device, -1: unknown */
    uint32_t largest_message;
} lks_verbs_port;

typedef struct lks_verbs_wish {
    const lks_verbs_options *options;
    int numa_node;  /* of the rank's memory, -1: unknown */
    int local_rank; /* ranks of a node spread over ports that are equally good */
} lks_verbs_wish;

/* The best active port: one with an IPv4 address or a LID before one with only an IPv6 one, then
 * the faster, then the nearer to the rank's memory. *context (NULL: not wanted) is the opened device.
 * LKS_ERR_USAGE says what each port of this host lacks. */
lks_status lks_verbs_choose(const lks_verbs_ops *ops, const lks_verbs_wish *wish,
                            lks_verbs_port *out, struct ibv_context **context) LKS_MUST_CHECK;

/* "rxe0 port 1, RoCE v2 ::ffff:10.0.0.1 (GID 1), 4096 byte packets, 100000 Mbit/s". Returns out. */
const char *lks_verbs_port_text(const lks_verbs_port *port, char *out, size_t size);

/* Of the core that this thread runs on. */
int lks_verbs_own_numa_node(void);

#endif
