/* What adam and adamw share. */
#ifndef LKS_OPTIMIZERS_ADAM_RULE_H
#define LKS_OPTIMIZERS_ADAM_RULE_H

#include "runtime/optimizers/optimizer_driver.h"

typedef struct adam_values {
    lks_optimizer_common common;
    double beta1, beta2, epsilon;
} adam_values;

/* clang-format off */
#define ADAM_BETA1                                                                                 \
    {"beta1", LKS_OPTION_NUMBER, offsetof(adam_values, beta1), "0.9", 0, 0.9999999, NULL,          \
     LKS_OPTION_SCHEDULED, "decay of the first moment"}
#define ADAM_BETA2                                                                                 \
    {"beta2", LKS_OPTION_NUMBER, offsetof(adam_values, beta2), "0.95", 0, 0.9999999, NULL,         \
     LKS_OPTION_SCHEDULED, "decay of the second moment"}
#define ADAM_EPSILON                                                                               \
    {"epsilon", LKS_OPTION_NUMBER, offsetof(adam_values, epsilon), "1e-8", 1e-30, 1, NULL,         \
     LKS_OPTION_SCHEDULED, "added to the root of the second moment"}
/* clang-format on */

int adam_state_count(const void *values);
void adam_plan(const void *values, uint64_t step, lks_update *update);

#endif
