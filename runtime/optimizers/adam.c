/* Adam (Kingma and Ba 2015); weight decay is added to the gradient. */
#include "runtime/optimizers/adam_rule.h"

static const lks_option adam_options[] = {
    LKS_OPTIMIZER_LR("1e-3"),
    LKS_OPTIMIZER_WEIGHT_DECAY("0"),
    LKS_OPTIMIZER_CLIP_NORM("1"),
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPSILON,
    LKS_OPTIONS_END,
};

extern const lks_optimizer_driver lks_adam_optimizer;
const lks_optimizer_driver lks_adam_optimizer = {
    .name = "adam",
    .about = "Adam; weight decay is added to the gradient",
    .options = adam_options,
    .values_bytes = sizeof(adam_values),
    .state_groups = {"optimizer/m", "optimizer/v"},
    .state_count = adam_state_count,
    .plan = adam_plan,
};
