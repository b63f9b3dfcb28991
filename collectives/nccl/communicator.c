#include "collectives/nccl/communicator.h"
#include "runtime/base/clock.h"
#include "runtime/base/memory.h"

#include <stdio.h>
#include <string.h>

struct lks_nccl {
    lks_comm *comm;
    ncclComm_t handle;
    double timeout_seconds;
    const char *doing;
    bool failed, grouping; /* grouping: between the begin and the end of a group */
    char version[32];
};

lks_status lks_nccl_cuda_check(cudaError_t error, const char *call)
{
    if (error == cudaSuccess)
        return LKS_OK;
    (void)cudaGetLastError(); /* else the next launch is told of it, where the link gives way */
    return LKS_FAIL(LKS_ERR_INTERNAL, "CUDA: %s (%s): %s", cudaGetErrorString(error),
                    cudaGetErrorName(error), call);
}

/* Ends NCCL's own threads and kernels; nothing may be asked of it afterwards. */
void lks_nccl_abandon(lks_nccl *nccl)
{
    nccl->failed = true;
    if (nccl->grouping)
        (void)ncclGroupEnd(); /* an abort within a group would wait for its end */
    nccl->grouping = false;
    if (nccl->handle)
        (void)ncclCommAbort(nccl->handle);
    nccl->handle = NULL;
}

static lks_status nccl_give_up(lks_nccl *nccl, lks_status status, const char *what)
{
    const char *said = nccl->handle ? ncclGetLastError(nccl->handle) : "";
    status =
        LKS_FAIL(status,
                 "rank %d on %s, NCCL while %s: %s%s%s: see which host or rank stopped; the job "
                 "resumes from its "
                 "last checkpoint (NCCL_DEBUG=INFO says more)",
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

/* Until NCCL has taken what it was given. */
static lks_status nccl_settle(lks_nccl *nccl)
{
    uint64_t start = lks_clock_ns();
    ncclResult_t state = ncclInProgress;
    for (unsigned spins = 0; state == ncclInProgress; lks_comm_relax(nccl->comm, ++spins)) {
        LKS_TRY(nccl_check(nccl, ncclCommGetAsyncError(nccl->handle, &state)));
        LKS_TRY(nccl_check(nccl, state));
        if (state == ncclSuccess)
            break;
        if (lks_clock_seconds_since(start) > nccl->timeout_seconds)
            return nccl_too_late(nccl);
    }
    return LKS_OK;
}

lks_status lks_nccl_wait(lks_nccl *nccl, cudaEvent_t event)
{
    uint64_t start = lks_clock_ns();
    for (unsigned spins = 0;; lks_comm_relax(nccl->comm, ++spins)) {
        cudaError_t found = cudaEventQuery(event);
        if (found == cudaSuccess)
            return LKS_OK;
        if (found != cudaErrorNotReady)
            return lks_nccl_cuda_check(found, "cudaEventQuery");
        (void)cudaGetLastError(); /* not ready is no error that a launch is to be told of */
        LKS_TRY(lks_nccl_poll(nccl));
        lks_status status = spins % 64 == 0 ? lks_comm_progress(nccl->comm) : LKS_OK;
        if (status != LKS_OK) {
            lks_nccl_abandon(
                nccl); /* its kernels wait for the lost rank, and closing would for them */
            return status;
        }
        if (lks_clock_seconds_since(start) > nccl->timeout_seconds)
            return nccl_too_late(nccl);
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
    if (status == LKS_OK)
        status = nccl_settle(nccl);
    return lks_comm_agree(nccl->comm, status);
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
    if (status != LKS_OK)
        lks_nccl_close(nccl);
    else
        *out = nccl;
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
    if (nccl->handle)
        (void)ncclCommDestroy(nccl->handle);
    lks_memory_free(nccl);
}

const char *lks_nccl_version(const lks_nccl *nccl)
{
    return nccl->version;
}

/* --- Messages ------------------------------------------------------------------- */

lks_status lks_nccl_group_begin(lks_nccl *nccl, const char *doing)
{
    LKS_TRY(lks_nccl_poll(nccl));
    nccl->doing = doing;
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

lks_status lks_nccl_broadcast(lks_nccl *nccl, int root, float *data, uint64_t elements,
                              cudaStream_t stream)
{
    return nccl_check(nccl,
                      ncclBroadcast(data, data, elements, ncclFloat32, root, nccl->handle, stream));
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
