/* Optimizers by name, and schedules of the learning rate. */
#ifndef LKS_OPTIMIZERS_OPTIMIZER_H
#define LKS_OPTIMIZERS_OPTIMIZER_H

#include "kernels/device.h"
#include "runtime/base/layout.h"
#include "runtime/base/options.h"

typedef struct lks_optimizer lks_optimizer;

/* Unknown name: LKS_ERR_USAGE with the nearest. */
lks_status lks_optimizer_open(lks_optimizer **out, const char *name) LKS_MUST_CHECK;
void lks_optimizer_close(lks_optimizer *optimizer); /* NULL is fine */
const char *lks_optimizer_name(const lks_optimizer *optimizer);
const lks_option *lks_optimizer_options(const lks_optimizer *optimizer); /* section "optimizer" */
void *lks_optimizer_option_values(lks_optimizer *optimizer);
/* Those of the index-th optimizer that there is; NULL: there are no more. */
const lks_option *lks_optimizer_options_at(size_t index);

enum { LKS_OPTIMIZER_STATES_MAX = 2 };

/* Names of the per-parameter states, e.g. {"m", "v"}; after binding. At most
 * LKS_OPTIMIZER_STATES_MAX. */
int lks_optimizer_state_count(const lks_optimizer *optimizer);
const char *lks_optimizer_state_name(const lks_optimizer *optimizer, int state);
/* Where a checkpoint keeps it: "optimizer/m". */
const char *lks_optimizer_state_group(const lks_optimizer *optimizer, int state);
/* 0: no clipping. */
double lks_optimizer_clip_norm(const lks_optimizer *optimizer);
double lks_optimizer_learning_rate(const lks_optimizer *optimizer); /* the peak */

/* The update of consecutive elements of one tensor at step `step` (0-based), by the
 * formulas of kernels/device.h with g = gradient_scale * gradient; gradient_scale is clip
 * factor / count of valid targets. Decay applies where tensor->decay. Adam's corrections
 * are 1 - beta^(step+1), computed in f64. A buffer becomes
 * 0.9 buffer + 0.1 buffer_scale gradient; buffer_scale is 1 / count of micro-batches in the
 * global batch. `states` has lks_optimizer_state_count pointers to the same elements. */
typedef struct lks_optimizer_step {
    uint64_t step;
    double lr;
    double gradient_scale, buffer_scale;
} lks_optimizer_step;
lks_status lks_optimizer_update(const lks_optimizer *optimizer, lks_device *device,
                                const lks_optimizer_step *step, const lks_layout_tensor *tensor,
                                uint64_t elements, const float *gradient, float *parameter,
                                float *const *states) LKS_MUST_CHECK;

/* Schedules. With w = warmup_steps, f = final_fraction, step s of S steps:
 *   s < w:      (s + 1) / (w + 1)
 *   else, with r = min(1, (s - w) / (S - w)):
 *   constant    1
 *   linear      1 - (1 - f) r
 *   cosine      f + (1 - f) (1 + cos(pi r)) / 2      (Loshchilov and Hutter 2017, one cycle)
 * So the peak is reached at s = w, and f would be at s = S, one step after the last. */
typedef struct lks_schedule lks_schedule;

/* Unknown name: LKS_ERR_USAGE with the nearest. */
lks_status lks_schedule_open(lks_schedule **out, const char *name) LKS_MUST_CHECK;
void lks_schedule_close(lks_schedule *schedule); /* NULL is fine */
const char *lks_schedule_name(const lks_schedule *schedule);
const lks_option *lks_schedule_options(const lks_schedule *schedule); /* section "schedule" */
void *lks_schedule_option_values(lks_schedule *schedule);
/* Those of the index-th schedule that there is; NULL: there are no more. */
const lks_option *lks_schedule_options_at(size_t index);
/* Factor in [0, 1] of the peak at step `step` (0-based) of `steps`. */
double lks_schedule_factor(const lks_schedule *schedule, uint64_t step, uint64_t steps);

#endif
