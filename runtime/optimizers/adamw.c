/* AdamW (Loshchilov and Hutter 2019): Adam with decoupled weight decay. */
#include "runtime/optimizers/adam_rule.h"

static const lks_option adamw_options[] = {
    LKS_OPTIMIZER_LR("1e-3"),
    LKS_OPTIMIZER_WEIGHT_DECAY("0.1"),
    LKS_OPTIMIZER_CLIP_NORM("1"),
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPSILON,
    LKS_OPTIONS_END,
};

static void adamw_plan(const void *values, uint64_t step, lks_update *update)
{
    adam_plan(values, step, update);
    update->decoupled = true;
}

extern const lks_optimizer_driver lks_adamw_optimizer;
const lks_optimizer_driver lks_adamw_optimizer = {
    .name = "adamw",
    .about = "Adam with decoupled weight decay",
    .options = adamw_options,
    .values_bytes = sizeof(adam_values),
    .state_groups = {"optimizer/m", "optimizer/v"},
    .state_count = adam_state_count,
    .plan = adamw_plan,
};
