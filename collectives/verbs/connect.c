/* The pairs of a mesh: made, told to all, connected, tried. */
#include "collectives/verbs/mesh_private.h"
#include "runtime/base/memory.h"

#include <string.h>
#include <sys/random.h>

static uint64_t smaller(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static lks_verbs_pair_spec pair_spec(const lks_verbs_mesh *mesh)
{
    return (lks_verbs_pair_spec){.ops = mesh->spec.ops,
                                 .options = mesh->spec.options,
                                 .port = &mesh->port,
                                 .pd = mesh->pd,
                                 .cq = mesh->cq,
                                 .sends = mesh->window + MESH_SENDS_BESIDE,
                                 .receives = mesh->window + MESH_CREDITS_UNDER_WAY};
}

/* ends[r] is what rank r must know of this rank's pair with it. */
static lks_status open_pairs(lks_verbs_mesh *mesh, lks_verbs_end *ends)
{
    lks_verbs_pair_spec spec = pair_spec(mesh);
    for (int r = 0; r < mesh->size; ++r) {
        uint32_t sequence = 0;
        if (r == mesh->rank)
            continue;
        LKS_TRY(lks_verbs_pair_open(&mesh->peers[r].qp, &spec));
        (void)getrandom(&sequence, sizeof sequence, GRND_NONBLOCK); /* any number will do */
        ends[r] = (lks_verbs_end){mesh->peers[r].qp->qp_num, sequence & 0xffffff};
        for (uint32_t i = 0; i < spec.receives; ++i)
            LKS_TRY(mesh_post_receive(mesh, r));
    }
    return LKS_OK;
}

static mesh_card own_card(const lks_verbs_mesh *mesh)
{
    mesh_card card;
    memset(&card, 0, sizeof card); /* padding travels too */
    card.port = mesh->port;
    card.window = mesh->window;
    card.chunk_bytes = mesh->chunk_bytes;
    for (int i = 0; i < LKS_VERBS_REGIONS; ++i) {
        const struct ibv_mr *region = mesh->regions[i];
        card.keys[i] = region ? region->rkey : 0;
        card.addresses[i] = region ? (uint64_t)(uintptr_t)region->addr : 0;
    }
    return card;
}

/* One fabric, and one window for all. */
static lks_status compare_cards(lks_verbs_mesh *mesh)
{
    for (int r = 0; r < mesh->size; ++r) {
        const lks_verbs_port *port = &mesh->cards[r].port;
        if (port->ethernet != mesh->port.ethernet)
            return LKS_FAIL(LKS_ERR_USAGE,
                            "RDMA device %s of host %s is %s, %s of host %s is %s: name devices of "
                            "one kind with verbs.device",
                            mesh->port.device, lks_comm_host(mesh->spec.comm, mesh->rank),
                            mesh->port.ethernet ? "RoCE" : "InfiniBand", port->device,
                            lks_comm_host(mesh->spec.comm, r),
                            port->ethernet ? "RoCE" : "InfiniBand");
        mesh->window = (uint32_t)smaller(mesh->window, mesh->cards[r].window);
        mesh->chunk_bytes = smaller(mesh->chunk_bytes, mesh->cards[r].chunk_bytes);
    }
    return LKS_OK;
}

/* all[p * size + r]: rank p's end towards rank r. */
static lks_status connect_pairs(lks_verbs_mesh *mesh, const lks_verbs_end *all)
{
    lks_verbs_pair_spec spec = pair_spec(mesh);
    LKS_TRY(compare_cards(mesh));
    for (int r = 0; r < mesh->size; ++r) {
        if (r == mesh->rank)
            continue;
        mesh->peers[r].credits = mesh->window;
        LKS_TRY(lks_verbs_pair_connect(mesh->peers[r].qp, &spec, &all[mesh->rank * mesh->size + r],
                                       lks_comm_host(mesh->spec.comm, r), &mesh->cards[r].port,
                                       &all[r * mesh->size + mesh->rank]));
    }
    return LKS_OK;
}

static bool all_answered(const lks_verbs_mesh *mesh)
{
    for (int r = 0; r < mesh->size; ++r)
        if (mesh->peers[r].others > 0)
            return false;
    return true;
}

/* A pair that is connected need not have a way to its peer. */
static lks_status greet(lks_verbs_mesh *mesh)
{
    lks_verbs_watch_from_now(mesh);
    for (int r = 0; r < mesh->size; ++r)
        if (r != mesh->rank)
            LKS_TRY(mesh_ask(mesh, r));
    for (unsigned spins = 0; !all_answered(mesh); ++spins) {
        bool moved = false;
        LKS_TRY(lks_verbs_poll(mesh, &moved));
        LKS_TRY(lks_verbs_watch(mesh, true));
        lks_comm_relax(mesh->spec.comm, spins);
    }
    return LKS_OK;
}

lks_status lks_verbs_mesh_connect(lks_verbs_mesh *mesh)
{
    lks_comm *comm = mesh->spec.comm;
    size_t size = (size_t)mesh->size;
    lks_verbs_end *ends = NULL, *all = NULL;
    lks_status status = LKS_NEW_ARRAY(&ends, size);
    if (status == LKS_OK)
        status = LKS_NEW_ARRAY(&all, size * size);
    if (status == LKS_OK)
        status = open_pairs(mesh, ends);
    status = lks_comm_agree(comm, status);
    mesh_card card = own_card(mesh);
    if (status == LKS_OK)
        status = lks_comm_all_gather_equal(comm, &card, mesh->cards, sizeof card);
    if (status == LKS_OK)
        status = lks_comm_all_gather_equal(comm, ends, all, size * sizeof *ends);
    if (status == LKS_OK)
        status = lks_comm_agree(comm, connect_pairs(mesh, all));
    if (status == LKS_OK)
        status = lks_comm_agree(comm, greet(mesh));
    lks_memory_free(ends);
    lks_memory_free(all);
    return status;
}
