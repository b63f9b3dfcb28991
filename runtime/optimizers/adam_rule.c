#include "runtime/optimizers/adam_rule.h"

#include <math.h>

int adam_state_count(const void *values)
{
    (void)values;
    return 2;
}

/* In f64: 1 - beta^t in f32 loses half its digits at the first steps. */
static float adam_correction(double beta, uint64_t step)
{
    return (float)(1.0 - pow(beta, (double)step + 1.0));
}

void adam_plan(const void *values, uint64_t step, lks_update *update)
{
    const adam_values *adam = values;
    update->rule = LKS_UPDATE_ADAM;
    update->beta1 = adam->beta1;
    update->beta2 = adam->beta2;
    update->epsilon = (float)adam->epsilon;
    update->correction1 = adam_correction(adam->beta1, step);
    update->correction2 = adam_correction(adam->beta2, step);
}
