#include "collectives/verbs_options.h"

#define AT(member) offsetof(lks_verbs_options, member)

const lks_option lks_verbs_option_table[] = {
    {"device", LKS_OPTION_TEXT, AT(device), "", 0, 0, NULL, LKS_OPTION_FREE,
     "RDMA device, or device:port, or several with commas; empty: the best active one"},
    {"gid", LKS_OPTION_INTEGER, AT(gid), "-1", -1, 255, NULL, LKS_OPTION_FREE,
     "index in the port's GID table; -1: a RoCE v2 entry with an IPv4 address"},
    {"retry_count", LKS_OPTION_INTEGER, AT(retry_count), "7", 0, 7, NULL, LKS_OPTION_FREE,
     "times a packet is sent again before its peer counts as lost; 7 is for ever to some drivers"},
    {"ack_timeout", LKS_OPTION_INTEGER, AT(ack_timeout), "18", 0, 31, NULL, LKS_OPTION_FREE,
     "time until a packet is sent again, 4.096 us * 2^n; 0: never"},
    {"traffic_class", LKS_OPTION_INTEGER, AT(traffic_class), "0", 0, 255, NULL, LKS_OPTION_FREE,
     "of RoCE packets, as the switches' lossless class wants it"},
    {"service_level", LKS_OPTION_INTEGER, AT(service_level), "0", 0, 15, NULL, LKS_OPTION_FREE,
     "of InfiniBand packets; the priority of RoCE ones"},
    {"chunk_bytes", LKS_OPTION_INTEGER, AT(chunk_bytes), "1048576", 4096, 1073741824, NULL,
     LKS_OPTION_FREE, "bytes of one RDMA write"},
    {"peer_seconds", LKS_OPTION_NUMBER, AT(peer_seconds), "20", 0.1, 86400, NULL, LKS_OPTION_FREE,
     "seconds without an answer from a peer's port until it counts as lost"},
    LKS_OPTIONS_END,
};
