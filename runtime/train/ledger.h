/* The ledger: a hash chain over the sample ids of every step. README.md has the bytes.
 *
 * The chain of a step stands for all samples of the job so far, in order, over any number of starts
 * and ranks; a checkpoint carries it on.
 */
#ifndef LKS_TRAIN_LEDGER_H
#define LKS_TRAIN_LEDGER_H

#include "runtime/base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LKS_LEDGER_WORDS = 4 }; /* of 8 bytes: one SHA-256 */
typedef struct lks_ledger_hash {
    uint64_t words[LKS_LEDGER_WORDS];
} lks_ledger_hash;

/* Of a lane's ids in one step. Allocates nothing that a step would count. */
lks_status lks_ledger_hash_ids(const uint64_t *ids, size_t count,
                               lks_ledger_hash *out) LKS_MUST_CHECK;

typedef struct lks_ledger {
    bool known; /* false: the job goes on from a checkpoint that had none, and has none */
    lks_ledger_hash chain;
} lks_ledger;

/* Before step 1; `hex` is a checkpoint's, NULL when it has none. */
lks_ledger lks_ledger_start(void);
lks_ledger lks_ledger_resume(const char *hex);
/* Adds step `step` (1-based), whose lanes hash to `lanes`. */
lks_status lks_ledger_advance(lks_ledger *ledger, uint64_t step, const lks_ledger_hash *lanes,
                              int lane_count) LKS_MUST_CHECK;
const char *lks_ledger_hex(const lks_ledger *ledger, char out[65]);

typedef struct lks_ledger_proof {
    uint64_t steps, lines, checkpoints; /* proven; what recorded them */
    uint64_t samples;                   /* of the dataset */
    uint64_t epochs, rest;              /* whole ones, and samples of the unfinished one */
    uint64_t starts;
    char chain[65]; /* of the last step */
} lks_ledger_proof;

/* Computes the ids of every step from what run.json says of the job, checks that each epoch has
 * every sample exactly once, and compares with <run>/ledger.jsonl and the checkpoints. LKS_ERR_CORRUPT names the first
 * step that differs; LKS_ERR_USAGE: no run directory, or one without a ledger. */
lks_status lks_ledger_verify(const char *run_directory, lks_ledger_proof *out) LKS_MUST_CHECK;

#endif
