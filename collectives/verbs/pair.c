#include "collectives/verbs/pair.h"

#include <string.h>

/* The QP states and what each step needs: IBTA 1.5, 10.3.1 and 11.2.5.2. */
enum {
    TO_INIT = IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS,
    TO_RECEIVE = IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                 IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER,
    TO_SEND = IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
              IBV_QP_MAX_QP_RD_ATOMIC,
    SHORTEST_RNR_WAIT = 12, /* 0.64 ms until a send without a posted receive is tried again */
    RNR_FOR_EVER = 7,
    MOST_HOPS = 255,
};

static lks_status pair_failed(const lks_verbs_pair_spec *spec, const char *doing, int code)
{
    return LKS_FAIL(LKS_ERR_IO, "%s of RDMA device %s port %d: %s", doing, spec->port->device,
                    spec->port->number, strerror(code));
}

lks_status lks_verbs_pair_open(struct ibv_qp **out, const lks_verbs_pair_spec *spec)
{
    struct ibv_qp_init_attr wanted = {
        .send_cq = spec->cq,
        .recv_cq = spec->cq,
        .cap = {.max_send_wr = spec->sends, .max_recv_wr = spec->receives, .max_send_sge = 1},
        .qp_type = IBV_QPT_RC,
        .sq_sig_all = 1,
    };
    struct ibv_qp_attr attributes = {
        .qp_state = IBV_QPS_INIT,
        .port_num = spec->port->number,
        .qp_access_flags = IBV_ACCESS_REMOTE_WRITE,
    };
    *out = spec->ops->create_qp(spec->pd, &wanted);
    if (!*out)
        return pair_failed(spec, "creating a queue pair", errno);
    int code = spec->ops->modify_qp(*out, &attributes, TO_INIT);
    return code ? pair_failed(spec, "preparing a queue pair", code) : LKS_OK;
}

/* Within an InfiniBand subnet a LID is enough; RoCE and other subnets are reached by GID. */
static struct ibv_ah_attr pair_route(const lks_verbs_pair_spec *spec, const lks_verbs_port *peer)
{
    const lks_verbs_port *own = spec->port;
    struct ibv_ah_attr route = {
        .dlid = peer->lid, .sl = (uint8_t)spec->options->service_level, .port_num = own->number};
    route.is_global =
        own->ethernet || own->gid.global.subnet_prefix != peer->gid.global.subnet_prefix;
    if (route.is_global)
        route.grh = (struct ibv_global_route){
            .dgid = peer->gid,
            .sgid_index = own->gid_index,
            .hop_limit = MOST_HOPS,
            .traffic_class = (uint8_t)spec->options->traffic_class,
        };
    return route;
}

lks_status lks_verbs_pair_connect(struct ibv_qp *qp, const lks_verbs_pair_spec *spec,
                                  const lks_verbs_end *own, const char *host,
                                  const lks_verbs_port *peer_port, const lks_verbs_end *peer)
{
    struct ibv_qp_attr attributes = {
        .qp_state = IBV_QPS_RTR,
        .ah_attr = pair_route(spec, peer_port),
        .path_mtu = spec->port->mtu < peer_port->mtu ? spec->port->mtu : peer_port->mtu,
        .dest_qp_num = peer->number,
        .rq_psn = peer->sequence,
        .min_rnr_timer = SHORTEST_RNR_WAIT,
        .timeout = (uint8_t)spec->options->ack_timeout,
        .retry_cnt = (uint8_t)spec->options->retry_count,
        .rnr_retry = RNR_FOR_EVER,
        .sq_psn = own->sequence,
    };
    int code = spec->ops->modify_qp(qp, &attributes, TO_RECEIVE);
    if (code == 0) {
        attributes.qp_state = IBV_QPS_RTS;
        code = spec->ops->modify_qp(qp, &attributes, TO_SEND);
    }
    if (code == 0)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_IO,
                    "RDMA device %s port %d cannot be connected to %s port %d of %s: %s; see "
                    "whether they are on one network, or name others with verbs.device",
                    spec->port->device, spec->port->number, peer_port->device, peer_port->number,
                    host, strerror(code));
}
