/* For those who implement an optimizer or a schedule. See optimizer.h for what the
 * calls promise, README.md for how to add one.
 */
#ifndef LKS_OPTIMIZERS_OPTIMIZER_DRIVER_H
#define LKS_OPTIMIZERS_OPTIMIZER_DRIVER_H

#include "runtime/optimizers/optimizer.h"

/* The settings of every optimizer: the first member of a driver's own struct. */
typedef struct lks_optimizer_common {
    double lr, weight_decay, clip_norm;
} lks_optimizer_common;

/* clang-format off */
/* Their rows of a driver's option table; `text` is the default. */
#define LKS_OPTIMIZER_LR(text)                                                                     \
    {"lr", LKS_OPTION_NUMBER, offsetof(lks_optimizer_common, lr), text, 0, 1e6, NULL,              \
     LKS_OPTION_SCHEDULED, "peak learning rate"}
#define LKS_OPTIMIZER_WEIGHT_DECAY(text)                                                           \
    {"weight_decay", LKS_OPTION_NUMBER, offsetof(lks_optimizer_common, weight_decay), text, 0,     \
     1e3, NULL, LKS_OPTION_SCHEDULED, "weight decay of matrices; norms and biases have none"}
#define LKS_OPTIMIZER_CLIP_NORM(text)                                                              \
    {"clip_norm", LKS_OPTION_NUMBER, offsetof(lks_optimizer_common, clip_norm), text, 0, 1e30,     \
     NULL, LKS_OPTION_SCHEDULED, "largest norm of the whole gradient; 0: no clipping"}
/* clang-format on */

typedef struct lks_optimizer_driver {
    const char *name;
    const char *about; /* one line */
    const lks_option *options;
    size_t values_bytes; /* of the struct that `options` fills; begins with the common one */
    /* Where a checkpoint keeps the states: "optimizer/m"; the rest are NULL. */
    const char *state_groups[LKS_OPTIMIZER_STATES_MAX];
    /* How many of them these values need. */
    int (*state_count)(const void *values);
    /* Fills what the common code has not: rule and the rule's own numbers. On entry
     * totals, lr, weight_decay (0 where the tensor has none) and first_step are set. */
    void (*plan)(const void *values, uint64_t step, lks_update *update);
} lks_optimizer_driver;

/* NULL-terminated; written by Meson. */
extern const lks_optimizer_driver *const lks_optimizer_drivers[];

/* The settings that a schedule's table fills; it may leave the second out. */
typedef struct lks_schedule_values {
    int64_t warmup_steps;
    double final_fraction;
} lks_schedule_values;

/* clang-format off */
#define LKS_SCHEDULE_WARMUP_STEPS                                                                  \
    {"warmup_steps", LKS_OPTION_INTEGER, offsetof(lks_schedule_values, warmup_steps), "0", 0,      \
     1e15, NULL, LKS_OPTION_SCHEDULED, "steps in which the learning rate rises to its peak"}
#define LKS_SCHEDULE_FINAL_FRACTION                                                                \
    {"final_fraction", LKS_OPTION_NUMBER, offsetof(lks_schedule_values, final_fraction), "0.1",    \
     0, 1, NULL, LKS_OPTION_SCHEDULED, "learning rate at the end, as a fraction of the peak"}
/* clang-format on */

typedef struct lks_schedule_driver {
    const char *name;
    const char *about; /* one line */
    const lks_option *options;
    /* The factor after warm-up, at `progress` from 0 to 1. */
    double (*decay)(const lks_schedule_values *values, double progress);
} lks_schedule_driver;

/* NULL-terminated; written by Meson. */
extern const lks_schedule_driver *const lks_schedule_drivers[];

#endif
