/* The second copy: each rank's own blocks of the state at a step boundary, in node memory that outlives the
 * processes, and with several nodes also in the memory of the next one. README.md has the format.
 *
 * Nothing here can fail a training: what goes wrong is warned of, and the copy is given up.
 */
#ifndef LKS_CHECKPOINTS_MEMORY_H
#define LKS_CHECKPOINTS_MEMORY_H

#include "checkpoints/checkpoint.h"

enum { LKS_MEMORY_NOTE = 512 }; /* bytes, NUL included */

typedef struct lks_memory_copies lks_memory_copies;

/* Everything is copied but layout, arrays and comm, which must live longer. */
typedef struct lks_memory_spec {
    const char *directory;         /* memory of the node: "/dev/shm" */
    const char *run_directory;     /* absolute, the same text on every rank */
    const char *run_id;            /* 16 hex digits */
    const char *model_fingerprint; /* 64 hex digits */
    const char *dataset_digest;    /* 64 hex digits */
    const char *arithmetic;
    uint64_t seed;
    const lks_layout *layout;
    const lks_state_array *arrays; /* groups; the data pointers may be NULL here */
    int array_count;
    uint32_t first_block, end_block; /* own blocks */
    lks_comm *comm;
} lks_memory_spec;

/* (collective) Removes what dead runs left on this node, and looks for the newest step that the copies of this run
 * cover, on all nodes together, with hashes that hold. Nothing is reserved yet. */
lks_status lks_memory_copies_open(lks_memory_copies **out,
                                  const lks_memory_spec *spec) LKS_MUST_CHECK;
/* (collective) Leaves the copies where they are; NULL is fine. */
void lks_memory_copies_close(lks_memory_copies *copies);

typedef struct lks_memory_found {
    bool there; /* copies cover all blocks of `step` */
    uint64_t step;
    bool disk_is_newer; /* a checkpoint of a later step stands in the run directory, by its name */
    const char *note, *arithmetic; /* as given when the copy was taken */
    int files, nodes;              /* that hold a part of it */
} lks_memory_found;
lks_memory_found lks_memory_copies_find(const lks_memory_copies *copies);

/* (collective) Fills own blocks of `arrays` (order and groups as in the spec) with what was found, whatever
 * the world it was made in. On all ranks the same status; unless messages failed, a failure has changed nothing. */
lks_status lks_memory_copies_read(lks_memory_copies *copies,
                                  const lks_state_array *arrays) LKS_MUST_CHECK;

/* (collective) The job starts at a step that is settled: removes copies of this run, all but the one found when `resumed`
 * from it, which stays until a newer one is whole. */
lks_status lks_memory_copies_begin(lks_memory_copies *copies, bool resumed) LKS_MUST_CHECK;
/* (collective) After begin: makes room for two generations, the one that is kept included. Without this call, and
 * where there is no room (which is warned of), take does nothing. */
lks_status lks_memory_copies_reserve(lks_memory_copies *copies) LKS_MUST_CHECK;

/* (collective) Copies own blocks; hashing and sending go on beside the training. While the copy before is not
 * whole everywhere this one is skipped, with a warning. *seconds: the caller's time. `note`: a short text that
 * belongs to the step. */
lks_status lks_memory_copies_take(lks_memory_copies *copies, const lks_state_array *arrays,
                                  uint64_t step, const char *note, double *seconds) LKS_MUST_CHECK;
/* (collective) Once a step, with the number of steps done. */
lks_status lks_memory_copies_progress(lks_memory_copies *copies, uint64_t step) LKS_MUST_CHECK;
/* (collective) The job has ended and its state is on disk: nothing of it stays in memory. */
lks_status lks_memory_copies_discard(lks_memory_copies *copies) LKS_MUST_CHECK;

typedef struct lks_memory_stats {
    uint64_t whole, skipped, failed; /* copies */
    uint64_t last_step;              /* of the last whole one */
    uint64_t bytes;                  /* of node memory that this rank uses, all generations */
    double copy_seconds;             /* of the last, on the main thread */
} lks_memory_stats;
lks_memory_stats lks_memory_copies_get_stats(const lks_memory_copies *copies);

#endif
