#include "runtime/base/memory.h"
#include "runtime/optimizers/optimizer_driver.h"
#include "runtime/optimizers/unknown.h"

#include <string.h>

struct lks_schedule {
    const lks_schedule_driver *driver;
    lks_schedule_values values;
};

static lks_status schedule_fail_unknown(const char *name)
{
    const char **names;
    size_t count = 0;
    while (lks_schedule_drivers[count])
        ++count;
    LKS_TRY(LKS_NEW_ARRAY(&names, count));
    for (size_t i = 0; i < count; ++i)
        names[i] = lks_schedule_drivers[i]->name;
    lks_status status = optimizers_fail_unknown("schedule.name", name, names, count);
    lks_memory_free(names);
    return status;
}

lks_status lks_schedule_open(lks_schedule **out, const char *name)
{
    const lks_schedule_driver *const *driver = lks_schedule_drivers;
    while (*driver && strcmp((*driver)->name, name) != 0)
        ++driver;
    if (!*driver)
        return schedule_fail_unknown(name);
    LKS_TRY(LKS_NEW(out));
    (*out)->driver = *driver;
    return LKS_OK;
}

void lks_schedule_close(lks_schedule *schedule)
{
    lks_memory_free(schedule);
}

const char *lks_schedule_name(const lks_schedule *schedule)
{
    return schedule->driver->name;
}

const lks_option *lks_schedule_options(const lks_schedule *schedule)
{
    return schedule->driver->options;
}

const lks_option *lks_schedule_options_at(size_t index)
{
    size_t count = 0;
    while (lks_schedule_drivers[count])
        ++count;
    return index < count ? lks_schedule_drivers[index]->options : NULL;
}

void *lks_schedule_option_values(lks_schedule *schedule)
{
    return &schedule->values;
}

double lks_schedule_factor(const lks_schedule *schedule, uint64_t step, uint64_t steps)
{
    uint64_t warmup = (uint64_t)schedule->values.warmup_steps;
    if (step < warmup)
        return ((double)step + 1.0) / ((double)warmup + 1.0);
    double progress = 1.0;
    if (step < steps) /* so warmup < steps */
        progress = (double)(step - warmup) / (double)(steps - warmup);
    return schedule->driver->decay(&schedule->values, progress);
}
