/* The checkpoints directory of a run: names, order, commit, retention, leftovers. */
#ifndef LKS_CHECKPOINTS_DIRECTORY_H
#define LKS_CHECKPOINTS_DIRECTORY_H

#include "runtime/base/status.h"
#include "runtime/base/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LKS_STEP_NAME = 64 }; /* bytes for any name below */

/* "step-00000100" */
const char *lks_step_name(char out[LKS_STEP_NAME], uint64_t step);
/* "step-00000100.partial-0123456789abcdef": a save that is not committed. */
const char *lks_step_partial_name(char out[LKS_STEP_NAME], uint64_t step, uint64_t nonce);
bool lks_step_parse(const char *name, uint64_t *step);
/* A number that no other save has. */
uint64_t lks_step_nonce(void);

/* Steps of the checkpoint directories in `directory`, whole or not, ascending; free(). */
lks_status lks_directory_steps(const char *directory, uint64_t **steps,
                               size_t *count) LKS_MUST_CHECK;
/* Removes what dead saves, removals and writes of LATEST have left. */
lks_status lks_directory_clean(const char *directory) LKS_MUST_CHECK;
/* Renames directory/partial to its step's name and makes that durable; one of that name is removed. On
 * failure `partial` has its old name again. */
lks_status lks_directory_commit(const char *directory, const char *partial,
                                uint64_t step) LKS_MUST_CHECK;
/* First to a name that is no checkpoint's, then away: a removal can be killed. */
lks_status lks_directory_remove(const char *directory, uint64_t step) LKS_MUST_CHECK;
/* To "<name>.bad", or .bad-2 and so on where that is taken, and says so. */
lks_status lks_directory_set_aside(const char *path) LKS_MUST_CHECK;
/* Keeps `committed`, the newest `keep` of the steps up to it and, with `best`, the one of the lowest
 * validation loss; removes the other steps below it. */
lks_status lks_directory_retain(const char *directory, uint64_t committed, int keep,
                                bool best) LKS_MUST_CHECK;

#endif
