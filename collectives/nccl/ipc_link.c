/* Ranks of one node on cuda devices, several on one device among them: each rank maps the others' gradients and parameters
 * (CUDA IPC) and reads them where they lie.
 *
 * What one rank's stream has written another's may read after the event that was recorded behind it; a barrier of the
 * hosts makes sure that it was recorded. That nothing is overwritten too early follows from the step's exchange: its numbers
 * come after the sums, and no rank goes on before it has everybody's.
 */
#include "collectives/nccl/cuda_call.h"
#include "collectives/shard.h"
#include "kernels/cuda_stream.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

/* What is shown to others is whole pieces of the driver's: smaller allocations may lie in one, and a handle is for all of
 * it. */
enum { IPC_PIECE = 2 << 20 };

/* What a rank tells the others. */
typedef struct ipc_card {
    cudaIpcMemHandle_t parameters, gradients;
    cudaIpcEventHandle_t summable, updated;
} ipc_card;

typedef struct ipc_peer {
    float *parameters, *gradients;
    cudaEvent_t summable, updated;
} ipc_peer;

typedef struct ipc_link {
    lks_shard shard;
    cudaEvent_t summable, updated;
    ipc_peer *peers; /* [size]; this rank's is unused */
    bool shown;      /* others may have mapped what is here */
} ipc_link;

static lks_status ipc_usable(const lks_link_spec *spec)
{
    int nodes = lks_comm_node_count(spec->comm), size = lks_comm_size(spec->comm);
    if (nodes == 1 && size > 1)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_USAGE,
                    "link ipc needs two ranks or more on one node, not %d on %d: set "
                    "collectives.link=auto",
                    size, nodes);
}

static lks_status ipc_allocate(ipc_link *link)
{
    LKS_TRY(LKS_NEW_ARRAY(&link->peers, (size_t)link->shard.size));
    LKS_TRY(lks_shard_allocate(&link->shard, IPC_PIECE));
    unsigned flags = cudaEventDisableTiming | cudaEventInterprocess;
    LKS_LINK_CUDA(cudaEventCreateWithFlags(&link->summable, flags));
    LKS_LINK_CUDA(cudaEventCreateWithFlags(&link->updated, flags));
    return LKS_OK;
}

static lks_status ipc_describe(const ipc_link *link, ipc_card *card)
{
    LKS_LINK_CUDA(cudaIpcGetMemHandle(&card->parameters, link->shard.arrays.parameters));
    LKS_LINK_CUDA(cudaIpcGetMemHandle(&card->gradients, link->shard.arrays.gradients));
    LKS_LINK_CUDA(cudaIpcGetEventHandle(&card->summable, link->summable));
    LKS_LINK_CUDA(cudaIpcGetEventHandle(&card->updated, link->updated));
    return LKS_OK;
}

static lks_status ipc_map(ipc_peer *peer, const ipc_card *card)
{
    unsigned flags = cudaIpcMemLazyEnablePeerAccess;
    LKS_LINK_CUDA(cudaIpcOpenMemHandle((void **)&peer->parameters, card->parameters, flags));
    LKS_LINK_CUDA(cudaIpcOpenMemHandle((void **)&peer->gradients, card->gradients, flags));
    LKS_LINK_CUDA(cudaIpcOpenEventHandle(&peer->summable, card->summable));
    LKS_LINK_CUDA(cudaIpcOpenEventHandle(&peer->updated, card->updated));
    return LKS_OK;
}

/* (collective) */
static lks_status ipc_connect(ipc_link *link)
{
    lks_comm *comm = link->shard.spec.comm;
    ipc_card mine, *all = NULL;
    lks_status status = ipc_describe(link, &mine);
    if (status == LKS_OK)
        status = LKS_NEW_ARRAY(&all, (size_t)link->shard.size);
    status = lks_comm_agree(comm, status);
    if (status == LKS_OK)
        status = lks_comm_all_gather_equal(comm, &mine, all, sizeof mine);
    link->shown = status == LKS_OK;
    lks_status mapped = LKS_OK;
    for (int r = 0; status == LKS_OK && mapped == LKS_OK && r < link->shard.size; ++r)
        if (r != link->shard.rank)
            mapped = ipc_map(&link->peers[r], &all[r]);
    if (status == LKS_OK)
        status = lks_comm_agree(comm, mapped);
    lks_memory_free(all);
    return status;
}

static lks_status ipc_prepare(ipc_link *link, const lks_link_spec *spec)
{
    LKS_TRY(lks_shard_open(&link->shard, spec));
    return ipc_allocate(link);
}

static void ipc_unmap(ipc_peer *peer)
{
    if (peer->parameters)
        (void)cudaIpcCloseMemHandle(peer->parameters);
    if (peer->gradients)
        (void)cudaIpcCloseMemHandle(peer->gradients);
    if (peer->summable)
        (void)cudaEventDestroy(peer->summable);
    if (peer->updated)
        (void)cudaEventDestroy(peer->updated);
}

static void ipc_close(void *instance)
{
    ipc_link *link = instance;
    if (!link)
        return;
    for (int r = 0; link->peers && r < link->shard.size; ++r)
        ipc_unmap(&link->peers[r]);
    if (link->shown) /* what is freed must not be mapped any more; CUDA leaves undefined what happens else */
        (void)!lks_comm_barrier(link->shard.spec.comm);
    if (link->summable)
        (void)cudaEventDestroy(link->summable);
    if (link->updated)
        (void)cudaEventDestroy(link->updated);
    lks_memory_free(link->peers);
    lks_shard_close(&link->shard);
    lks_memory_free(link);
}

static lks_status ipc_open(void **instance, const lks_link_spec *spec, lks_link_arrays *arrays)
{
    ipc_link *link = NULL;
    lks_status status = LKS_NEW(&link);
    if (status == LKS_OK)
        status = ipc_prepare(link, spec);
    status = lks_comm_agree(spec->comm, status);
    if (status == LKS_OK)
        status = ipc_connect(link);
    if (status != LKS_OK) {
        ipc_close(link);
        return status;
    }
    for (int r = 0; r < link->shard.size; ++r)
        if (r != link->shard.rank)
            lks_shard_read_at(&link->shard, r, link->peers[r].gradients);
    lks_log_root(
        "warning: gradients are read across processes on one node's devices, because ranks share a "
        "device or there is no NCCL; meant for tests and single machines");
    *instance = link;
    *arrays = link->shard.arrays;
    return LKS_OK;
}

/* What comes next on this rank's stream comes after what every rank's stream was given before. */
static lks_status ipc_meet(ipc_link *link, bool updated, double *wait_seconds)
{
    uint64_t start = lks_clock_ns();
    cudaStream_t stream = lks_cuda_stream(link->shard.spec.device);
    LKS_LINK_CUDA(cudaEventRecord(updated ? link->updated : link->summable, stream));
    LKS_TRY(lks_comm_barrier(link->shard.spec.comm));
    for (int r = 0; r < link->shard.size; ++r)
        if (r != link->shard.rank)
            LKS_LINK_CUDA(cudaStreamWaitEvent(
                stream, updated ? link->peers[r].updated : link->peers[r].summable, 0));
    *wait_seconds += lks_clock_seconds_since(start);
    return LKS_OK;
}

static lks_status ipc_sum(void *instance, double *wait_seconds)
{
    ipc_link *link = instance;
    LKS_TRY(ipc_meet(link, false, wait_seconds));
    return lks_shard_sum(&link->shard, link->shard.first_block, link->shard.end_block);
}

static lks_status ipc_gather(void *instance, double *wait_seconds)
{
    ipc_link *link = instance;
    const lks_link_spec *spec = &link->shard.spec;
    LKS_TRY(ipc_meet(link, true, wait_seconds));
    for (int r = 0; r < link->shard.size; ++r) {
        uint64_t offset = 0, elements = 0;
        lks_shard_owned(spec, r, &offset, &elements);
        if (r != link->shard.rank && elements > 0)
            LKS_TRY(lks_device_copy(spec->device, link->shard.arrays.parameters + offset,
                                    link->peers[r].parameters + offset, elements * sizeof(float)));
    }
    return LKS_OK;
}

extern const lks_link_driver lks_ipc_link_driver;
const lks_link_driver lks_ipc_link_driver = {
    .name = "ipc",
    .about = "ranks of one node read each other's device memory; several may share a device",
    .may_give_way = true,
    .usable = ipc_usable,
    .open = ipc_open,
    .close = ipc_close,
    .sum = ipc_sum,
    .gather = ipc_gather,
};
