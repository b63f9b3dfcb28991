/* How a global batch is cut: into lanes for the life of the job, into this
 * start's share of them, and into micro-batches. */
#ifndef LKS_TRAIN_GEOMETRY_H
#define LKS_TRAIN_GEOMETRY_H

#include "runtime/train/settings.h"

typedef struct lks_geometry {
    int64_t global_batch;     /* G = lanes * micro_batches * micro_batch */
    int lanes;                /* L */
    int64_t micro_batch;      /* B */
    int64_t micro_batches;    /* per lane */
    int first_lane, end_lane; /* this rank's */
} lks_geometry;

/* LKS_ERR_USAGE names what would work: lanes that divide the batch, fewer ranks. */
lks_status lks_geometry_init(lks_geometry *out, const lks_settings *settings, int rank,
                             int world_size) LKS_MUST_CHECK;

#endif
