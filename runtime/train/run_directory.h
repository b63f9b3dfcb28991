/* The run directory: who the job is, and that nobody else works on it.
 *
 * Only rank 0 opens it. README.md lists its files.
 */
#ifndef LKS_TRAIN_RUN_DIRECTORY_H
#define LKS_TRAIN_RUN_DIRECTORY_H

#include "runtime/datasets/dataset.h"
#include "runtime/train/experiment.h"
#include "runtime/train/train.h"

#include <jansson.h>

enum { LKS_RUN_ID_SIZE = 17 }; /* 16 hex digits and NUL */

typedef struct lks_run_directory {
    const char *path;
    int lock;     /* file descriptor, -1: none */
    json_t *json; /* run.json; NULL: a new job */
    char id[LKS_RUN_ID_SIZE];
} lks_run_directory;

/* What makes the job the job it is. */
typedef struct lks_run_identity {
    const lks_config *config;
    const lks_dataset *data;
    const char *fingerprint; /* of the model's layout */
    const char *arithmetic;
    int lanes, world_size;
} lks_run_identity;

/* Makes the directory and locks it; LKS_ERR_USAGE, with nothing made, when it is something else's
 * directory or holds no job and `resume` says that it must; LKS_ERR_USAGE when another job holds
 * it. Starts from {0}. */
lks_status lks_run_directory_open(lks_run_directory *run, const char *path,
                                  lks_resume resume) LKS_MUST_CHECK;
void lks_run_directory_close(lks_run_directory *run);

/* An existing job: refuses (LKS_ERR_USAGE) another model, other data or a changed fixed option, logs changed
 * scheduled ones. A new job: nothing. */
lks_status lks_run_directory_check(const lks_run_directory *run, const lks_run_identity *identity,
                                   lks_resume resume) LKS_MUST_CHECK;

/* Records this start: run.json, config.yaml, dataset/manifest.json. */
lks_status lks_run_directory_record(lks_run_directory *run, const lks_run_identity *identity,
                                    uint64_t first_step) LKS_MUST_CHECK;

#endif
