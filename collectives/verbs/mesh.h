/* All ranks connected with each other: registered memory, and writes into each other's.
 *
 * A write goes out in chunks. Each announces itself at its target with an immediate number and
 * takes up one receive there, so a rank may have only as many chunks under way to a peer as that
 * has receives posted: its credits. The peer gives them back in halves of the window, with
 * messages of their own, of which two at most are under way.
 */
#ifndef LKS_COLLECTIVES_VERBS_MESH_H
#define LKS_COLLECTIVES_VERBS_MESH_H

#include "collectives/comm.h"
#include "collectives/verbs/pair.h"

/* What is registered. Peers write into the last two. */
typedef enum lks_verbs_region {
    LKS_VERBS_GRADIENTS,
    LKS_VERBS_INBOX,
    LKS_VERBS_PARAMETERS,
    LKS_VERBS_REGIONS,
} lks_verbs_region;

enum { LKS_VERBS_TAG_END = 1 << 30 };

typedef struct lks_verbs_transfer {
    lks_verbs_region from, to;
    uint64_t from_offset, to_offset, bytes;
    uint32_t tag; /* of each chunk; below LKS_VERBS_TAG_END */
} lks_verbs_transfer;

typedef struct lks_verbs_mesh lks_verbs_mesh;

typedef struct lks_verbs_mesh_spec {
    lks_comm *comm;
    const lks_verbs_ops *ops; /* borrowed */
    const lks_verbs_options *options;
    /* A chunk from `rank` has arrived; its bytes are in memory. */
    lks_status (*arrived)(void *user, int rank, uint32_t tag);
    void *user;
} lks_verbs_mesh_spec;

/* Chooses and opens the device. */
lks_status lks_verbs_mesh_open(lks_verbs_mesh **out,
                               const lks_verbs_mesh_spec *spec) LKS_MUST_CHECK;
void lks_verbs_mesh_close(lks_verbs_mesh *mesh); /* NULL is fine */
const lks_verbs_port *lks_verbs_mesh_port(const lks_verbs_mesh *mesh);

/* Once per region, before connect; 0 bytes: none. Gone before the memory is freed. */
lks_status lks_verbs_mesh_register(lks_verbs_mesh *mesh, lks_verbs_region region, void *memory,
                                   size_t bytes) LKS_MUST_CHECK;
/* Room for so many transfers to `rank` that wait for credits. */
lks_status lks_verbs_mesh_reserve(lks_verbs_mesh *mesh, int rank, size_t transfers) LKS_MUST_CHECK;
/* (collective) All pairs; then each peer has answered once. */
lks_status lks_verbs_mesh_connect(lks_verbs_mesh *mesh) LKS_MUST_CHECK;

/* The chunks that a transfer of so many bytes has. */
uint32_t lks_verbs_chunks(const lks_verbs_mesh *mesh, uint64_t bytes);
/* In order, to each peer. The source must stay as it is until it has left. */
lks_status lks_verbs_send(lks_verbs_mesh *mesh, int rank,
                          const lks_verbs_transfer *transfer) LKS_MUST_CHECK;
/* Chunks sent that their targets have not yet confirmed. */
uint64_t lks_verbs_under_way(const lks_verbs_mesh *mesh);
/* Takes in what is done; *moved: something was. A failed completion is LKS_ERR_PEER and names it. */
lks_status lks_verbs_poll(lks_verbs_mesh *mesh, bool *moved) LKS_MUST_CHECK;

/* For those who wait: from when on silence counts. */
void lks_verbs_watch_from_now(lks_verbs_mesh *mesh);
/* After a poll that moved nothing. Reads the device's events now and then, asks peers for a sign of life
 * when `waiting`, and is LKS_ERR_PEER when one has given none for verbs.peer_seconds. */
lks_status lks_verbs_watch(lks_verbs_mesh *mesh, bool waiting) LKS_MUST_CHECK;

#endif
