/* Ranks talking to each other.
 *
 * Calls marked (collective) must be made by every rank, in the same order, from
 * the main thread. Messages are host memory.
 */
#ifndef LKS_COLLECTIVES_COMM_H
#define LKS_COLLECTIVES_COMM_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct lks_comm lks_comm;
typedef struct lks_comm_request lks_comm_request;

/* (collective) "auto": mpi when a launcher (mpirun, srun) started this process,
 * self otherwise. SLURM says more tasks than there are ranks: LKS_ERR_USAGE
 * with the fix. */
lks_status lks_comm_open(lks_comm **out, const char *name) LKS_MUST_CHECK;
/* (collective) Waits for all, then ends MPI. Every request is finished by then. NULL is fine. */
void lks_comm_close(lks_comm *comm);
/* Ends all ranks at once with this exit status, without their help. Does not return. */
void lks_comm_abort(lks_comm *comm, lks_status status) __attribute__((noreturn));

int lks_comm_rank(const lks_comm *comm);
int lks_comm_size(const lks_comm *comm);
/* Nodes: ranks that share memory. */
int lks_comm_node(const lks_comm *comm); /* index of this rank's node */
int lks_comm_node_count(const lks_comm *comm);
int lks_comm_local_rank(const lks_comm *comm); /* within the node */
int lks_comm_local_size(const lks_comm *comm);
int lks_comm_node_of(const lks_comm *comm, int rank);
const char *lks_comm_host(const lks_comm *comm, int rank);
/* "Open MPI 4.1.4", "self": for provenance. */
const char *lks_comm_about(const lks_comm *comm);

/* (collective) */
lks_status lks_comm_barrier(lks_comm *comm) LKS_MUST_CHECK;
lks_status lks_comm_broadcast(lks_comm *comm, int root, void *data, size_t bytes) LKS_MUST_CHECK;
/* (collective) Rank r contributes counts[r] bytes; `all` gets them in rank order. `mine` may be
 * this rank's place in `all`. */
lks_status lks_comm_all_gather(lks_comm *comm, const void *mine, void *all,
                               const size_t *counts) LKS_MUST_CHECK;
/* (collective) The same with `bytes` of every rank. */
lks_status lks_comm_all_gather_equal(lks_comm *comm, const void *mine, void *all,
                                     size_t bytes) LKS_MUST_CHECK;

/* (collective) Everyone's status is LKS_OK, or everyone gets the failure of the
 * lowest rank that failed: its message stays there; elsewhere it becomes "", so that
 * one line is printed. Call it wherever ranks could part ways. */
lks_status lks_comm_agree(lks_comm *comm, lks_status mine) LKS_MUST_CHECK;
/* (collective) Runs `work` on rank 0 alone; all get its status, as by agree. */
lks_status lks_comm_on_root(lks_comm *comm, lks_status (*work)(void *user),
                            void *user) LKS_MUST_CHECK;

/* Point to point with another rank, non-blocking, any size (split as MPI needs). Both ends start the
 * messages of one tag in the same order. Memory must stay until done. Tags below LKS_TAG_FREE are
 * taken by collectives/. */
enum { LKS_TAG_FREE = 24576, LKS_TAG_END = 32768 };
lks_status lks_comm_send(lks_comm *comm, int to, int tag, const void *data, size_t bytes,
                         lks_comm_request **out) LKS_MUST_CHECK;
lks_status lks_comm_receive(lks_comm *comm, int from, int tag, void *data, size_t bytes,
                            lks_comm_request **out) LKS_MUST_CHECK;
/* (collective) Non-blocking maximum of one number: agreement that rides along with training. */
lks_status lks_comm_max_start(lks_comm *comm, int64_t mine, lks_comm_request **out) LKS_MUST_CHECK;
/* Makes room for `messages` more under way at once, of up to `bytes` each, so that starting them
 * allocates nothing. Every user reserves its own. */
lks_status lks_comm_reserve(lks_comm *comm, size_t messages, size_t bytes) LKS_MUST_CHECK;
/* Gives a message up that will never be waited for, after a failure. False: it could not be, and
 * its memory must stay as it is until the process ends. */
bool lks_comm_cancel(lks_comm *comm, lks_comm_request **request);
/* *done false: not yet. When true the request is gone and *value (NULL: not wanted) is a max's result. */
lks_status lks_comm_test(lks_comm *comm, lks_comm_request **request, bool *done,
                         int64_t *value) LKS_MUST_CHECK;
lks_status lks_comm_wait(lks_comm *comm, lks_comm_request **request, int64_t *value) LKS_MUST_CHECK;

/* Lets messages move. Cheap; called between ops. */
lks_status lks_comm_progress(lks_comm *comm) LKS_MUST_CHECK;
/* For loops that poll: gives the core away when ranks outnumber cores. */
void lks_comm_relax(lks_comm *comm, unsigned spins);

/* (collective over the node's ranks) Memory shared by the ranks of a node, zeroed, mapped by all, with no
 * name left behind. LKS_ERR_IO says how much /dev/shm has and needs. */
lks_status lks_comm_share(lks_comm *comm, size_t bytes, void **out) LKS_MUST_CHECK;
void lks_comm_unshare(lks_comm *comm, void *memory, size_t bytes);

#endif
