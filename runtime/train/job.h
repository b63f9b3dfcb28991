/* A job as it runs on this rank: everything that a step and its hooks use. */
#ifndef LKS_TRAIN_JOB_H
#define LKS_TRAIN_JOB_H

#include "checkpoints/checkpoint.h"
#include "checkpoints/memory.h"
#include "collectives/reducer.h"
#include "runtime/datasets/loader.h"
#include "runtime/report/report.h"
#include "runtime/train/evaluate.h"
#include "runtime/train/exchange.h"
#include "runtime/train/experiment.h"
#include "runtime/train/feed.h"
#include "runtime/train/geometry.h"
#include "runtime/train/ledger.h"
#include "runtime/train/replica.h"
#include "runtime/train/run_directory.h"
#include "runtime/train/train.h"
#include "runtime/train/update.h"

struct lks_job {
    const lks_train_request *request;
    lks_comm *comm;
    lks_device *device;
    lks_experiment experiment;
    lks_geometry geometry;

    lks_dataset *data;
    lks_order order;
    lks_loader *loader;
    lks_feed *feed;
    uint64_t *sample_ids; /* [lanes * lane's samples] of this rank's last step */
    lks_ledger ledger;    /* of the last step */
    bool watching;        /* this rank asks request->watch */

    uint64_t memory_available; /* of this node, before anything was allocated */
    lks_replica replica;
    const lks_layout *layout;
    char fingerprint[65];
    lks_reducer *reducer;
    uint32_t first_block, end_block; /* own blocks */
    uint64_t base_offset;            /* flat offset of the first */
    float **states; /* [optimizer's state count] own blocks; states[i][0] is at base_offset */
    uint64_t state_elements;
    lks_update_part update_parts[LKS_OPTIMIZER_PARTS];
    uint16_t *rounded; /* flat parameters in the precision that kernels read; NULL: that is f32 */
    lks_exchange *exchange;

    lks_run_directory run; /* rank 0 */
    lks_checkpoints *checkpoints;
    lks_memory_copies *memory;
    lks_state_array *arrays; /* [1 + state count], see state.h */
    float *mirror;           /* behind the arrays when the state itself is not host memory */
    size_t mirror_bytes;
    uint64_t mirror_step;      /* that the mirror shows */
    lks_report *report;        /* rank 0, NULL elsewhere */
    lks_evaluator *validation; /* NULL: none */

    uint64_t step;        /* steps done */
    uint64_t steps;       /* the goal */
    uint64_t allocations; /* lks_memory_allocation_count after the first step; 0: not yet */
    bool failed_together; /* a step failed, and all ranks know: they may close together */
};

/* (collective) Opens all of it and brings the state to where the job is: new, initialised from another, or
 * resumed. On failure everything is closed and all ranks have the same status. */
lks_status lks_job_open(lks_job *job, const lks_train_request *request) LKS_MUST_CHECK;
void lks_job_close(lks_job *job); /* (collective) */

static inline const lks_layout_tensor *lks_job_block_tensor(const lks_job *job, uint32_t block)
{
    return &job->layout->tensors[job->layout->blocks[block].tensor];
}

/* notice.c, not collective: starts the watch where this rank is to ask it; what this rank votes,
 * see lks_votes. */
lks_status lks_job_watch(lks_job *job) LKS_MUST_CHECK;
double lks_job_notice(const lks_job *job);

/* start.c (collective): fills parameters and optimizer states, sets job->step. */
lks_status lks_job_start(lks_job *job) LKS_MUST_CHECK;

#endif
