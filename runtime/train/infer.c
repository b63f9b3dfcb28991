#include "runtime/train/evaluate.h"
#include "runtime/train/generate.h"
#include "runtime/train/predict.h"
#include "runtime/train/session.h"
#include "runtime/train/train.h"

#include <string.h>

static lks_status evaluate_open(lks_session *session, lks_evaluator **out)
{
    const lks_settings *settings = &session->experiment.settings;
    lks_geometry geometry;
    LKS_TRY(lks_geometry_init(&geometry, settings, 0, 1));
    lks_evaluator_spec spec = {.comm = session->comm,
                               .device = session->device,
                               .model = session->experiment.model,
                               .directory = settings->data.validation,
                               .layout = lks_checkpoint_layout(session->checkpoint),
                               .micro_batch = geometry.micro_batch,
                               .compute = lks_experiment_compute(&session->experiment),
                               .threads = (int)settings->data.threads,
                               .ring = (int)settings->data.ring};
    if (!*spec.directory)
        return LKS_FAIL(
            LKS_ERR_USAGE,
            "data.validation is not set: name a dataset with --set data.validation=DIR");
    LKS_TRY(lks_evaluator_open(out, &spec));
    return lks_session_load(session, lks_evaluator_layout(*out));
}

lks_status lks_evaluate(const lks_inference_request *request, lks_evaluation *out)
{
    lks_session session;
    lks_evaluator *evaluator = NULL;
    LKS_TRY(lks_session_init(&session, request));
    lks_status status = lks_comm_agree(request->comm, evaluate_open(&session, &evaluator));
    if (status == LKS_OK)
        status = lks_evaluator_run(evaluator, &session.parameters, out);
    if (status == LKS_OK)
        out->step = lks_checkpoint_step(session.checkpoint);
    lks_evaluator_close(evaluator);
    lks_session_release(&session);
    return status;
}

/* Text and predictions are rank 0's work; the others agree on how it ended. */
typedef struct generate_work {
    lks_session *session;
    const char *prompt;
    const lks_sampling *sampling;
    lks_sink sink;
    void *user;
} generate_work;

static lks_status generate_on_root(void *user)
{
    generate_work *w = user;
    lks_predictor predictor;
    LKS_TRY(lks_predictor_init(&predictor, w->session, 1));
    lks_status status;
    if (predictor.schema.kind != LKS_DATA_TEXT)
        status = LKS_FAIL(LKS_ERR_USAGE, "model %s does not write text: see lockstep predict",
                          lks_model_name(w->session->experiment.model));
    else
        status = lks_generate_text(&predictor, w->prompt, strlen(w->prompt), w->sampling, 0,
                                   w->sink, w->user);
    lks_predictor_release(&predictor);
    return status;
}

lks_status lks_generate(const lks_inference_request *request, const char *prompt,
                        const lks_sampling *sampling, lks_sink sink, void *user)
{
    lks_session session;
    LKS_TRY(lks_session_init(&session, request));
    generate_work work = {&session, prompt, sampling, sink, user};
    lks_status status = lks_comm_on_root(request->comm, generate_on_root, &work);
    lks_session_release(&session);
    return status;
}

static lks_status predict_on_root(void *user)
{
    return lks_predict_records(user);
}

lks_status lks_predict(const lks_inference_request *request, const char *input, bool csv,
                       const lks_sampling *sampling, lks_sink sink, void *user)
{
    lks_session session;
    LKS_TRY(lks_session_init(&session, request));
    lks_predict_spec spec = {&session, input, csv, sampling, sink, user};
    lks_status status = lks_comm_on_root(request->comm, predict_on_root, &spec);
    lks_session_release(&session);
    return status;
}
