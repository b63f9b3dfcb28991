/* NCCL's communicator: opened over a comm, never blocking, watched against a deadline.
 *
 * Messages are given to a stream within a group. A failure of NCCL's ends in an abort of its communicator and in LKS_ERR_PEER
 * with what NCCL said. No thread is inside NCCL then, unless a rank of this node has stopped: NCCL's abort waits for it.
 */
#ifndef LKS_COLLECTIVES_NCCL_COMMUNICATOR_H
#define LKS_COLLECTIVES_NCCL_COMMUNICATOR_H

#include "collectives/comm.h"

#include <cuda_runtime_api.h>
#include <nccl.h>

typedef struct lks_nccl lks_nccl;

/* (collective) Differing versions of NCCL among ranks: LKS_ERR_USAGE naming host and versions. `timeout_seconds`: without an
 * end of what was begun. */
lks_status lks_nccl_open(lks_nccl **out, lks_comm *comm, double timeout_seconds) LKS_MUST_CHECK;
void lks_nccl_close(lks_nccl *nccl);                /* NULL is fine; aborts after a failure */
const char *lks_nccl_version(const lks_nccl *nccl); /* "NCCL 2.28.9" */

/* `doing` stays: "sending gradients". */
lks_status lks_nccl_group_begin(lks_nccl *nccl, const char *doing) LKS_MUST_CHECK;
lks_status lks_nccl_send(lks_nccl *nccl, int to, const float *data, uint64_t elements,
                         cudaStream_t stream) LKS_MUST_CHECK;
lks_status lks_nccl_receive(lks_nccl *nccl, int from, float *data, uint64_t elements,
                            cudaStream_t stream) LKS_MUST_CHECK;
lks_status lks_nccl_broadcast(lks_nccl *nccl, int root, void *data, size_t bytes,
                              cudaStream_t stream) LKS_MUST_CHECK;
/* NCCL's own order. */
lks_status lks_nccl_all_reduce(lks_nccl *nccl, float *data, uint64_t elements,
                               cudaStream_t stream) LKS_MUST_CHECK;
lks_status lks_nccl_group_end(lks_nccl *nccl) LKS_MUST_CHECK;

/* Ends NCCL's own threads and kernels, after a failure elsewhere; nothing but close may follow. */
void lks_nccl_abandon(lks_nccl *nccl);
/* Whether something has failed meanwhile. Cheap. */
lks_status lks_nccl_poll(lks_nccl *nccl) LKS_MUST_CHECK;
/* The host waits for the event, polling; `doing` as above. */
lks_status lks_nccl_wait(lks_nccl *nccl, cudaEvent_t event, const char *doing) LKS_MUST_CHECK;

#endif
