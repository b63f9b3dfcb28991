/* The optimizer's update of this rank's own blocks. */
#ifndef LKS_TRAIN_UPDATE_H
#define LKS_TRAIN_UPDATE_H

#include "runtime/optimizers/optimizer.h"

typedef struct lks_job lks_job;

/* Own blocks that are updated alike. */
typedef struct lks_update_part {
    lks_layout_block *blocks, *host_blocks; /* the same in device and in host memory */
    uint32_t count;
} lks_update_part;

/* Not collective. After the reducer is open; close may follow a failed open. */
lks_status lks_update_open(lks_job *job) LKS_MUST_CHECK;
void lks_update_close(lks_job *job);
/* After lks_reducer_sum; step->totals may still be on their way on the device. */
lks_status lks_update_run(lks_job *job, const lks_optimizer_step *step) LKS_MUST_CHECK;

#endif
