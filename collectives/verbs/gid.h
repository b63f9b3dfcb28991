/* The entry of a port's GID table that a rank goes by. */
#ifndef LKS_COLLECTIVES_VERBS_GID_H
#define LKS_COLLECTIVES_VERBS_GID_H

#include "collectives/verbs/device.h"

#include "runtime/base/text.h"

/* Sets gid, gid_index and ipv4 of `port`. `wanted` -1: on Ethernet the first RoCE v2 entry with an
 * IPv4 address that is not link-local, then one with an IPv6 address; on InfiniBand entry 0.
 * False, with the reason appended, when there is none. */
bool lks_verbs_choose_gid(const lks_verbs_ops *ops, struct ibv_context *context, int64_t wanted,
                          lks_verbs_port *port, lks_text *reason);

#endif
