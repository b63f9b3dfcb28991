/* The run directory: who the job is, and that nobody else works on it.
 *
 * Only rank 0 opens it. README.md lists its files.
 */
#ifndef LKS_TRAIN_RUN_DIRECTORY_H
#define LKS_TRAIN_RUN_DIRECTORY_H

#include "runtime/datasets/dataset.h"
#include "runtime/datasets/order.h"
#include "runtime/train/experiment.h"
#include "runtime/train/run_owner.h"
#include "runtime/train/train.h"

typedef struct lks_run_directory {
    const char *path;
    int lock;     /* file descriptor, -1: none */
    json_t *json; /* run.json; NULL: a new job */
    char id[LKS_RUN_ID_SIZE];
    char start[LKS_RUN_ID_SIZE]; /* of this start alone */
    uint64_t epoch;              /* of this start, from record on; before: of the last one */
    struct stat written;         /* run.json as this start wrote it */
    bool made;                   /* the directory, by this start */
} lks_run_directory;

/* What makes the job the job it is. */
typedef struct lks_run_identity {
    const lks_config *config;
    const lks_dataset *data;
    const char *fingerprint; /* of the model's layout */
    const char *arithmetic;
    const char *host;       /* of rank 0 */
    const lks_order *order; /* of the samples */
    int64_t global_batch;
    int lanes, world_size;
} lks_run_identity;

/* Makes the directory and locks it; LKS_ERR_USAGE, with nothing made, when it is something else's
 * directory or holds no job and `resume` says that it must; LKS_ERR_USAGE when another job holds
 * it. Starts from {0}. */
lks_status lks_run_directory_open(lks_run_directory *run, const char *path, lks_resume resume,
                                  bool take_over) LKS_MUST_CHECK;
/* A start that made the directory and ends before it is recorded leaves nothing of it. */
void lks_run_directory_close(lks_run_directory *run);

/* An existing job: refuses (LKS_ERR_USAGE) another model, other data or a changed fixed option, logs changed
 * scheduled ones. A new job: nothing. */
lks_status lks_run_directory_check(const lks_run_directory *run, const lks_run_identity *identity,
                                   lks_resume resume) LKS_MUST_CHECK;

/* Records this start: run.json with the next epoch, config.yaml, dataset/manifest.json. LKS_ERR_USAGE when
 * another start has done so since open. */
lks_status lks_run_directory_record(lks_run_directory *run, const lks_run_identity *identity,
                                    uint64_t first_step) LKS_MUST_CHECK;

/* LKS_ERR_USAGE when a newer start owns the directory: a lock does not reach every file system. Quick, to be
 * asked before each write; thread-safe after record. */
lks_status lks_run_directory_guard(const lks_run_directory *run) LKS_MUST_CHECK;

#endif
