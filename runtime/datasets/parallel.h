/* What the datasets need of their peers, without depending on collectives: the
 * launcher hands in functions of its communicator. */
#ifndef LKS_DATASETS_PARALLEL_H
#define LKS_DATASETS_PARALLEL_H

#include "runtime/base/status.h"

#include <stddef.h>

typedef struct lks_parallel {
    int rank, size;
    /* Collective. The worst status of all ranks, with its message on rank 0 and "" elsewhere. */
    lks_status (*agree)(void *user, lks_status mine);
    /* Collective. Gathers each rank's `bytes` on every rank, in rank order; *out is freed with free(). counts[size]. */
    lks_status (*all_gather)(void *user, const void *mine, size_t bytes, void **out,
                             size_t *counts);
    void *user;
} lks_parallel;

/* One process alone. */
extern const lks_parallel lks_parallel_self;

#endif
