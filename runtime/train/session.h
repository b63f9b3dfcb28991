/* A trained model brought back: configuration and parameters of a checkpoint. */
#ifndef LKS_TRAIN_SESSION_H
#define LKS_TRAIN_SESSION_H

#include "checkpoints/checkpoint.h"
#include "runtime/datasets/manifest.h"
#include "runtime/train/evaluate.h"
#include "runtime/train/experiment.h"
#include "runtime/train/geometry.h"
#include "runtime/train/replica.h"
#include "runtime/train/train.h"

typedef struct lks_session {
    lks_comm *comm;
    lks_config *config;
    lks_experiment experiment;
    lks_device *device;
    lks_checkpoint *checkpoint;
    lks_parameters parameters; /* NULL until loaded */
    float *masters;            /* what they are */
    uint16_t *rounded;
    size_t masters_bytes, rounded_bytes;
} lks_session;

/* (collective) Starts from {0}. */
lks_status lks_session_init(lks_session *session,
                            const lks_inference_request *request) LKS_MUST_CHECK;
void lks_session_release(lks_session *session);
/* Reads all parameters and buffers, for a graph of this layout. Not collective. */
lks_status lks_session_load(lks_session *session, const lks_layout *layout) LKS_MUST_CHECK;

/* The model ready to predict, on one rank alone. */
typedef struct lks_predictor {
    lks_manifest *manifest; /* of the data it learned from */
    lks_schema schema;
    lks_field fields[LKS_SCHEMA_FIELDS];
    lks_replica replica;
    int64_t batch;
    void *input; /* device memory of the first field, batch samples */
    size_t input_bytes;
    float *output; /* host memory, as large as the largest output so far */
    size_t output_capacity;
    lks_session *session;
} lks_predictor;

/* Starts from {0}. Needs the run directory that the checkpoint lies in. Not collective. */
lks_status lks_predictor_init(lks_predictor *predictor, lks_session *session,
                              int64_t batch) LKS_MUST_CHECK;
void lks_predictor_release(lks_predictor *predictor);
/* Runs a batch of the first field (host memory, `batch` samples). *out is on the host, [batch, ...shape], valid
 * until the next run. */
lks_status lks_predictor_run(lks_predictor *predictor, const void *input, const char *output,
                             const float **out, lks_shape *shape) LKS_MUST_CHECK;

#endif
