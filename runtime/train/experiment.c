#include "runtime/train/experiment.h"
#include "runtime/base/log.h"

/* A file is written for one driver; where a later source names another one, what only the first knows is left out. */
static lks_status experiment_leave_out(lks_config *config, const char *name_key,
                                       const lks_option *(*options_at)(size_t index))
{
    lks_text left_out = {0};
    lks_status status = LKS_OK;
    const lks_option *options;
    for (size_t i = 0; status == LKS_OK && (options = options_at(i)) != NULL; ++i)
        status = lks_config_leave_out(config, name_key, options, &left_out);
    if (status == LKS_OK && left_out.length)
        lks_log_root("warning: %s is %s here, which does not know %s: left out", name_key,
                     lks_config_get(config, name_key), left_out.data);
    lks_text_release(&left_out);
    return status;
}

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
    LKS_TRY(experiment_leave_out(e->config, "model.name", lks_model_options_at));
    LKS_TRY(experiment_leave_out(e->config, "optimizer.name", lks_optimizer_options_at));
    LKS_TRY(experiment_leave_out(e->config, "schedule.name", lks_schedule_options_at));
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
