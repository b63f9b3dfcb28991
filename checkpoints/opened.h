/* An opened checkpoint, as the files of checkpoints/ that read see it. */
#ifndef LKS_CHECKPOINTS_OPENED_H
#define LKS_CHECKPOINTS_OPENED_H

#include "checkpoints/checkpoint.h"
#include "checkpoints/manifest.h"

struct lks_checkpoint {
    char *path;
    char *state_path;
    lks_checkpoint_manifest_data manifest;
    int file;     /* -1: not open */
    float *block; /* [LKS_BLOCK_ELEMENTS] */
};

/* As lks_checkpoint_open. *code tells why not. */
lks_status lks_checkpoint_open_coded(lks_checkpoint **out, const char *path,
                                     lks_checkpoint_check check,
                                     lks_checkpoint_code *code) LKS_MUST_CHECK;
/* LKS_ERR_USAGE names the first difference of the two layouts. */
lks_status lks_checkpoint_check_layout(const lks_checkpoint *checkpoint,
                                       const lks_layout *wanted) LKS_MUST_CHECK;
/* Into checkpoint->block, verified. */
lks_status lks_checkpoint_read_block(lks_checkpoint *checkpoint, int group, uint32_t block,
                                     lks_checkpoint_code *code) LKS_MUST_CHECK;
/* Calls `visit` with each block in turn, in checkpoint->block. */
lks_status lks_checkpoint_each_block(lks_checkpoint *checkpoint, lks_checkpoint_code *code,
                                     lks_status (*visit)(lks_checkpoint *checkpoint, int group,
                                                         uint32_t block, void *user),
                                     void *user) LKS_MUST_CHECK;

/* Whether a directory looks like a checkpoint, good or bad. */
bool lks_checkpoint_is_one(const char *path);
/* The checkpoints directory of a run directory, or the path itself where it is one; free(). LKS_OK and NULL:
 * there is none. */
lks_status lks_checkpoint_directory_of(const char *path, char **out) LKS_MUST_CHECK;

#endif
