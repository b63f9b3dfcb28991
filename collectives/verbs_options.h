/* Options of the verbs link ("verbs.device", ...). Every build knows them, with the link or without,
 * so that a configuration means the same everywhere.
 */
#ifndef LKS_COLLECTIVES_VERBS_OPTIONS_H
#define LKS_COLLECTIVES_VERBS_OPTIONS_H

#include "runtime/base/options.h"

typedef struct lks_verbs_options {
    const char *device;    /* "mlx5_0", "mlx5_0:2", several with commas; "": the best there is */
    int64_t gid;           /* index in the port's table; -1: by what the entries are */
    int64_t retry_count;   /* 0..7 */
    int64_t ack_timeout;   /* 0..31: 4.096 us * 2^n, 0 is for ever */
    int64_t traffic_class; /* of RoCE packets */
    int64_t service_level;
    int64_t chunk_bytes; /* of one RDMA write */
    double peer_seconds; /* without a sign of life from a peer's port */
} lks_verbs_options;

extern const lks_option lks_verbs_option_table[]; /* for lks_config_bind(config, "verbs", ...) */

#endif
