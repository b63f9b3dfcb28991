/* The one small message of a step: losses of lanes, norms of blocks, votes.
 *
 * Every rank contributes what it has and gets everything, in lane and block
 * order, so that all compute the same totals in the same order.
 */
#ifndef LKS_TRAIN_EXCHANGE_H
#define LKS_TRAIN_EXCHANGE_H

#include "collectives/comm.h"
#include "runtime/base/layout.h"
#include "runtime/train/ledger.h"

typedef struct lks_lane_stats {
    double loss_sum, targets, correct;
    lks_ledger_hash ids; /* of the samples */
} lks_lane_stats;

typedef struct lks_votes {
    double notice;  /* 0: none; else the seconds left, INFINITY: not known */
    double no_data; /* its loader failed: its lanes are to be ignored */
} lks_votes;

typedef struct lks_totals {
    double loss_sum, targets, correct; /* over the global batch */
    double square_sum;                 /* of the summed gradient */
    bool notice, no_data;              /* some rank voted so */
    double notice_seconds;             /* the least that is left, INFINITY: not known */
    int bad_lane;                      /* first whose loss is not finite; -1: none */
    int64_t bad_block;                 /* first whose norm is not finite; -1: none */
} lks_totals;

typedef struct lks_exchange lks_exchange;

/* Not collective. */
lks_status lks_exchange_open(lks_exchange **out, lks_comm *comm, const lks_layout *layout,
                             int lanes) LKS_MUST_CHECK;
void lks_exchange_close(lks_exchange *exchange); /* NULL is fine */
/* This rank's part, to be filled before the exchange: lane `lane`; [own blocks] square sums. */
lks_lane_stats *lks_exchange_lane(lks_exchange *exchange, int lane);
double *lks_exchange_blocks(lks_exchange *exchange);
/* (collective) */
lks_status lks_exchange_run(lks_exchange *exchange, const lks_votes *votes,
                            lks_totals *out) LKS_MUST_CHECK;
/* The ids' hashes of all lanes, of the last exchange. */
const lks_ledger_hash *lks_exchange_ids(const lks_exchange *exchange);

#endif
