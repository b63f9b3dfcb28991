#include "collectives/nccl/nodes.h"

lks_lane_span lks_nodes_lanes(const lks_nodes *nodes, const lks_link_spec *spec, int node)
{
    int size = lks_comm_size(spec->comm), unused;
    lks_lane_span span;
    lks_lanes_of(spec->lanes, node * nodes->ranks, size, &span.first, &unused);
    lks_lanes_of(spec->lanes, node * nodes->ranks + nodes->ranks - 1, size, &unused, &span.end);
    return span;
}

static bool nodes_are_even(const lks_nodes *nodes, const lks_link_spec *spec)
{
    int size = lks_comm_size(spec->comm);
    if (nodes->ranks * nodes->count != size)
        return false;
    for (int rank = 0; rank < size; ++rank)
        if (lks_comm_node_of(spec->comm, rank) != rank / nodes->ranks)
            return false;
    for (int node = 0; node < nodes->count; ++node) {
        lks_lane_span span = lks_nodes_lanes(nodes, spec, node);
        if (!lks_lane_is_node(spec->lanes, span.first, span.end))
            return false;
    }
    return true;
}

void lks_nodes_find(lks_nodes *out, const lks_link_spec *spec)
{
    int size = lks_comm_size(spec->comm), rank = lks_comm_rank(spec->comm);
    int count = lks_comm_node_count(spec->comm);
    *out = (lks_nodes){.count = count, .ranks = size / count};
    if (!nodes_are_even(out, spec))
        *out = (lks_nodes){.count = 1, .ranks = size};
    out->node = rank / out->ranks;
    out->index = rank % out->ranks;
}
