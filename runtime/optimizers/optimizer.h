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

/* Blocks that are updated alike. */
typedef enum lks_optimizer_part {
    LKS_OPTIMIZER_DECAYED, /* parameters with weight decay */
    LKS_OPTIMIZER_PLAIN,   /* parameters without */
    LKS_OPTIMIZER_BUFFERS,
} lks_optimizer_part;
enum { LKS_OPTIMIZER_PARTS = 3 };
lks_optimizer_part lks_optimizer_part_of(const lks_layout_tensor *tensor);

/* The update of blocks of one part at step `step` (0-based), by the formulas of kernels/device.h with the
 * totals' gradient_scale. Adam's corrections are 1 - beta^(step+1), computed in f64. A buffer becomes
 * 0.9 buffer + 0.1 buffer_scale gradient; buffer_scale is 1 / count of micro-batches in the
 * global batch. `what` has lks_optimizer_state_count states. */
typedef struct lks_optimizer_step {
    uint64_t step;
    double lr;
    double buffer_scale;
    const lks_totals *totals; /* device memory */
} lks_optimizer_step;
lks_status lks_optimizer_update(const lks_optimizer *optimizer, lks_device *device,
                                const lks_optimizer_step *step, lks_optimizer_part part,
                                const lks_update_blocks *what) LKS_MUST_CHECK;

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
