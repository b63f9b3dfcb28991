/* Silence and events: how a peer, a port or a cable that is gone comes to be known. */
#include "collectives/verbs/mesh_private.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <stdio.h>

static const uint64_t watch_every_ns = 20000000;

/* A port that is not active now is likely the reason. */
static const char *own_port_state(const lks_verbs_mesh *mesh)
{
    struct ibv_port_attr port = {.state = IBV_PORT_NOP};
    if (mesh->spec.ops->query_port(mesh->context, mesh->port.number, &port) == 0 &&
        port.state == IBV_PORT_ACTIVE)
        return "";
    return ", which is not active any more";
}

lks_status mesh_lost(lks_verbs_mesh *mesh, int rank, const char *what)
{
    const lks_verbs_port *theirs = &mesh->cards[rank].port;
    return LKS_FAIL(LKS_ERR_PEER,
                    "peer lost: rank %d on host %s (%s port %d), through %s port %d of this "
                    "host%s: %s; see whether that host, a cable or a switch is down",
                    rank, lks_comm_host(mesh->spec.comm, rank), theirs->device, theirs->number,
                    mesh->port.device, mesh->port.number, own_port_state(mesh), what);
}

static lks_status heed_event(lks_verbs_mesh *mesh, const struct ibv_async_event *event)
{
    const char *name = mesh->spec.ops->event_type_str(event->event_type);
    switch (event->event_type) {
    case IBV_EVENT_PORT_ERR:
    case IBV_EVENT_PORT_ACTIVE:
        if (event->element.port_num == mesh->port.number)
            lks_log_warn("RDMA device %s port %d: %s", mesh->port.device, mesh->port.number, name);
        return LKS_OK;
    case IBV_EVENT_QP_FATAL:
    case IBV_EVENT_QP_REQ_ERR:
    case IBV_EVENT_QP_ACCESS_ERR:
    case IBV_EVENT_CQ_ERR:
    case IBV_EVENT_DEVICE_FATAL:
        return LKS_FAIL(LKS_ERR_PEER,
                        "peers lost: RDMA device %s of this host reports \"%s\": see the kernel's "
                        "log for why",
                        mesh->port.device, name);
    default:
        lks_log_verbose("RDMA device %s: %s", mesh->port.device, name);
        return LKS_OK;
    }
}

static lks_status read_events(lks_verbs_mesh *mesh)
{
    const lks_verbs_ops *ops = mesh->spec.ops;
    struct ibv_async_event event;
    while (ops->get_async_event(mesh->context, &event) == 0) {
        lks_status status = heed_event(mesh, &event);
        ops->ack_async_event(&event);
        LKS_TRY(status);
    }
    return LKS_OK;
}

/* A peer that computes answers too: its port does it. */
static lks_status watch_peer(lks_verbs_mesh *mesh, int rank, uint64_t now)
{
    mesh_peer *peer = &mesh->peers[rank];
    double limit_ns = mesh->spec.options->peer_seconds * 1e9;
    uint64_t since =
        peer->quiet_since_ns > mesh->watch_from_ns ? peer->quiet_since_ns : mesh->watch_from_ns;
    double quiet_ns = now > since ? (double)(now - since) : 0;
    if (peer->chunks + peer->others == 0)
        return quiet_ns > limit_ns / 4 ? mesh_ask(mesh, rank) : LKS_OK;
    if (quiet_ns <= limit_ns)
        return LKS_OK;
    char what[64];
    snprintf(what, sizeof what, "no answer for %.1f s", quiet_ns * 1e-9);
    return mesh_lost(mesh, rank, what);
}

void lks_verbs_watch_from_now(lks_verbs_mesh *mesh)
{
    mesh->watch_from_ns = lks_clock_ns();
}

lks_status lks_verbs_watch(lks_verbs_mesh *mesh, bool waiting)
{
    uint64_t now = lks_clock_ns();
    if (now < mesh->next_watch_ns)
        return LKS_OK;
    mesh->next_watch_ns = now + watch_every_ns;
    LKS_TRY(read_events(mesh));
    for (int r = 0; waiting && r < mesh->size; ++r)
        if (r != mesh->rank)
            LKS_TRY(watch_peer(mesh, r, now));
    return LKS_OK;
}
