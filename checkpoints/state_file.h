/* The HDF5 side of a state file: making one without data, and comparing one's structure with the
 * manifest. All HDF5 calls of checkpoints/ are here; main thread only. */
#ifndef LKS_CHECKPOINTS_STATE_FILE_H
#define LKS_CHECKPOINTS_STATE_FILE_H

#include "checkpoints/checkpoint.h"
#include "checkpoints/state_map.h"

enum { LKS_CHECKPOINT_FORMAT = 1 };
#define LKS_CHECKPOINT_BLOCK_HASH "xxh3-64"

/* Makes a state file with all datasets but no data in anonymous memory (a sparse file of which only what lies between
 * the tensors takes space), and fills map->groups[].offsets, map->file_bytes and map->metadata. *image is a file
 * descriptor to be closed. */
lks_status lks_state_image_create(int *image, const lks_checkpoint_info *info,
                                  lks_state_map *map) LKS_MUST_CHECK;

/* Makes an image that of another step: info differs from the one it was created with in step, position and
 * ledger alone. Much quicker than another image. */
lks_status lks_state_image_update(int image, const lks_checkpoint_info *info,
                                  lks_state_map *map) LKS_MUST_CHECK;

/* LKS_ERR_CORRUPT when tensors, shapes, types, offsets or attributes are not those of `map` and `info`;
 * *code says which kind. */
lks_status lks_state_file_inspect(const char *path, const lks_checkpoint_info *info,
                                  const lks_state_map *map,
                                  lks_checkpoint_code *code) LKS_MUST_CHECK;

/* The same in a child process with a time limit: for a file whose bytes are known to be damaged, which
 * HDF5 may not survive. */
lks_status lks_state_file_inspect_apart(const char *path, const lks_checkpoint_info *info,
                                        const lks_state_map *map,
                                        lks_checkpoint_code *code) LKS_MUST_CHECK;

#endif
