/* What comm.c, messages.c and share.c share of a comm. */
#ifndef LKS_COLLECTIVES_COMM_PRIVATE_H
#define LKS_COLLECTIVES_COMM_PRIVATE_H

#include "collectives/comm_driver.h"

#include <limits.h>
#include <sched.h>

/* What each rank tells the others when a comm opens. */
typedef struct lks_comm_identity {
    char host[HOST_NAME_MAX + 1];
    int32_t lowest_neighbour;
    uint64_t shm_device; /* the file system behind /dev/shm: containers may have their own */
    cpu_set_t cpus;      /* that this rank may run on; none when unknown */
} lks_comm_identity;

struct lks_comm {
    const lks_comm_driver *driver;
    void *instance;
    int rank, size;
    int node, node_count, local_rank, local_size;
    int *node_of;                  /* [size] */
    int *local_ranks;              /* [local_size] ranks of this node, ascending */
    size_t *equal_counts;          /* [size] of an all_gather_equal under way */
    lks_comm_identity *identities; /* [size] */
    bool crowded;                  /* more ranks than cores on this node */
    size_t message_limit;
    size_t under_way; /* requests taken and not yet given back */
    lks_comm_request *free_requests;
    lks_comm_request *all_requests;
};

/* A message in as many parts as its driver needs. */
struct lks_comm_request {
    void **parts; /* [part_count] the driver's, still under way */
    size_t part_count, capacity;
    int64_t value;
    lks_comm_request *next_free, *next;
};

enum { LKS_TAG_PARAMETERS = LKS_TAG_FREE - 2, LKS_TAG_SHARE = LKS_TAG_FREE - 1 };

void lks_comm_release_requests(lks_comm *comm);

#endif
