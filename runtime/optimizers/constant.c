#include "runtime/optimizers/optimizer_driver.h"

static const lks_option constant_options[] = {
    LKS_SCHEDULE_WARMUP_STEPS,
    LKS_OPTIONS_END,
};

static double constant_decay(const lks_schedule_values *values, double progress)
{
    (void)values;
    (void)progress;
    return 1.0;
}

extern const lks_schedule_driver lks_constant_schedule;
const lks_schedule_driver lks_constant_schedule = {
    .name = "constant",
    .about = "the peak, after warm-up",
    .options = constant_options,
    .decay = constant_decay,
};
