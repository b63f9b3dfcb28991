/* The loader: reader threads that fill a bounded ring with micro-batches.
 *
 * A sequence of steps; in each, lanes [first_lane, end_lane) of `lanes`, each in
 * `micro_batches` micro-batches of `micro_batch` samples. Micro-batch m of lane l of step s
 * starts at position s G + l G/L + m B with G = L * micro_batches * B. What comes
 * out depends on positions alone.
 */
#ifndef LKS_DATASETS_LOADER_H
#define LKS_DATASETS_LOADER_H

#include "runtime/datasets/dataset.h"
#include "runtime/datasets/order.h"

typedef struct lks_loader lks_loader;

typedef struct lks_loader_spec {
    lks_dataset *dataset;   /* must outlive the loader */
    const lks_order *order; /* NULL: sequential, one pass, positions >= N are masked samples */
    int64_t lanes, first_lane, end_lane;
    int64_t micro_batches, micro_batch;
    uint64_t first_step, end_step; /* [first, end): the loader reads no further */
    int threads;                   /* reader threads, >= 1 */
    int depth;                     /* micro-batches in the ring, >= 2 */
} lks_loader_spec;

/* Valid until the next lks_loader_next or close. */
typedef struct lks_batch {
    void *const *fields; /* [schema.field_count]: micro_batch x field shape, 64-byte aligned */
    const uint64_t *positions; /* [micro_batch] */
    const uint64_t *samples;   /* [micro_batch], LKS_SAMPLE_NONE where masked */
    uint64_t step;
    int64_t lane, index;    /* micro-batch `index` of `lane` */
    uint64_t valid_targets; /* targets that are not masked */
} lks_batch;

lks_status lks_loader_open(lks_loader **out, const lks_loader_spec *spec) LKS_MUST_CHECK;
void lks_loader_close(lks_loader *loader); /* joins the threads; NULL is fine */
/* The next micro-batch in order of (step, lane, index). A reader's failure is
 * returned here, with its message. */
lks_status lks_loader_next(lks_loader *loader, lks_batch *out) LKS_MUST_CHECK;
/* Time that next has waited for readers since the last call of this. */
double lks_loader_take_wait_seconds(lks_loader *loader);
size_t lks_loader_bytes(const lks_loader *loader); /* of the ring */
void *
lks_loader_memory(const lks_loader *loader); /* the ring: all fields and positions lie in it */

#endif
