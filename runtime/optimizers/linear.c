#include "runtime/optimizers/optimizer_driver.h"

static const lks_option linear_options[] = {
    LKS_SCHEDULE_WARMUP_STEPS,
    LKS_SCHEDULE_FINAL_FRACTION,
    LKS_OPTIONS_END,
};

static double linear_decay(const lks_schedule_values *values, double progress)
{
    return 1.0 - (1.0 - values->final_fraction) * progress;
}

extern const lks_schedule_driver lks_linear_schedule;
const lks_schedule_driver lks_linear_schedule = {
    .name = "linear",
    .about = "a straight line from the peak to its final fraction",
    .options = linear_options,
    .decay = linear_decay,
};
