#include "collectives/nccl/communicator.h"
#include "collectives/nccl/cuda_call.h"
#include "runtime/base/clock.h"
#include "runtime/base/memory.h"
#include "runtime/base/threads.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

enum { ABORT_SECONDS = 5 };

struct lks_nccl {
    lks_comm *comm;
    ncclComm_t handle;
    double timeout_seconds;
    const char *doing;
    bool failed, grouping; /* grouping: between the begin and the end of a group */
    char version[32];
};

/* --- The end ------------------------------------------------------------------ */

typedef struct nccl_ending {
    ncclComm_t handle;
    ncclResult_t (*call)(ncclComm_t handle);
    int device;
} nccl_ending;

static void *nccl_end(void *given)
{
    nccl_ending ending = *(nccl_ending *)given;
    lks_memory_free(given);
    (void)cudaSetDevice(
        ending.device); /* a thread begins with the first, which NCCL would then come back to */
    (void)ending.call(ending.handle);
    return NULL;
}

static bool nccl_joined(pthread_t thread, double seconds)
{
    struct timespec until;
    (void)clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)seconds;
    return !pthread_timedjoin_np(thread, NULL, &until);
}

/* NCCL's abort first stops what is on the device, and then, as its destroy does, waits until no rank of this node is connected
 * any more: for ever, when one of them has stopped. So it is waited for in a thread, and left there when it is late. */
static void nccl_end_within(lks_nccl *nccl, ncclResult_t (*call)(ncclComm_t), double seconds)
{
    nccl_ending *ending = NULL;
    pthread_t thread;
    ncclComm_t handle = nccl->handle;
    nccl->handle = NULL;
    if (!handle || LKS_NEW(&ending) != LKS_OK)
        return;
    *ending = (nccl_ending){.handle = handle, .call = call};
    (void)cudaGetDevice(&ending->device);
    if (lks_thread_start(&thread, nccl_end, ending))
        lks_memory_free(ending);
    else if (!nccl_joined(thread, seconds))
        (void)pthread_detach(thread);
}

/* Ends NCCL's own threads and kernels; nothing may be asked of it afterwards. */
void lks_nccl_abandon(lks_nccl *nccl)
{
    nccl->failed = true;
    if (nccl->grouping)
        (void)ncclGroupEnd(); /* an abort within a group would wait for its end */
    nccl->grouping = false;
    nccl_end_within(nccl, ncclCommAbort, ABORT_SECONDS);
}

static lks_status nccl_give_up(lks_nccl *nccl, lks_status status, const char *what)
{
    const char *said = ncclGetLastError(nccl->handle); /* which may be NULL */
    status =
        LKS_FAIL(status,
                 "rank %d on %s, NCCL while %s: %s%s%s: see which host or rank stopped; the job "
                 "resumes from its last checkpoint (NCCL_DEBUG=INFO says more)",
                 lks_comm_rank(nccl->comm), lks_comm_host(nccl->comm, lks_comm_rank(nccl->comm)),
                 nccl->doing, what, said && *said ? ": " : "", said ? said : "");
    lks_nccl_abandon(nccl);
    return status;
}

static lks_status nccl_check(lks_nccl *nccl, ncclResult_t result)
{
    if (result == ncclSuccess || result == ncclInProgress)
        return LKS_OK;
    return nccl_give_up(nccl, LKS_ERR_PEER, ncclGetErrorString(result));
}

lks_status lks_nccl_poll(lks_nccl *nccl)
{
    ncclResult_t state = ncclSuccess;
    if (nccl->failed)
        return LKS_ERR_PEER;
    LKS_TRY(nccl_check(nccl, ncclCommGetAsyncError(nccl->handle, &state)));
    return nccl_check(nccl, state);
}

static lks_status nccl_too_late(lks_nccl *nccl)
{
    char what[96];
    snprintf(what, sizeof what, "not done after %.0f s (collectives.timeout_seconds)",
             nccl->timeout_seconds);
    return nccl_give_up(nccl, LKS_ERR_PEER, what);
}

/* Whether NCCL has done what it was given to begin since `start`. */
static lks_status nccl_look(lks_nccl *nccl, uint64_t start, bool *done)
{
    ncclResult_t state = ncclInProgress;
    LKS_TRY(nccl_check(nccl, ncclCommGetAsyncError(nccl->handle, &state)));
    LKS_TRY(nccl_check(nccl, state));
    *done = state == ncclSuccess;
    bool late = !*done && lks_clock_seconds_since(start) > nccl->timeout_seconds;
    return late ? nccl_too_late(nccl) : LKS_OK;
}

/* Between two looks. What NCCL has under way waits for a rank that the comm has lost, and closing would too. */
static lks_status nccl_pause(lks_nccl *nccl, unsigned spins)
{
    lks_comm_relax(nccl->comm, spins);
    lks_status status = spins % 64 == 0 ? lks_comm_progress(nccl->comm) : LKS_OK;
    if (status != LKS_OK)
        lks_nccl_abandon(nccl);
    return status;
}

/* Until NCCL has taken what it was given. */
static lks_status nccl_settle(lks_nccl *nccl)
{
    uint64_t start = lks_clock_ns();
    bool done = false;
    for (unsigned spins = 1;; ++spins) {
        LKS_TRY(nccl_look(nccl, start, &done));
        if (done)
            return LKS_OK;
        LKS_TRY(nccl_pause(nccl, spins));
    }
}

lks_status lks_nccl_wait(lks_nccl *nccl, cudaEvent_t event, const char *doing)
{
    uint64_t start = lks_clock_ns();
    nccl->doing = doing;
    for (unsigned spins = 1;; ++spins) {
        cudaError_t found = cudaEventQuery(event);
        if (found == cudaSuccess)
            return LKS_OK;
        if (found != cudaErrorNotReady)
            return lks_link_cuda_check(found, "cudaEventQuery");
        (void)cudaGetLastError(); /* not ready is no error that a launch is to be told of */
        LKS_TRY(lks_nccl_poll(nccl));
        if (lks_clock_seconds_since(start) > nccl->timeout_seconds)
            return nccl_too_late(nccl);
        LKS_TRY(nccl_pause(nccl, spins));
    }
}

/* --- Opening ------------------------------------------------------------------ */

static lks_status check_versions(lks_nccl *nccl)
{
    int mine = 0, root, size = lks_comm_size(nccl->comm);
    LKS_TRY(nccl_check(nccl, ncclGetVersion(&mine)));
    snprintf(nccl->version, sizeof nccl->version, "NCCL %d.%d.%d", mine / 10000, mine / 100 % 100,
             mine % 100);
    root = mine;
    if (size > 1)
        LKS_TRY(lks_comm_broadcast(nccl->comm, 0, &root, sizeof root));
    lks_status status = LKS_OK;
    if (mine != root)
        status = LKS_FAIL(LKS_ERR_USAGE,
                          "host %s has %s, rank 0's host %s has NCCL %d.%d.%d: install the same "
                          "version on all hosts",
                          lks_comm_host(nccl->comm, lks_comm_rank(nccl->comm)), nccl->version,
                          lks_comm_host(nccl->comm, 0), root / 10000, root / 100 % 100, root % 100);
    return lks_comm_agree(nccl->comm, status);
}

/* Each rank looks at its own NCCL and all hear of the worst, again and again: where one fails, the others do not wait
 * for it until their time is up. */
static lks_status connect_together(lks_nccl *nccl, lks_status status)
{
    enum { CONNECTED, CONNECTING, FAILED };
    uint64_t start = lks_clock_ns();
    int64_t worst = CONNECTING;
    for (unsigned spins = 0; worst == CONNECTING; lks_comm_relax(nccl->comm, ++spins)) {
        lks_comm_request *request = NULL;
        bool done = false;
        if (status == LKS_OK)
            status = nccl_look(nccl, start, &done);
        int64_t mine = status != LKS_OK ? FAILED : done ? CONNECTED : CONNECTING;
        LKS_TRY(lks_comm_max_start(nccl->comm, mine, &request));
        LKS_TRY(lks_comm_wait(nccl->comm, &request, &worst));
    }
    return worst == FAILED ? lks_comm_agree(nccl->comm, status) : LKS_OK;
}

static lks_status connect_ranks(lks_nccl *nccl)
{
    ncclUniqueId id;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    lks_status status = LKS_OK;
    config.blocking = 0;
    nccl->doing = "connecting the ranks";
    memset(&id, 0, sizeof id);
    if (lks_comm_rank(nccl->comm) == 0)
        status = nccl_check(nccl, ncclGetUniqueId(&id));
    LKS_TRY(lks_comm_agree(nccl->comm, status));
    LKS_TRY(lks_comm_broadcast(nccl->comm, 0, &id, sizeof id));
    status = nccl_check(nccl, ncclCommInitRankConfig(&nccl->handle, lks_comm_size(nccl->comm), id,
                                                     lks_comm_rank(nccl->comm), &config));
    return connect_together(nccl, status);
}

lks_status lks_nccl_open(lks_nccl **out, lks_comm *comm, double timeout_seconds)
{
    lks_nccl *nccl = NULL;
    *out = NULL;
    lks_status status = lks_comm_agree(comm, LKS_NEW(&nccl));
    if (status == LKS_OK) {
        *nccl = (lks_nccl){.comm = comm, .timeout_seconds = timeout_seconds, .doing = "starting"};
        status = check_versions(nccl);
    }
    if (status == LKS_OK)
        status = connect_ranks(nccl);
    if (status == LKS_OK) {
        *out = nccl;
        return LKS_OK;
    }
    if (nccl)
        lks_nccl_abandon(nccl); /* an orderly end needs all ranks */
    lks_nccl_close(nccl);
    return status;
}

void lks_nccl_close(lks_nccl *nccl)
{
    if (!nccl)
        return;
    nccl->doing = "ending";
    if (nccl->handle && !nccl->failed && ncclCommFinalize(nccl->handle) == ncclInProgress &&
        nccl_settle(nccl) != LKS_OK)
        nccl->handle = NULL; /* given up */
    nccl_end_within(nccl, ncclCommDestroy, nccl->timeout_seconds);
    lks_memory_free(nccl);
}

const char *lks_nccl_version(const lks_nccl *nccl)
{
    return nccl->version;
}

/* --- Messages ------------------------------------------------------------------- */

lks_status lks_nccl_group_begin(lks_nccl *nccl, const char *doing)
{
    nccl->doing = doing;
    LKS_TRY(lks_nccl_poll(nccl));
    LKS_TRY(nccl_check(nccl, ncclGroupStart()));
    nccl->grouping = true;
    return LKS_OK;
}

lks_status lks_nccl_send(lks_nccl *nccl, int to, const float *data, uint64_t elements,
                         cudaStream_t stream)
{
    return nccl_check(nccl, ncclSend(data, elements, ncclFloat32, to, nccl->handle, stream));
}

lks_status lks_nccl_receive(lks_nccl *nccl, int from, float *data, uint64_t elements,
                            cudaStream_t stream)
{
    return nccl_check(nccl, ncclRecv(data, elements, ncclFloat32, from, nccl->handle, stream));
}

lks_status lks_nccl_broadcast(lks_nccl *nccl, int root, void *data, size_t bytes,
                              cudaStream_t stream)
{
    return nccl_check(nccl,
                      ncclBroadcast(data, data, bytes, ncclUint8, root, nccl->handle, stream));
}

lks_status lks_nccl_all_reduce(lks_nccl *nccl, float *data, uint64_t elements, cudaStream_t stream)
{
    return nccl_check(
        nccl, ncclAllReduce(data, data, elements, ncclFloat32, ncclSum, nccl->handle, stream));
}

lks_status lks_nccl_group_end(lks_nccl *nccl)
{
    nccl->grouping = false;
    LKS_TRY(nccl_check(nccl, ncclGroupEnd()));
    return nccl_settle(nccl);
}
