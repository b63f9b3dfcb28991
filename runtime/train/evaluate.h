/* The loss over a whole dataset, the same bits on any number of ranks. */
#ifndef LKS_TRAIN_EVALUATE_H
#define LKS_TRAIN_EVALUATE_H

#include "collectives/comm.h"
#include "runtime/datasets/dataset.h"
#include "runtime/models/model.h"
#include "runtime/train/replica.h"
#include "runtime/train/train.h"

typedef struct lks_evaluator lks_evaluator;

typedef struct lks_evaluator_spec {
    lks_comm *comm;
    lks_device *device;
    lks_model *model;
    const char *directory;    /* the dataset */
    const lks_layout *layout; /* of the parameters to come; NULL: not checked */
    const lks_schema *schema; /* of the training data; NULL: not at hand */
    int64_t micro_batch;
    lks_dtype compute; /* LKS_F32, LKS_BF16 */
    int threads, ring;
} lks_evaluator_spec;

/* Not collective. */
lks_status lks_evaluator_open(lks_evaluator **out, const lks_evaluator_spec *spec) LKS_MUST_CHECK;
void lks_evaluator_close(lks_evaluator *evaluator); /* NULL is fine */
const lks_layout *lks_evaluator_layout(const lks_evaluator *evaluator);
size_t lks_evaluator_bytes(const lks_evaluator *evaluator); /* activations, workspace */
/* Flat, device memory; `rounded` (NULL: none) as lks_executor_call wants them. */
typedef struct lks_parameters {
    const float *masters;
    const uint16_t *rounded;
} lks_parameters;

/* (collective) Batches are shared out in blocks; their sums
 * are added in batch order in f64. Fills all of `out` but the step. */
lks_status lks_evaluator_run(lks_evaluator *evaluator, const lks_parameters *parameters,
                             lks_evaluation *out) LKS_MUST_CHECK;

#endif
