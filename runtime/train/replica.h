/* A replica: the model's graph for some data, opened on this rank's device. */
#ifndef LKS_TRAIN_REPLICA_H
#define LKS_TRAIN_REPLICA_H

#include "runtime/graph/executor.h"
#include "runtime/models/model.h"

typedef struct lks_replica {
    lks_graph *graph;
    lks_executor *executor;
} lks_replica;

/* Asked twice before anything large is allocated: with the model's layout alone, then with the bytes
 * that the activations need at least. A failure ends the opening. */
typedef struct lks_replica_check {
    lks_status (*check)(void *user, const lks_layout *layout, uint64_t activations_bytes);
    void *user;
} lks_replica_check;

typedef struct lks_replica_spec {
    lks_model *model;
    const lks_schema *schema;
    lks_graph_mode mode;
    int64_t micro_batch;
    lks_device *device;             /* NULL: the graph alone */
    lks_dtype compute;              /* LKS_F32, LKS_BF16 */
    const lks_replica_check *check; /* NULL: none */
} lks_replica_spec;

/* Starts from {0}. Not collective. */
lks_status lks_replica_init(lks_replica *replica, const lks_replica_spec *spec) LKS_MUST_CHECK;
void lks_replica_release(lks_replica *replica);

#endif
