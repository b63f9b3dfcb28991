/* One TCP connection between two hosts, tried and measured within a bound. */
#ifndef LKS_LAUNCHER_DOCTOR_NETWORK_LINK_H
#define LKS_LAUNCHER_DOCTOR_NETWORK_LINK_H

#include "runtime/base/status.h"

#include <stdint.h>

/* Answers on all addresses of this host, on threads of its own, until the process ends. Who connects is sent `nonce`. */
lks_status lks_network_serve(uint64_t nonce, int *port) LKS_MUST_CHECK;

typedef struct lks_network_try {
    const char *from, *to; /* the own address and the peer's */
    int port;
    uint64_t nonce; /* of the peer's server */
    double seconds; /* for the connection, and for each of its answers */
} lks_network_try;

typedef struct lks_network_link {
    const char *problem; /* NULL: it connects; else why not */
    double latency_us;   /* there and back, the least of some */
    double bytes_per_second;
} lks_network_link;

lks_network_link lks_network_measure(const lks_network_try *it);

#endif
