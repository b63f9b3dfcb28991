#include "runtime/train/experiment.h"

static lks_status experiment_bind(lks_experiment *e)
{
    const char *model = lks_config_get(e->config, "model.name");
    const char *optimizer = lks_config_get_default(e->config, "optimizer.name", "adamw");
    const char *schedule = lks_config_get_default(e->config, "schedule.name", "constant");
    if (!model)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "model.name is not set: the configuration needs a section like "
                        "model: {name: gpt, ...}");
    LKS_TRY(lks_settings_bind(&e->settings, e->config));
    LKS_TRY(lks_model_open(&e->model, model));
    LKS_TRY(lks_optimizer_open(&e->optimizer, optimizer));
    LKS_TRY(lks_schedule_open(&e->schedule, schedule));
    LKS_TRY(lks_config_bind(e->config, "model", lks_model_options(e->model),
                            lks_model_option_values(e->model)));
    LKS_TRY(lks_config_bind(e->config, "optimizer", lks_optimizer_options(e->optimizer),
                            lks_optimizer_option_values(e->optimizer)));
    LKS_TRY(lks_config_bind(e->config, "schedule", lks_schedule_options(e->schedule),
                            lks_schedule_option_values(e->schedule)));
    return lks_config_check_unknown(e->config);
}

lks_status lks_experiment_init(lks_experiment *experiment, lks_config *config)
{
    *experiment = (lks_experiment){.config = config};
    lks_status status = experiment_bind(experiment);
    if (status != LKS_OK)
        lks_experiment_release(experiment);
    return status;
}

void lks_experiment_release(lks_experiment *experiment)
{
    lks_schedule_close(experiment->schedule);
    lks_optimizer_close(experiment->optimizer);
    lks_model_close(experiment->model);
    *experiment = (lks_experiment){0};
}
