/* An experiment: what a configuration says, each part in the hands of its owner. */
#ifndef LKS_TRAIN_EXPERIMENT_H
#define LKS_TRAIN_EXPERIMENT_H

#include "runtime/models/model.h"
#include "runtime/optimizers/optimizer.h"
#include "runtime/train/settings.h"

typedef struct lks_experiment {
    lks_config *config; /* the caller's */
    lks_settings settings;
    lks_model *model;
    lks_optimizer *optimizer;
    lks_schedule *schedule;
} lks_experiment;

/* What the forward and backward pass compute in: train.precision. */
static inline lks_dtype lks_experiment_compute(const lks_experiment *experiment)
{
    return experiment->settings.train.precision == 1 ? LKS_BF16 : LKS_F32;
}

/* Starts from {0}. Not collective. */
lks_status lks_experiment_init(lks_experiment *experiment, lks_config *config) LKS_MUST_CHECK;
void lks_experiment_release(lks_experiment *experiment);

#endif
