/* Where each tensor lies in a state file, and what its blocks hash to. */
#ifndef LKS_CHECKPOINTS_STATE_MAP_H
#define LKS_CHECKPOINTS_STATE_MAP_H

#include "runtime/base/hash.h"
#include "runtime/base/layout.h"

typedef struct lks_state_group {
    char *name; /* "model", "optimizer/m" */
    bool parameters_only;
    uint64_t *offsets; /* [tensor_count] bytes from the start of the file */
    uint64_t *hashes;  /* [block_count] XXH3 of the little-endian data */
} lks_state_group;

typedef struct lks_state_map {
    const lks_layout *layout; /* not owned */
    lks_state_group *groups;
    int group_count;
    uint64_t file_bytes;
    char metadata[LKS_SHA256_HEX]; /* of all bytes that are no tensor's */
} lks_state_map;

lks_status lks_state_map_init(lks_state_map *map, const lks_layout *layout,
                              int group_count) LKS_MUST_CHECK;
void lks_state_map_release(lks_state_map *map);
lks_status lks_state_map_name(lks_state_map *map, int group, const char *name,
                              bool parameters_only) LKS_MUST_CHECK;
/* Whether HDF5 can hold these names: else LKS_ERR_USAGE for a tensor's, LKS_ERR_INTERNAL for a group's. */
lks_status lks_state_map_check_names(const lks_state_map *map) LKS_MUST_CHECK;
/* -1: no such group. */
int lks_state_map_find(const lks_state_map *map, const char *group);

/* Whether the group holds that tensor. */
bool lks_state_map_has(const lks_state_map *map, int group, uint32_t tensor);
uint64_t lks_state_map_block_offset(const lks_state_map *map, int group, uint32_t block);

/* SHA-256 over the block hashes, 8 little-endian bytes each: groups in order, tensors in declaration
 * order, blocks in order. */
lks_status lks_state_map_root(const lks_state_map *map, char hex[LKS_SHA256_HEX]) LKS_MUST_CHECK;

/* SHA-256 over the bytes of `file` that are no tensor's, in order. LKS_ERR_CORRUPT when tensors
 * overlap or lie beyond map->file_bytes. */
lks_status lks_state_map_hash_metadata(const lks_state_map *map, int file, const char *path,
                                       char hex[LKS_SHA256_HEX]) LKS_MUST_CHECK;

/* Copies those bytes from `image` to `file`. */
lks_status lks_state_map_copy_metadata(const lks_state_map *map, int image, int file,
                                       const char *path) LKS_MUST_CHECK;

/* Reads a block (data: LKS_BLOCK_ELEMENTS floats) and compares its hash. LKS_ERR_CORRUPT names file,
 * tensor, block, expected and found; *zeros (NULL: not wanted) tells then whether it is a hole or all zeros. */
lks_status lks_state_map_read_block(const lks_state_map *map, int group, uint32_t block, int file,
                                    const char *path, float *data, bool *zeros) LKS_MUST_CHECK;

#endif
