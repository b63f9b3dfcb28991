/* Who may write to a run directory: the lock, and the fence for where a lock does not reach.
 *
 * Each start raises the epoch in run.json. One that finds a newer there writes nothing more: it was cut off,
 * frozen, or on a file system without locks, and another has gone on without it. No clock is asked.
 */
#ifndef LKS_TRAIN_RUN_OWNER_H
#define LKS_TRAIN_RUN_OWNER_H

#include "runtime/base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/stat.h>

enum { LKS_RUN_ID_SIZE = 17 }; /* 16 hex digits and NUL */
void lks_run_new_id(char id[LKS_RUN_ID_SIZE]);

/* <directory>/lock, for as long as the descriptor is open; it dies with its process. LKS_ERR_USAGE: another has it.
 * With `take_over` that one is believed to be gone or cut off: it keeps a file that has no name any more. */
lks_status lks_run_lock(const char *directory, bool take_over, int *lock) LKS_MUST_CHECK;

/* Nobody has taken it over. */
bool lks_run_lock_is_held(const char *directory, int lock);

/* As run.json says; epoch 0 where an older lockstep wrote it. */
typedef struct lks_run_owner {
    uint64_t epoch;
    char start[LKS_RUN_ID_SIZE], host[256];
} lks_run_owner;
lks_run_owner lks_run_owner_of(const json_t *json);
/* *info: of the file at `path`, or of the one before it; `owner` NULL: not wanted. */
lks_status lks_run_owner_read(const char *path, struct stat *info,
                              lks_run_owner *owner) LKS_MUST_CHECK;
/* LKS_ERR_USAGE: fenced. */
lks_status lks_run_owner_fail(const char *path, const lks_run_owner *owner) LKS_MUST_CHECK;

#endif
