/* The reducer: lanes' gradients in, one sum out, the same bits whoever holds the
 * lanes; and the parameters' way back.
 *
 * It owns the flat arrays: parameters (one per node where ranks share memory),
 * gradients (one per pending tree level of this rank). A step:
 *
 *     lks_reducer_begin
 *     for each lane of this rank, in order:
 *         g = lks_reducer_lane(lane)           where this lane's gradient goes
 *         backward of each micro-batch into g; in the last backward of the last lane:
 *             lks_reducer_final(tensor)        its blocks may leave
 *             lks_reducer_progress             between ops
 *         lks_reducer_lane_done
 *     lks_reducer_sum (collective)             own blocks are summed
 *     ... all ranks exchange norms (a collective of the comm's): from here parameters may be written ...
 *     optimizer on own blocks of lks_reducer_sums
 *     lks_reducer_gather (collective)          everybody has all parameters
 *     lks_reducer_settle                       before the host waits for the device
 */
#ifndef LKS_COLLECTIVES_REDUCER_H
#define LKS_COLLECTIVES_REDUCER_H

#include "collectives/comm.h"
#include "collectives/verbs_options.h"
#include "kernels/device.h"
#include "runtime/base/layout.h"

typedef struct lks_reducer lks_reducer;

typedef struct lks_reducer_spec {
    lks_comm *comm;
    lks_device *device;
    const lks_layout *layout;
    int lanes;                      /* L */
    const char *link;               /* "auto", "shm", "verbs", "mpi" */
    uint64_t bucket_bytes;          /* 0: 4 MiB */
    bool any_order;                 /* gradients may be added in an order of the link's library */
    double timeout_seconds;         /* see link_driver.h; 0: 300 */
    const lks_verbs_options *verbs; /* borrowed; NULL: without link verbs */
} lks_reducer_spec;

/* Lanes [floor(rL/W), floor((r+1)L/W)) of rank r. */
void lks_lanes_of(int lanes, int rank, int world_size, int *first, int *end);

/* (collective) The arrays are zeroed. */
lks_status lks_reducer_open(lks_reducer **out, const lks_reducer_spec *spec) LKS_MUST_CHECK;
void lks_reducer_close(lks_reducer *reducer);             /* (collective) NULL is fine */
const char *lks_reducer_link(const lks_reducer *reducer); /* "shm": which was chosen */
/* Whether telling it early what is final starts anything. */
bool lks_reducer_overlaps(const lks_reducer *reducer);

/* Flat [layout->flat_elements], device memory. Written by this rank only for own blocks, at start and
 * between sum and gather. */
float *lks_reducer_parameters(lks_reducer *reducer);
void lks_reducer_owned(const lks_reducer *reducer, uint32_t *first_block, uint32_t *end_block);

lks_status lks_reducer_begin(lks_reducer *reducer) LKS_MUST_CHECK;
float *lks_reducer_lane(lks_reducer *reducer, int lane);
void lks_reducer_final(lks_reducer *reducer, uint32_t layout_tensor);
lks_status lks_reducer_progress(lks_reducer *reducer) LKS_MUST_CHECK;
lks_status lks_reducer_lane_done(lks_reducer *reducer, int lane) LKS_MUST_CHECK;
lks_status lks_reducer_sum(lks_reducer *reducer) LKS_MUST_CHECK;
/* After sum, until begin; device memory. A flat array in which own blocks are summed gradients; and
 * the sums of their squares in f64, [own blocks], buffers' too. */
const float *lks_reducer_sums(const lks_reducer *reducer);
const double *lks_reducer_square_sums(const lks_reducer *reducer);
lks_status lks_reducer_gather(lks_reducer *reducer) LKS_MUST_CHECK;
/* Whether share serves: numbers go from device to device and the host waits for nothing. The same on every rank. */
bool lks_reducer_can_share(const lks_reducer *reducer);
/* (collective) numbers[first[r], first[r + 1]) of rank r, [world size + 1] bounds, to everybody; device memory. */
lks_status lks_reducer_share(lks_reducer *reducer, double *numbers,
                             const uint64_t *first) LKS_MUST_CHECK;
/* Waits, the link's timeout long at most, for what sum, share and gather have left under way on the device: whoever waits
 * for the device itself cannot give up a rank that does not answer. */
lks_status lks_reducer_settle(lks_reducer *reducer) LKS_MUST_CHECK;
/* After a failure that all ranks have agreed on: what is under way on the device ends, so that waiting for the device
 * does too. Nothing but close may follow. */
void lks_reducer_abandon(lks_reducer *reducer);

typedef struct lks_reducer_stats {
    uint64_t
        bytes_early; /* of this step's gradient, handed over while other tensors were not final */
    uint64_t bytes_total;   /* of this step's gradient, handed over */
    double wait_seconds;    /* this step, waiting for peers */
    uint64_t shared_bytes;  /* of the node: parameters and gradients in shared memory */
    uint64_t private_bytes; /* of this rank */
} lks_reducer_stats;
lks_reducer_stats lks_reducer_get_stats(const lks_reducer *reducer);

#endif
