#include "runtime/base/memory.h"
#include "runtime/optimizers/optimizer_driver.h"
#include "runtime/optimizers/unknown.h"

#include <string.h>

/* The share of a step's statistics in a running one. */
static const float optimizer_buffer_momentum = 0.1f;

struct lks_optimizer {
    const lks_optimizer_driver *driver;
    void *values; /* driver->values_bytes */
};

static lks_status optimizer_fail_unknown(const char *name)
{
    const char **names;
    size_t count = 0;
    while (lks_optimizer_drivers[count])
        ++count;
    LKS_TRY(LKS_NEW_ARRAY(&names, count));
    for (size_t i = 0; i < count; ++i)
        names[i] = lks_optimizer_drivers[i]->name;
    lks_status status = optimizers_fail_unknown("optimizer.name", name, names, count);
    lks_memory_free(names);
    return status;
}

lks_status lks_optimizer_open(lks_optimizer **out, const char *name)
{
    const lks_optimizer_driver *const *driver = lks_optimizer_drivers;
    while (*driver && strcmp((*driver)->name, name) != 0)
        ++driver;
    if (!*driver)
        return optimizer_fail_unknown(name);
    lks_optimizer *optimizer;
    LKS_TRY(LKS_NEW(&optimizer));
    optimizer->driver = *driver;
    lks_status status = lks_memory_allocate(&optimizer->values, 1, (*driver)->values_bytes);
    if (status != LKS_OK)
        lks_optimizer_close(optimizer);
    else
        *out = optimizer;
    return status;
}

void lks_optimizer_close(lks_optimizer *optimizer)
{
    if (!optimizer)
        return;
    lks_memory_free(optimizer->values);
    lks_memory_free(optimizer);
}

const char *lks_optimizer_name(const lks_optimizer *optimizer)
{
    return optimizer->driver->name;
}

const lks_option *lks_optimizer_options(const lks_optimizer *optimizer)
{
    return optimizer->driver->options;
}

const lks_option *lks_optimizer_options_at(size_t index)
{
    size_t count = 0;
    while (lks_optimizer_drivers[count])
        ++count;
    return index < count ? lks_optimizer_drivers[index]->options : NULL;
}

void *lks_optimizer_option_values(lks_optimizer *optimizer)
{
    return optimizer->values;
}

int lks_optimizer_state_count(const lks_optimizer *optimizer)
{
    return optimizer->driver->state_count(optimizer->values);
}

const char *lks_optimizer_state_group(const lks_optimizer *optimizer, int state)
{
    return optimizer->driver->state_groups[state];
}

const char *lks_optimizer_state_name(const lks_optimizer *optimizer, int state)
{
    return strrchr(optimizer->driver->state_groups[state], '/') + 1;
}

double lks_optimizer_clip_norm(const lks_optimizer *optimizer)
{
    return ((const lks_optimizer_common *)optimizer->values)->clip_norm;
}

double lks_optimizer_learning_rate(const lks_optimizer *optimizer)
{
    return ((const lks_optimizer_common *)optimizer->values)->lr;
}

lks_optimizer_part lks_optimizer_part_of(const lks_layout_tensor *tensor)
{
    if (tensor->role == LKS_ROLE_BUFFER)
        return LKS_OPTIMIZER_BUFFERS;
    return tensor->decay ? LKS_OPTIMIZER_DECAYED : LKS_OPTIMIZER_PLAIN;
}

lks_status lks_optimizer_update(const lks_optimizer *optimizer, lks_device *device,
                                const lks_optimizer_step *step, lks_optimizer_part part,
                                const lks_update_blocks *what)
{
    lks_update update = {.totals = step->totals};
    if (part == LKS_OPTIMIZER_BUFFERS) {
        update.rule = LKS_UPDATE_AVERAGE;
        update.gradient_scale = (float)step->buffer_scale;
        update.momentum = optimizer_buffer_momentum;
        return lks_device_update(device, &update, what);
    }
    const lks_optimizer_common *common = optimizer->values;
    update.lr = (float)step->lr;
    update.weight_decay = part == LKS_OPTIMIZER_DECAYED ? (float)common->weight_decay : 0.0f;
    update.first_step = step->step == 0;
    optimizer->driver->plan(optimizer->values, step->step, &update);
    return lks_device_update(device, &update, what);
}
