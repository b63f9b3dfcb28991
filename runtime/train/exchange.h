/* What ranks tell each other in a step: losses of lanes, norms of blocks, votes.
 *
 * Every rank contributes what it has and gets everything, in lane and block order, so that all compute the same
 * totals in the same order. The numbers and the totals lie in device memory, and the update reads them there: a
 * rank waits for its device when it takes the totals. (Where the link cannot bring numbers from device to device they
 * go through the host, which then waits before.)
 */
#ifndef LKS_TRAIN_EXCHANGE_H
#define LKS_TRAIN_EXCHANGE_H

#include "collectives/reducer.h"
#include "runtime/train/ledger.h"

typedef struct lks_votes {
    double notice;  /* 0: none; else the seconds left, INFINITY: not known */
    double no_data; /* its loader failed: its lanes are to be ignored */
} lks_votes;

typedef struct lks_exchange_spec { /* borrowed */
    lks_comm *comm;
    lks_device *device;
    lks_reducer *reducer;
    const lks_layout *layout;
    int lanes;
    uint32_t micro_batches; /* of a lane */
} lks_exchange_spec;

typedef struct lks_exchange lks_exchange;

/* Not collective. */
lks_status lks_exchange_open(lks_exchange **out, const lks_exchange_spec *spec) LKS_MUST_CHECK;
void lks_exchange_close(lks_exchange *exchange); /* NULL is fine */

/* To be filled before the exchange: [LKS_STATS] of a micro-batch of an own lane, device memory; the hash of that
 * lane's samples. */
double *lks_exchange_stats(lks_exchange *exchange, int lane, int64_t micro_batch);
lks_ledger_hash *lks_exchange_lane_ids(lks_exchange *exchange, int lane);

/* (collective) After lks_reducer_sum. *all: the earliest notice, and whether anybody has no data. */
lks_status lks_exchange_run(lks_exchange *exchange, const lks_votes *mine, double clip_norm,
                            lks_votes *all) LKS_MUST_CHECK;
/* The totals of the last exchange: where the device has them; what they are, when it has got there. */
const lks_totals *lks_exchange_totals(const lks_exchange *exchange);
lks_status lks_exchange_take(lks_exchange *exchange, lks_totals *out) LKS_MUST_CHECK;
/* Whether the host waits for the device in run. */
bool lks_exchange_is_through_host(const lks_exchange *exchange);
/* The ids' hashes of all lanes, of the last exchange. */
const lks_ledger_hash *lks_exchange_ids(const lks_exchange *exchange);

#endif
