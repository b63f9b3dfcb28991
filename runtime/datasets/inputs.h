/* The input files of prepare: paths given by a user, directories replaced by their files. */
#ifndef LKS_DATASETS_INPUTS_H
#define LKS_DATASETS_INPUTS_H

#include "runtime/base/status.h"
#include "runtime/datasets/parallel.h"

#include <jansson.h>
#include <stddef.h>
#include <stdint.h>

struct lks_arena;

typedef struct lks_input {
    const char *path;
    const char *name; /* without the directory that the user named: for provenance */
    uint64_t bytes;   /* >= 1 */
} lks_input;

typedef struct lks_inputs {
    lks_input *files;
    size_t count, capacity;
    struct lks_arena *arena; /* owns the texts */
} lks_inputs;

/* Directories are walked in byte order of names; hidden files are left out, links to
 * directories are not followed. A missing path or a directory without files is LKS_ERR_USAGE, an
 * empty file LKS_ERR_CORRUPT. Release in either case. */
lks_status lks_inputs_resolve(lks_inputs *inputs, const char *const *paths,
                              int count) LKS_MUST_CHECK;
void lks_inputs_release(lks_inputs *inputs);

/* Collective. [{"name", "bytes", "sha256"}, ...]; the ranks share out the hashing. */
lks_status lks_inputs_describe(const lks_inputs *inputs, const lks_parallel *parallel,
                               json_t **out) LKS_MUST_CHECK;

#endif
