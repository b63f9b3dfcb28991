/* A queue pair: the reliable connection to one peer. */
#ifndef LKS_COLLECTIVES_VERBS_PAIR_H
#define LKS_COLLECTIVES_VERBS_PAIR_H

#include "collectives/verbs/device.h"

/* What the two ends of a pair must know of each other. */
typedef struct lks_verbs_end {
    uint32_t number, sequence; /* QPN, PSN */
} lks_verbs_end;

typedef struct lks_verbs_pair_spec {
    const lks_verbs_ops *ops;
    const lks_verbs_options *options;
    const lks_verbs_port *port; /* own */
    struct ibv_pd *pd;
    struct ibv_cq *cq;
    uint32_t sends, receives; /* work requests of each kind that may be under way */
} lks_verbs_pair_spec;

/* In state INIT: receives can be posted. */
lks_status lks_verbs_pair_open(struct ibv_qp **out, const lks_verbs_pair_spec *spec) LKS_MUST_CHECK;

/* INIT to RTS, towards the peer's port and end. `host` is the peer's, for the message. */
lks_status lks_verbs_pair_connect(struct ibv_qp *qp, const lks_verbs_pair_spec *spec,
                                  const lks_verbs_end *own, const char *host,
                                  const lks_verbs_port *peer_port,
                                  const lks_verbs_end *peer) LKS_MUST_CHECK;

#endif
