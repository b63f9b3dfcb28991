/* manifest.json: what a checkpoint is, and the hashes of all its bytes. Its presence makes a directory a
 * checkpoint. README.md has the keys. */
#ifndef LKS_CHECKPOINTS_MANIFEST_H
#define LKS_CHECKPOINTS_MANIFEST_H

#include "checkpoints/checkpoint.h"
#include "checkpoints/state_map.h"

#define LKS_MANIFEST_NAME "manifest.json"
#define LKS_STATE_NAME "state.h5"
#define LKS_MANIFEST_FORMAT "lockstep-checkpoint"
/* How the file ends: with the SHA-256 of all lines above. */
#define LKS_MANIFEST_SEAL " \"seal\": \"%s\"\n}\n"
enum { LKS_MANIFEST_SEAL_BYTES = 10 + 64 + 4 };

/* The part known when a save starts; everything is copied. */
lks_status lks_checkpoint_manifest_begin(json_t **out, const lks_checkpoint_info *info,
                                         const lks_layout *layout, int world_size) LKS_MUST_CHECK;
/* Adds offsets, sizes and hashes of `map`, and writes `path` atomically. */
lks_status lks_checkpoint_manifest_write(json_t *manifest, const lks_state_map *map,
                                         const char *path) LKS_MUST_CHECK;

typedef struct lks_checkpoint_manifest_data {
    json_t *json;
    lks_checkpoint_info info; /* texts live in json */
    lks_layout *layout;
    lks_state_map map;
} lks_checkpoint_manifest_data;

/* LKS_ERR_CORRUPT (with *code), LKS_ERR_IO. A manifest of something else is LKS_ERR_USAGE. */
lks_status lks_checkpoint_manifest_read(lks_checkpoint_manifest_data *out, const char *path,
                                        lks_checkpoint_code *code) LKS_MUST_CHECK;
void lks_checkpoint_manifest_release(lks_checkpoint_manifest_data *manifest);

/* NaN when there is none, or no readable manifest. */
double lks_checkpoint_manifest_validation_loss(const char *path);

#endif
