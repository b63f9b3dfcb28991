/* Training, evaluation and inference: the verbs that the launcher calls.
 *
 * Every function here is collective: each rank of the communicator calls it with
 * equal arguments.
 */
#ifndef LKS_TRAIN_TRAIN_H
#define LKS_TRAIN_TRAIN_H

#include "collectives/comm.h"
#include "runtime/base/config.h"
#include "runtime/train/notice.h"

#include <signal.h>
#include <stdbool.h>
#include <stdint.h>

typedef enum lks_resume { LKS_RESUME_AUTO, LKS_RESUME_MUST, LKS_RESUME_NEVER } lks_resume;

typedef struct lks_train_request {
    lks_comm *comm;
    lks_config *config;        /* read, not yet bound */
    const char *run_directory; /* made when missing */
    lks_resume resume;
    bool take_over; /* whoever holds the run directory is gone or cut off: fence it */
    const volatile sig_atomic_t *notice; /* set by a signal handler: save and stop */
    const lks_notice_watch *watch;       /* other notices; NULL: none */
    bool profile; /* print where the time of rank 0's steps went, but for the first two */
} lks_train_request;

/* LKS_OK: all steps done. LKS_STOPPED: a notice came and the state is saved.
 * *alone is set when this rank failed without the others knowing: the caller must
 * then end the job with lks_comm_abort, and release nothing of the request before, since
 * threads that write a checkpoint may use it until then. */
lks_status lks_train(const lks_train_request *request, bool *alone) LKS_MUST_CHECK;

/* Binds every section of the configuration and refuses what is unknown, so that it
 * can be printed. */
lks_status lks_train_check_config(lks_config *config) LKS_MUST_CHECK;

/* What evaluate, generate and predict work on. */
typedef struct lks_inference_request {
    lks_comm *comm;
    const char *path;               /* a run directory or a checkpoint */
    bool best;                      /* the checkpoint of the lowest validation loss */
    const char *const *assignments; /* --set key=value */
    int assignment_count;
} lks_inference_request;

typedef struct lks_evaluation {
    uint64_t step;
    double loss;
    double accuracy; /* NaN where there are no classes */
    uint64_t samples, targets;
    double seconds;
} lks_evaluation;

/* The loss over data.validation. */
lks_status lks_evaluate(const lks_inference_request *request, lks_evaluation *out) LKS_MUST_CHECK;

/* Where generated and predicted text goes; called on rank 0. */
typedef lks_status (*lks_sink)(void *user, const char *data, size_t bytes);

typedef struct lks_sampling {
    int64_t tokens;     /* to generate */
    double temperature; /* 0: the likeliest token */
    int64_t top_k;      /* 0: all */
    uint64_t seed;
} lks_sampling;

/* Continues `prompt` (bytes; "" starts from a newline); the continuation goes to
 * the sink as it is made. */
lks_status lks_generate(const lks_inference_request *request, const char *prompt,
                        const lks_sampling *sampling, lks_sink sink, void *user) LKS_MUST_CHECK;

/* A class, a number or a continuation for each record of `input` (a CSV, an IDX
 * file, text with a prompt a line), as JSON lines or CSV. */
lks_status lks_predict(const lks_inference_request *request, const char *input, bool csv,
                       const lks_sampling *sampling, lks_sink sink, void *user) LKS_MUST_CHECK;

#endif
