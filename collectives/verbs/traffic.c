#include "collectives/verbs/mesh_private.h"
#include "runtime/base/clock.h"

#include <arpa/inet.h>
#include <string.h>

/* The immediate number: a chunk's tag, or this bit and a count of credits. */
static const uint32_t credit_bit = (uint32_t)1 << 31;

static uint64_t work_number(int rank, mesh_work work)
{
    return (uint64_t)rank << 8 | work;
}

static lks_status post_failed(const lks_verbs_mesh *mesh, const char *doing, int code)
{
    return LKS_FAIL(LKS_ERR_IO, "%s through RDMA device %s port %d: %s", doing, mesh->port.device,
                    mesh->port.number, strerror(code));
}

lks_status mesh_post_receive(lks_verbs_mesh *mesh, int rank)
{
    struct ibv_recv_wr work = {.wr_id = work_number(rank, MESH_RECEIVE)}, *bad = NULL;
    int code = ibv_post_recv(mesh->peers[rank].qp, &work, &bad);
    return code ? post_failed(mesh, "posting a receive", code) : LKS_OK;
}

static lks_status post_send(lks_verbs_mesh *mesh, int rank, struct ibv_send_wr *work)
{
    mesh_peer *peer = &mesh->peers[rank];
    struct ibv_send_wr *bad = NULL;
    if (peer->chunks + peer->others == 0)
        peer->quiet_since_ns = lks_clock_ns();
    int code = ibv_post_send(peer->qp, work, &bad);
    return code ? post_failed(mesh, "sending", code) : LKS_OK;
}

lks_status mesh_ask(lks_verbs_mesh *mesh, int rank)
{
    struct ibv_send_wr work = {.wr_id = work_number(rank, MESH_QUESTION),
                               .opcode = IBV_WR_RDMA_WRITE};
    LKS_TRY(post_send(mesh, rank, &work));
    ++mesh->peers[rank].others;
    return LKS_OK;
}

/* When they are worth a message. */
static lks_status give_credits(lks_verbs_mesh *mesh, int rank)
{
    mesh_peer *peer = &mesh->peers[rank];
    if (peer->owed < mesh->window / 2 || peer->others + 1 >= MESH_SENDS_BESIDE)
        return LKS_OK;
    struct ibv_send_wr work = {.wr_id = work_number(rank, MESH_CREDIT),
                               .opcode = IBV_WR_RDMA_WRITE_WITH_IMM,
                               .imm_data = htonl(credit_bit | peer->owed)};
    LKS_TRY(post_send(mesh, rank, &work));
    peer->owed = 0;
    ++peer->others;
    return LKS_OK;
}

static lks_status post_chunk(lks_verbs_mesh *mesh, int rank, const lks_verbs_transfer *transfer,
                             uint64_t at, uint64_t bytes)
{
    const struct ibv_mr *from = mesh->regions[transfer->from];
    const mesh_card *card = &mesh->cards[rank];
    struct ibv_sge piece = {.addr = (uint64_t)(uintptr_t)from->addr + transfer->from_offset + at,
                            .length = (uint32_t)bytes,
                            .lkey = from->lkey};
    struct ibv_send_wr work = {
        .wr_id = work_number(rank, MESH_CHUNK),
        .sg_list = &piece,
        .num_sge = 1,
        .opcode = IBV_WR_RDMA_WRITE_WITH_IMM,
        .imm_data = htonl(transfer->tag),
        .wr.rdma = {.remote_addr = card->addresses[transfer->to] + transfer->to_offset + at,
                    .rkey = card->keys[transfer->to]},
    };
    return post_send(mesh, rank, &work);
}

/* Sends as many waiting chunks as there are credits. */
static lks_status pump(lks_verbs_mesh *mesh, int rank)
{
    mesh_peer *peer = &mesh->peers[rank];
    while (peer->queue_count > 0 && peer->credits > 0 && peer->chunks < mesh->window) {
        const lks_verbs_transfer *first = &peer->queue[peer->queue_first];
        uint64_t left = first->bytes - peer->queue_sent;
        uint64_t bytes = left < mesh->chunk_bytes ? left : mesh->chunk_bytes;
        LKS_TRY(post_chunk(mesh, rank, first, peer->queue_sent, bytes));
        --peer->credits;
        ++peer->chunks;
        peer->queue_sent += bytes;
        if (bytes == left) {
            peer->queue_first = (peer->queue_first + 1) % peer->queue_capacity;
            --peer->queue_count;
            peer->queue_sent = 0;
        }
    }
    return LKS_OK;
}

uint32_t lks_verbs_chunks(const lks_verbs_mesh *mesh, uint64_t bytes)
{
    return (uint32_t)((bytes + mesh->chunk_bytes - 1) / mesh->chunk_bytes);
}

lks_status lks_verbs_send(lks_verbs_mesh *mesh, int rank, const lks_verbs_transfer *transfer)
{
    mesh_peer *peer = &mesh->peers[rank];
    if (peer->queue_count == peer->queue_capacity)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%zu transfers wait for rank %d, room is for no more",
                        peer->queue_count, rank);
    peer->queue[(peer->queue_first + peer->queue_count++) % peer->queue_capacity] = *transfer;
    mesh->under_way += lks_verbs_chunks(mesh, transfer->bytes);
    return pump(mesh, rank);
}

uint64_t lks_verbs_under_way(const lks_verbs_mesh *mesh)
{
    return mesh->under_way;
}

/* The receive that a message took up is posted again before its credit is given back. */
static lks_status take_in(lks_verbs_mesh *mesh, int rank, uint32_t immediate)
{
    mesh_peer *peer = &mesh->peers[rank];
    LKS_TRY(mesh_post_receive(mesh, rank));
    if (immediate & credit_bit) {
        peer->credits += immediate & ~credit_bit;
        return pump(mesh, rank);
    }
    ++peer->owed;
    LKS_TRY(give_credits(mesh, rank));
    return mesh->spec.arrived(mesh->spec.user, rank, immediate);
}

static lks_status complete(lks_verbs_mesh *mesh, const struct ibv_wc *done)
{
    int rank = (int)(done->wr_id >> 8);
    mesh_work work = (mesh_work)(done->wr_id & 255);
    mesh_peer *peer = &mesh->peers[rank];
    if (done->status != IBV_WC_SUCCESS)
        return mesh_lost(mesh, rank, mesh->spec.ops->wc_status_str(done->status));
    peer->quiet_since_ns = lks_clock_ns();
    switch (work) {
    case MESH_CHUNK:
        --peer->chunks;
        --mesh->under_way;
        return pump(mesh, rank);
    case MESH_CREDIT:
    case MESH_QUESTION:
        --peer->others;
        return give_credits(mesh, rank);
    case MESH_RECEIVE:
        break;
    }
    return take_in(mesh, rank, ntohl(done->imm_data));
}

lks_status lks_verbs_poll(lks_verbs_mesh *mesh, bool *moved)
{
    enum { AT_ONCE = 16 };
    struct ibv_wc done[AT_ONCE];
    int count = AT_ONCE;
    *moved = false;
    while (count == AT_ONCE) {
        count = ibv_poll_cq(mesh->cq, AT_ONCE, done);
        if (count < 0)
            return post_failed(mesh, "reading completions", errno);
        for (int i = 0; i < count; ++i)
            LKS_TRY(complete(mesh, &done[i]));
        *moved = *moved || count > 0;
    }
    return LKS_OK;
}
