/* One save under way, and at most one that waits for its end: the instance behind lks_checkpoints.
 *
 *     root                                     every other rank
 *     creates the file, sends the plan    ->   receives it
 *     worker writes own blocks                 worker writes own blocks
 *     receives the reports                <-   sends its report: status and hashes
 *     worker commits or discards
 *     sends the result                    ->   receives it
 *
 * All messages are point to point and polled, so ranks may be at different steps in the middle of it.
 * The first snapshot, the file's path and the map are the worker's while it has a task.
 */
#ifndef LKS_CHECKPOINTS_SAVE_H
#define LKS_CHECKPOINTS_SAVE_H

#include "checkpoints/checkpoint.h"
#include "checkpoints/state_map.h"
#include "checkpoints/worker.h"
#include "runtime/base/memory.h"

typedef enum lks_save_verdict {
    LKS_SAVE_WRITE,
    LKS_SAVE_SKIP, /* that step's checkpoint is there already and holds */
    LKS_SAVE_FAIL, /* the file could not be created */
} lks_save_verdict;

typedef struct lks_save_plan {
    uint64_t verdict, step, nonce, file_bytes;
    uint64_t offsets[]; /* [groups][tensors] */
} lks_save_plan;

typedef struct lks_save_report {
    int64_t status; /* lks_status */
    char message[LKS_WORKER_MESSAGE];
    uint64_t hashes[]; /* [groups][own blocks] */
} lks_save_report;

typedef enum lks_save_phase {
    LKS_SAVE_WARMING, /* after open: for the worker that touches the staging */
    LKS_SAVE_IDLE,
    LKS_SAVE_PLANNING,  /* others: for the plan */
    LKS_SAVE_WRITING,   /* for the own worker */
    LKS_SAVE_REPORTING, /* root: for the reports; others: until theirs is sent */
    LKS_SAVE_ENDING,    /* root: for the worker that commits or discards; others: for the result */
    LKS_SAVE_TELLING,   /* root: until all sends are done */
} lks_save_phase;

/* Messages of one kind: one per other rank at the root, one elsewhere. */
typedef struct lks_save_messages {
    lks_comm_request **requests; /* NULL where done */
    int count;
} lks_save_messages;

enum { LKS_SAVE_BUFFERS = 2 }; /* at most */

/* The state at the end of a step. */
typedef struct lks_save_snapshot {
    char *staging; /* [groups][span_bytes] */
    uint64_t step;
    lks_checkpoint_info info; /* root: with texts of its own */
    lks_arena *texts;
    json_t *config;
} lks_save_snapshot;

struct lks_checkpoints {
    lks_comm *comm;
    bool root;
    bool broken; /* messages failed: nothing more is sent */
    char *directory;
    int keep;
    bool keep_best;
    lks_status (*may_commit)(const void *user);
    const void *user;
    const lks_layout *layout;
    uint32_t *first_blocks; /* [size + 1] of all ranks; own: first_block, end_block */
    uint32_t first_block, end_block;

    lks_save_snapshot snapshots[LKS_SAVE_BUFFERS];
    int first, taken; /* the one that is being saved; how many are, or wait */
    uint64_t span_bytes;
    lks_state_map map;
    lks_worker *worker;

    lks_save_phase phase;
    lks_save_plan *plan;
    size_t plan_bytes;
    lks_save_report **reports; /* root: [size]; others: only its own */
    int64_t result;            /* lks_status of the save */
    char failure[LKS_WORKER_MESSAGE + 256];
    lks_save_messages plans, report_messages, results;

    char partial[64];    /* name of the directory being written */
    char *partial_path;  /* and its path */
    json_t *manifest;    /* root: of this save, NULL when there is none */
    int image;           /* root: the last save's file without data, -1 before the first */
    lks_text identity;   /* root: what the image was made for */
    lks_text afterwards; /* root: what went wrong after the commit */
    uint64_t start_ns;
    bool saved; /* the last save ended well */
    lks_checkpoints_stats stats;
};

enum {
    LKS_SAVE_TAG_PLAN = LKS_TAG_FREE,
    LKS_SAVE_TAG_REPORT,
    LKS_SAVE_TAG_RESULT,
};

/* *done: every message of the kind is. */
lks_status lks_save_poll(lks_checkpoints *c, lks_save_messages *messages,
                         bool *done) LKS_MUST_CHECK;
/* From the root to every other rank. */
lks_status lks_save_send_to_all(lks_checkpoints *c, lks_save_messages *messages, int tag,
                                const void *data, size_t bytes) LKS_MUST_CHECK;
size_t lks_save_report_bytes(const lks_checkpoints *c, int rank);
/* Gives all messages up. False: some could not be, and their memory must stay. */
bool lks_save_cancel(lks_checkpoints *c);

/* Copies own blocks and, at the root, `info`, in the place of what the snapshot held. */
lks_status lks_save_take(lks_checkpoints *c, lks_save_snapshot *snapshot,
                         const lks_state_array *arrays,
                         const lks_checkpoint_info *info) LKS_MUST_CHECK;
void lks_save_forget(lks_save_snapshot *snapshot); /* its info */
/* Makes or awaits the plan of the first snapshot. */
lks_status lks_save_begin(lks_checkpoints *c) LKS_MUST_CHECK;
/* Names the directory of the plan's step and nonce. */
lks_status lks_save_set_partial(lks_checkpoints *c) LKS_MUST_CHECK;
/* Root: the first failure of a save is its result. */
void lks_save_remember(lks_checkpoints *c, lks_status status, int rank, const char *message);

/* Tasks of the worker; user: lks_checkpoints. */
lks_status lks_save_warm(void *user) LKS_MUST_CHECK;  /* so that no save waits for new pages */
lks_status lks_save_write(void *user) LKS_MUST_CHECK; /* own blocks, hashes into the own report */
lks_status
lks_save_commit(void *user) LKS_MUST_CHECK; /* root: read back, manifest, rename, retention */
lks_status lks_save_discard(void *user) LKS_MUST_CHECK; /* root */

static inline bool lks_save_is_under_way(const lks_checkpoints *c)
{
    return c->phase != LKS_SAVE_IDLE && c->phase != LKS_SAVE_WARMING;
}

/* The one that is being saved. */
static inline lks_save_snapshot *lks_save_first(lks_checkpoints *c)
{
    return &c->snapshots[c->first];
}

static inline lks_save_report *lks_save_own_report(const lks_checkpoints *c)
{
    return c->reports[lks_comm_rank(c->comm)];
}

#endif
