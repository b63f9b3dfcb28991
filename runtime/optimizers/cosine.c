#include "runtime/optimizers/optimizer_driver.h"

#include <math.h>

static const lks_option cosine_options[] = {
    LKS_SCHEDULE_WARMUP_STEPS,
    LKS_SCHEDULE_FINAL_FRACTION,
    LKS_OPTIONS_END,
};

static double cosine_decay(const lks_schedule_values *values, double progress)
{
    static const double pi = 3.14159265358979323846;
    double fraction = values->final_fraction;
    return fraction + (1.0 - fraction) * 0.5 * (1.0 + cos(pi * progress));
}

extern const lks_schedule_driver lks_cosine_schedule;
const lks_schedule_driver lks_cosine_schedule = {
    .name = "cosine",
    .about = "half a cosine from the peak to its final fraction",
    .options = cosine_options,
    .decay = cosine_decay,
};
