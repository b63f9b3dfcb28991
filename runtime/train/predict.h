/* Answers for the records of a file. */
#ifndef LKS_TRAIN_PREDICT_H
#define LKS_TRAIN_PREDICT_H

#include "runtime/train/session.h"

typedef struct lks_predict_spec {
    lks_session *session;
    const char *input;
    bool csv;
    const lks_sampling *sampling; /* for text */
    lks_sink sink;
    void *user;
} lks_predict_spec;

/* One line a record: index and class, number or continuation. Not collective. */
lks_status lks_predict_records(const lks_predict_spec *spec) LKS_MUST_CHECK;

#endif
