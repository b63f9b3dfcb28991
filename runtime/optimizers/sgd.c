/* Stochastic gradient descent with momentum. */
#include "runtime/optimizers/optimizer_driver.h"

typedef struct sgd_values {
    lks_optimizer_common common;
    double momentum;
    bool nesterov;
} sgd_values;

static const lks_option sgd_options[] = {
    LKS_OPTIMIZER_LR("0.1"),
    LKS_OPTIMIZER_WEIGHT_DECAY("0"),
    LKS_OPTIMIZER_CLIP_NORM("0"),
    {"momentum", LKS_OPTION_NUMBER, offsetof(sgd_values, momentum), "0.9", 0, 0.9999999, NULL,
     LKS_OPTION_SCHEDULED, "momentum; 0 needs no state"},
    {"nesterov", LKS_OPTION_BOOL, offsetof(sgd_values, nesterov), "false", 0, 0, NULL,
     LKS_OPTION_SCHEDULED, "Nesterov's form of momentum"},
    LKS_OPTIONS_END,
};

static int sgd_state_count(const void *values)
{
    return ((const sgd_values *)values)->momentum != 0;
}

static void sgd_plan(const void *values, uint64_t step, lks_update *update)
{
    (void)step;
    const sgd_values *sgd = values;
    update->rule = LKS_UPDATE_SGD;
    update->momentum = (float)sgd->momentum;
    update->nesterov = sgd->nesterov;
}

extern const lks_optimizer_driver lks_sgd_optimizer;
const lks_optimizer_driver lks_sgd_optimizer = {
    .name = "sgd",
    .about = "stochastic gradient descent with momentum",
    .options = sgd_options,
    .values_bytes = sizeof(sgd_values),
    .state_groups = {"optimizer/momentum"},
    .state_count = sgd_state_count,
    .plan = sgd_plan,
};
