/* One file of node memory: a rank's blocks of all groups at one step.
 *
 *     header | hash of each block, [groups][blocks] | data, [groups][span]     each part on its own pages
 */
#ifndef LKS_CHECKPOINTS_MEMORY_FILE_H
#define LKS_CHECKPOINTS_MEMORY_FILE_H

#include "checkpoints/memory.h"

enum { LKS_MEMORY_VERSION = 1, LKS_MEMORY_PAGE = 4096 };

typedef struct lks_memory_header {
    char magic[8]; /* "LKSCOPY" */
    uint32_t version, world_size, rank;
    uint32_t first_block, end_block, block_count, group_count;
    uint32_t reserved;
    uint64_t file_bytes, step;
    uint64_t start; /* a number of the start of the job that made it, the same on all ranks */
    uint64_t seed, run_hash, groups_hash;
    char run_id[24], model_fingerprint[72], dataset_digest[72];
    char arithmetic[256], note[LKS_MEMORY_NOTE];
    uint64_t table_hash;  /* XXH3 of the hashes */
    uint64_t header_hash; /* XXH3 of all above */
} lks_memory_header;

/* What every copy of a run has in common. */
typedef struct lks_memory_identity {
    const lks_layout *layout;
    const lks_state_array *arrays; /* their groups */
    int group_count;
    lks_memory_header common; /* the fields that all of a run's copies share, the others 0 */
} lks_memory_identity;

/* Where things lie in the file of blocks [first, end). */
typedef struct lks_memory_shape {
    uint32_t first_block, end_block;
    uint64_t base;  /* flat offset of the first element */
    uint64_t span;  /* elements from the first to the last, per group */
    size_t data_at; /* byte offset */
    size_t bytes;
} lks_memory_shape;

void lks_memory_identity_init(lks_memory_identity *out, const lks_memory_spec *spec);
lks_memory_shape lks_memory_shape_of(const lks_memory_identity *identity, uint32_t first_block,
                                     uint32_t end_block);
/* [span] of a group. */
float *lks_memory_data(const lks_memory_shape *shape, void *map, int group);

/* Own blocks of `arrays` into `map`. */
void lks_memory_fill(const lks_memory_identity *identity, const lks_memory_shape *shape, void *map,
                     const lks_state_array *arrays);
/* Hashes the blocks, then writes the header: the first moment at which the file holds. */
void lks_memory_seal(const lks_memory_identity *identity, const lks_memory_shape *shape, void *map,
                     const lks_memory_header *header);

/* LKS_ERR_CORRUPT says what of `path` does not hold: the header and the table, or every block. */
lks_status lks_memory_check_header(const lks_memory_identity *identity, const void *map,
                                   size_t bytes, const char *path) LKS_MUST_CHECK;
lks_status lks_memory_check_data(const lks_memory_identity *identity, const void *map,
                                 const char *path) LKS_MUST_CHECK;

/* Maps a whole file to be read. */
lks_status lks_memory_map_file(const char *path, void **map, size_t *bytes) LKS_MUST_CHECK;
void lks_memory_unmap_file(void *map, size_t bytes); /* NULL is fine */

#endif
