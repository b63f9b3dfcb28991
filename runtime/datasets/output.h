/* The output directory of prepare: built aside, put in place whole, or not at all. */
#ifndef LKS_DATASETS_OUTPUT_H
#define LKS_DATASETS_OUTPUT_H

#include "runtime/base/status.h"
#include "runtime/datasets/parallel.h"

#include <stdbool.h>

typedef struct lks_output {
    char *path;    /* without trailing slashes */
    char *partial; /* <path>.partial-<pid of rank 0>[-n], where everything is written */
    char *parent;  /* the topmost parent that had to be made, NULL: none */
    bool force;
    bool root; /* this rank makes and removes */
} lks_output;

/* Collective. Refuses a path that exists (LKS_ERR_USAGE) unless `force` and it holds nothing but a
 * dataset, and makes the partial directory. Release in either case. */
lks_status lks_output_begin(lks_output *output, const char *path, bool force,
                            const lks_parallel *parallel) LKS_MUST_CHECK;
/* Root only. Renames the partial directory to its place, replacing a dataset that is there. */
lks_status lks_output_commit(lks_output *output) LKS_MUST_CHECK;
/* Root removes what was made; the others do nothing. Keeps the status message. */
void lks_output_discard(lks_output *output);
void lks_output_release(lks_output *output);

#endif
