#include "collectives/verbs/mesh_private.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>

static lks_status mesh_failed(const lks_verbs_mesh *mesh, const char *doing, int code)
{
    return LKS_FAIL(LKS_ERR_IO,
                    "%s with RDMA device %s: %s; set collectives.link=mpi to do without", doing,
                    mesh->port.device, strerror(code));
}

/* Work requests per peer, halved until the completion queue holds them all. */
static lks_status choose_window(lks_verbs_mesh *mesh, int *entries)
{
    struct ibv_device_attr device = {.max_cqe = 0};
    int code = mesh->spec.ops->query_device(mesh->context, &device);
    if (code != 0)
        return mesh_failed(mesh, "querying", code);
    int64_t peers = mesh->size > 1 ? mesh->size - 1 : 1, needed;
    for (mesh->window = MESH_WINDOW; mesh->window >= 2; mesh->window /= 2) {
        needed = peers * (2 * mesh->window + MESH_SENDS_BESIDE + MESH_CREDITS_UNDER_WAY);
        *entries = (int)needed;
        if (needed <= device.max_cqe && (int)mesh->window + MESH_SENDS_BESIDE <= device.max_qp_wr)
            return LKS_OK;
    }
    return LKS_FAIL(LKS_ERR_USAGE,
                    "RDMA device %s holds %d completions, too few for %d ranks: set "
                    "collectives.link=mpi",
                    mesh->port.device, device.max_cqe, mesh->size);
}

static lks_status open_device(lks_verbs_mesh *mesh)
{
    const lks_verbs_ops *ops = mesh->spec.ops;
    lks_verbs_wish wish = {.options = mesh->spec.options,
                           .numa_node = lks_verbs_own_numa_node(),
                           .local_rank = lks_comm_local_rank(mesh->spec.comm)};
    int entries = 0;
    LKS_TRY(lks_verbs_choose(ops, &wish, &mesh->port, &mesh->context));
    int flags = fcntl(mesh->context->async_fd, F_GETFL);
    if (flags < 0 || fcntl(mesh->context->async_fd, F_SETFL, flags | O_NONBLOCK) != 0)
        return mesh_failed(mesh, "preparing for events", errno);
    LKS_TRY(choose_window(mesh, &entries));
    if (!(mesh->pd = ops->alloc_pd(mesh->context)))
        return mesh_failed(mesh, "allocating a protection domain", errno);
    if (!(mesh->cq = ops->create_cq(mesh->context, entries, NULL, NULL, 0)))
        return mesh_failed(mesh, "creating a completion queue", errno);
    return LKS_OK;
}

lks_status lks_verbs_mesh_open(lks_verbs_mesh **out, const lks_verbs_mesh_spec *spec)
{
    lks_verbs_mesh *mesh = NULL;
    LKS_TRY(LKS_NEW(&mesh));
    *out = mesh;
    mesh->spec = *spec;
    mesh->rank = lks_comm_rank(spec->comm);
    mesh->size = lks_comm_size(spec->comm);
    LKS_TRY(LKS_NEW_ARRAY(&mesh->peers, (size_t)mesh->size));
    LKS_TRY(LKS_NEW_ARRAY(&mesh->cards, (size_t)mesh->size));
    LKS_TRY(open_device(mesh));
    mesh->chunk_bytes = (uint64_t)spec->options->chunk_bytes;
    if (mesh->chunk_bytes > mesh->port.largest_message)
        mesh->chunk_bytes = mesh->port.largest_message;
    return LKS_OK;
}

void lks_verbs_mesh_close(lks_verbs_mesh *mesh)
{
    if (!mesh)
        return;
    const lks_verbs_ops *ops = mesh->spec.ops;
    for (int r = 0; mesh->peers && r < mesh->size; ++r) {
        if (mesh->peers[r].qp)
            (void)ops->destroy_qp(mesh->peers[r].qp);
        lks_memory_free(mesh->peers[r].queue);
    }
    for (int i = 0; i < LKS_VERBS_REGIONS; ++i)
        if (mesh->regions[i])
            (void)ops->dereg_mr(mesh->regions[i]);
    if (mesh->cq)
        (void)ops->destroy_cq(mesh->cq);
    if (mesh->pd)
        (void)ops->dealloc_pd(mesh->pd);
    if (mesh->context)
        (void)ops->close_device(mesh->context);
    lks_memory_free(mesh->peers);
    lks_memory_free(mesh->cards);
    lks_memory_free(mesh);
}

const lks_verbs_port *lks_verbs_mesh_port(const lks_verbs_mesh *mesh)
{
    return &mesh->port;
}

static lks_status register_failed(const lks_verbs_mesh *mesh, size_t bytes, int code)
{
    char size[32], limit[32];
    struct rlimit locked = {.rlim_cur = RLIM_INFINITY};
    (void)getrlimit(RLIMIT_MEMLOCK, &locked);
    if (code != ENOMEM || locked.rlim_cur == RLIM_INFINITY)
        return mesh_failed(mesh, "registering memory", code);
    return LKS_FAIL(LKS_ERR_IO,
                    "registering %s with RDMA device %s: %s; this process may lock %s: raise it "
                    "(ulimit -l unlimited, before the ranks start), or set collectives.link=mpi",
                    lks_text_bytes(size, sizeof size, bytes), mesh->port.device, strerror(code),
                    lks_text_bytes(limit, sizeof limit, locked.rlim_cur));
}

lks_status lks_verbs_mesh_register(lks_verbs_mesh *mesh, lks_verbs_region region, void *memory,
                                   size_t bytes)
{
    int access = IBV_ACCESS_LOCAL_WRITE;
    if (bytes == 0)
        return LKS_OK;
    if (region != LKS_VERBS_GRADIENTS)
        access |= IBV_ACCESS_REMOTE_WRITE;
    mesh->regions[region] = mesh->spec.ops->reg_mr(mesh->pd, memory, bytes, access);
    return mesh->regions[region] ? LKS_OK : register_failed(mesh, bytes, errno);
}

lks_status lks_verbs_mesh_reserve(lks_verbs_mesh *mesh, int rank, size_t transfers)
{
    mesh_peer *peer = &mesh->peers[rank];
    return LKS_GROW(&peer->queue, &peer->queue_capacity, transfers);
}
