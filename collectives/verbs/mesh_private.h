/* What mesh.c, traffic.c and watch.c share of a mesh. */
#ifndef LKS_COLLECTIVES_VERBS_MESH_PRIVATE_H
#define LKS_COLLECTIVES_VERBS_MESH_PRIVATE_H

#include "collectives/verbs/mesh.h"

/* What a rank tells all others. */
typedef struct mesh_card {
    lks_verbs_port port;
    uint32_t window;
    uint32_t keys[LKS_VERBS_REGIONS];
    uint64_t chunk_bytes;
    uint64_t addresses[LKS_VERBS_REGIONS];
} mesh_card;

typedef struct mesh_peer {
    struct ibv_qp *qp;
    lks_verbs_transfer *queue; /* a ring of transfers whose chunks wait for credits */
    size_t queue_capacity, queue_first, queue_count;
    uint64_t queue_sent; /* bytes of its first */
    uint32_t credits;    /* chunks that may be sent */
    uint32_t owed;       /* chunks received and not yet given back */
    uint32_t chunks;     /* posted, not completed */
    uint32_t others;     /* credits and questions posted, not completed */
    uint64_t quiet_since_ns;
} mesh_peer;

struct lks_verbs_mesh {
    lks_verbs_mesh_spec spec;
    lks_verbs_port port;
    struct ibv_context *context;
    struct ibv_pd *pd;
    struct ibv_cq *cq;
    struct ibv_mr *regions[LKS_VERBS_REGIONS];
    uint32_t window; /* chunks under way to one peer */
    int rank, size;
    mesh_peer *peers; /* [size] */
    mesh_card *cards; /* [size] */
    uint64_t chunk_bytes, under_way;
    uint64_t watch_from_ns, next_watch_ns;
};

/* What a work request was: with the peer's rank in its number. */
typedef enum mesh_work {
    MESH_CHUNK,
    MESH_CREDIT,
    MESH_QUESTION, /* an empty write, which the peer's port answers by itself */
    MESH_RECEIVE,
} mesh_work;

enum {
    MESH_WINDOW = 64,
    MESH_CREDITS_UNDER_WAY = 2, /* messages, to one peer that has not taken them in */
    MESH_SENDS_BESIDE = 8,      /* credits, confirmed late, and a question */
};

lks_status mesh_post_receive(lks_verbs_mesh *mesh, int rank) LKS_MUST_CHECK;
lks_status mesh_ask(lks_verbs_mesh *mesh, int rank) LKS_MUST_CHECK;
lks_status mesh_lost(lks_verbs_mesh *mesh, int rank, const char *what) LKS_MUST_CHECK;

#endif
