/* Finding a checkpoint once for all ranks. */
#ifndef LKS_TRAIN_FIND_H
#define LKS_TRAIN_FIND_H

#include "checkpoints/checkpoint.h"

typedef struct lks_find {
    const char *path; /* a checkpoint or a run directory */
    lks_checkpoint_check check;
    bool set_aside, best; /* as for lks_checkpoint_find */
} lks_find;

/* (collective) *found: its path, the same on every rank, freed with free(); NULL when there is none. */
lks_status lks_find_checkpoint(lks_comm *comm, const lks_find *find, char **found) LKS_MUST_CHECK;

/* LKS_ERR_USAGE: there is none at `path`. */
lks_status lks_find_fail(const char *path) LKS_MUST_CHECK;

#endif
