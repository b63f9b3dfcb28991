/* Checkpoints: HDF5 state with a manifest. README.md has the format.
 *
 * A save is started at a step boundary and goes on while training does: this
 * rank's blocks are copied to staging, a writer thread hashes, writes and fsyncs
 * them, lks_checkpoint_progress lets the ranks agree and commits. No MPI and no
 * HDF5 call happens off the main thread.
 */
#ifndef LKS_CHECKPOINTS_CHECKPOINT_H
#define LKS_CHECKPOINTS_CHECKPOINT_H

#include "collectives/comm.h"
#include "runtime/base/layout.h"
#include "runtime/base/status.h"
#include "runtime/base/text.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* --- The state --------------------------------------------------------------- */

/* One flat array with the model's layout: the parameters, or one optimizer state. */
typedef struct lks_state_array {
    const char *group;    /* "model" or "optimizer/<state>", e.g. "optimizer/m" */
    float *data;          /* own blocks; see base_block */
    bool parameters_only; /* no entry for buffers (optimizer states) */
    uint64_t
        base_offset; /* flat offset of data[0]: 0 for a whole array, the first own block's for a slice */
} lks_state_array;

/* What is saved with it, in the manifest and in the file's attributes. */
typedef struct lks_checkpoint_info {
    uint64_t step;
    const char *run_id;
    const char *config_yaml;
    const json_t *config_json;     /* as lks_config_to_json gives */
    const char *model_fingerprint; /* 64 hex digits */
    const char *dataset_digest;    /* 64 hex digits */
    const char *arithmetic;
    uint64_t position; /* samples consumed: step * G */
    uint64_t seed;
    double validation_loss; /* NaN: none was taken at this step */
    const char *ledger;     /* 64 hex digits: chain over all sample ids so far; NULL: not known */
    uint64_t epoch;         /* of the start that saves it, see run.json; 0: not known */
} lks_checkpoint_info;

/* --- Saving ------------------------------------------------------------------- */

typedef struct lks_checkpoints lks_checkpoints;

typedef struct lks_checkpoints_spec {
    const char *run_directory;
    const lks_layout *layout;
    const lks_state_array *arrays; /* data pointers may be NULL here; shapes decide staging */
    int array_count;
    uint32_t first_block, end_block; /* own blocks */
    int buffers;                     /* snapshots that staging holds: 1 or 2 */
    int keep;                        /* newest k stay, >= 1 */
    bool keep_best;                  /* and the one of the lowest validation loss */
    lks_comm *comm;
    /* Asked by rank 0's writer thread when all is written: a failure gives the save up. NULL: always. */
    lks_status (*may_commit)(const void *user);
    const void *user;
} lks_checkpoints_spec;

/* What a save does when staging is full: of two buffers one is being written and the other waits for it. */
typedef enum lks_checkpoint_when_busy {
    LKS_CHECKPOINT_SKIP, /* is left out, with a warning */
    LKS_CHECKPOINT_WAIT, /* waits for a buffer */
    LKS_CHECKPOINT_REPLACE, /* takes the place of the one that waits, which is left out; waits where none does */
} lks_checkpoint_when_busy;

/* (collective) Makes <run>/checkpoints, removes what a dead save left behind, starts the writer thread. */
lks_status lks_checkpoints_open(lks_checkpoints **out,
                                const lks_checkpoints_spec *spec) LKS_MUST_CHECK;
void lks_checkpoints_close(
    lks_checkpoints *checkpoints); /* (collective) waits for a save; NULL is fine */

/* Before the first save, not collective: makes what all saves of this job have in common (the file without data), so that
 * the first takes no longer than the others. After a failure the save does it, and tells. */
lks_status lks_checkpoints_prepare(lks_checkpoints *checkpoints,
                                   const lks_checkpoint_info *info) LKS_MUST_CHECK;

/* (collective) Copies own blocks of `arrays` (order and groups as in the spec) to staging and returns; its
 * writing starts at once, or when the save before it has ended. `busy`: the same on all ranks.
 * *stall_seconds is all that the caller waited, copy included. It is not committed before the next progress or
 * finish: what the caller writes until then is there when `may_commit` is asked. A save that fails is
 * not the training's failure: it is warned of, once, and given up. */
lks_status lks_checkpoints_save(lks_checkpoints *checkpoints, const lks_state_array *arrays,
                                const lks_checkpoint_info *info, lks_checkpoint_when_busy busy,
                                double *stall_seconds) LKS_MUST_CHECK;
/* (collective) Once a step: agreement and commit when all writers are done; the next save's start. */
lks_status lks_checkpoints_progress(lks_checkpoints *checkpoints) LKS_MUST_CHECK;
/* (collective) Until nothing is under way and nothing waits. *saved: the last save was committed. */
lks_status lks_checkpoints_finish(lks_checkpoints *checkpoints, bool *saved) LKS_MUST_CHECK;

typedef struct lks_checkpoints_stats {
    uint64_t saved, failed, skipped;
    uint64_t last_step;        /* of the last committed save */
    double last_write_seconds; /* from the writing's start to commit */
    uint64_t last_bytes;
    double running_seconds; /* of the save under way, 0: none */
    uint64_t staging_bytes; /* of this rank, all buffers */
    int buffers;
    /* Of this rank's saves that were not left out: in all, the copies into staging and what the caller waited. */
    double copy_seconds, stall_seconds;
    uint64_t taken; /* those copies */
} lks_checkpoints_stats;
lks_checkpoints_stats lks_checkpoints_get_stats(const lks_checkpoints *checkpoints);

/* --- Reading ------------------------------------------------------------------ */

typedef struct lks_checkpoint lks_checkpoint; /* an opened one */

typedef enum lks_checkpoint_check {
    LKS_CHECK_MANIFEST, /* manifest, sizes, the file's structure */
    LKS_CHECK_ALL,      /* and every block's hash */
} lks_checkpoint_check;

/* Opens a checkpoint directory. LKS_ERR_CORRUPT names what does not hold; LKS_ERR_USAGE: not a
 * checkpoint at all. Not collective. */
lks_status lks_checkpoint_open(lks_checkpoint **out, const char *path,
                               lks_checkpoint_check check) LKS_MUST_CHECK;
void lks_checkpoint_close(lks_checkpoint *checkpoint); /* NULL is fine */
const char *lks_checkpoint_path(const lks_checkpoint *checkpoint);
uint64_t lks_checkpoint_step(const lks_checkpoint *checkpoint);
const json_t *lks_checkpoint_manifest(const lks_checkpoint *checkpoint);
const lks_layout *lks_checkpoint_layout(const lks_checkpoint *checkpoint); /* as recorded */
/* Reads blocks [first, end) of a group into data (flat, data[0] at flat offset
 * base_offset), verifying each block's hash. The layout must equal `layout` (fingerprint). */
lks_status lks_checkpoint_read(lks_checkpoint *checkpoint, const lks_layout *layout,
                               const lks_state_array *array, uint32_t first_block,
                               uint32_t end_block) LKS_MUST_CHECK;

/* `path` is a checkpoint, a run directory, or its checkpoints directory: the newest that verifies. Bad ones
 * are warned of and passed over; with `set_aside` they are renamed to <name>.bad once one that holds is
 * found. *out NULL and LKS_OK: there is no checkpoint at all, or no such directory. Checkpoints but none
 * valid, or one of a newer version on the way: LKS_ERR_CORRUPT. `best`: the lowest validation loss
 * instead of the newest. */
lks_status lks_checkpoint_find(lks_checkpoint **out, const char *path, lks_checkpoint_check check,
                               bool set_aside, bool best) LKS_MUST_CHECK;

/* SHA-256 over (name, dtype, shape, data) in byte order of names: model (parameters and buffers), then
 * optimizer states. README.md has the exact bytes. */
lks_status lks_checkpoint_digest(lks_checkpoint *checkpoint, char hex[65]) LKS_MUST_CHECK;

/* The checkpoints of a run directory, oldest first, or the one at `path`; none where there is
 * neither. `valid` by LKS_CHECK_MANIFEST; the step of one that is not and stands alone is 0. */
typedef struct lks_checkpoint_entry {
    char *path;
    uint64_t step;
    bool valid;
    char *problem;
    uint64_t bytes;
    double validation_loss;
} lks_checkpoint_entry;
lks_status lks_checkpoint_list(const char *path, lks_checkpoint_entry **out,
                               size_t *count) LKS_MUST_CHECK;
void lks_checkpoint_list_free(lks_checkpoint_entry *entries, size_t count);

/* What `verify` found, for programs. */
typedef enum lks_checkpoint_code {
    LKS_CHECKPOINT_OK,
    LKS_CHECKPOINT_TRUNCATED,         /* the state file is shorter than recorded */
    LKS_CHECKPOINT_ZERO_FILLED,       /* a block is a hole or all zeros, and should not be */
    LKS_CHECKPOINT_BIT_FLIP,          /* bytes are not those that were written */
    LKS_CHECKPOINT_NO_MANIFEST,       /* the save was never committed */
    LKS_CHECKPOINT_MANIFEST_MISMATCH, /* manifest and file disagree */
    LKS_CHECKPOINT_MISSING_TENSOR,
    LKS_CHECKPOINT_EXTRA_TENSOR,
    LKS_CHECKPOINT_WRONG_MODEL, /* whole, but of another model than was expected */
    LKS_CHECKPOINT_WRONG_DATASET,
    LKS_CHECKPOINT_NOT_FINITE, /* whole and verified, but it holds NaN or infinity */
    LKS_CHECKPOINT_NEWER_VERSION,
    LKS_CHECKPOINT_UNREADABLE, /* not JSON, not HDF5, or an I/O error */
} lks_checkpoint_code;
const char *lks_checkpoint_code_name(lks_checkpoint_code code); /* "bit_flip" */

/* What a checkpoint should be of. */
typedef struct lks_checkpoint_expectation {
    const char *source;            /* that says so: a file's name */
    const char *model_fingerprint; /* NULL: any */
    const lks_layout *layout;      /* of that model, to name what differs; NULL: not known */
    const char *dataset_digest;    /* NULL: any */
} lks_checkpoint_expectation;

/* Checks everything, numbers included, of the checkpoint directory `path`: *out is {"path", "valid",
 * "code", "message"}. LKS_OK whatever was found; LKS_ERR_USAGE: not a checkpoint at all. With code
 * not_finite `valid` is true: the file is as it was written. `expected`: NULL: any. */
lks_status lks_checkpoint_check_report(const char *path, const lks_checkpoint_expectation *expected,
                                       json_t **out) LKS_MUST_CHECK;

/* Compares two; one line per difference into `out`, and the JSON twin into *json (NULL: not wanted). *equal. */
lks_status lks_checkpoint_diff(lks_checkpoint *a, lks_checkpoint *b, lks_text *out, json_t **json,
                               bool *equal) LKS_MUST_CHECK;

#endif
