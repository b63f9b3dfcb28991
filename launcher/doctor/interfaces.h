/* The network interfaces of this host, without loopback. */
#ifndef LKS_LAUNCHER_DOCTOR_INTERFACES_H
#define LKS_LAUNCHER_DOCTOR_INTERFACES_H

#include "runtime/base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* [{"name": "eth0", "address": "10.0.0.1", "subnet": "10.0.0.0/24", "mtu": 9000}]:
 * IPv4, up. */
json_t *lks_interfaces_list(void);

/* The network over which mpirun was reached, else that of the host's own name. False: neither is known. */
bool lks_interfaces_guess(char *subnet, size_t size);

#endif
