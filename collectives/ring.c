#include "collectives/ring.h"

#include "collectives/comm_private.h"

/* One hop: rank `passing`'s blocks go on to the right, the next ones come from the left. */
static lks_status pass_on(const lks_shard *shard, int passing, float *parameters)
{
    const lks_link_spec *spec = &shard->spec;
    lks_comm_request *send = NULL, *receive = NULL;
    int size = shard->size, right = (shard->rank + 1) % size,
        left = (shard->rank + size - 1) % size;
    uint64_t out = 0, out_elements = 0, in = 0, in_elements = 0;
    lks_shard_owned(spec, passing, &out, &out_elements);
    lks_shard_owned(spec, (passing + size - 1) % size, &in, &in_elements);
    LKS_TRY(lks_comm_receive(spec->comm, left, LKS_TAG_PARAMETERS, parameters + in,
                             in_elements * sizeof(float), &receive));
    LKS_TRY(lks_comm_send(spec->comm, right, LKS_TAG_PARAMETERS, parameters + out,
                          out_elements * sizeof(float), &send));
    LKS_TRY(lks_comm_wait(spec->comm, &receive, NULL));
    return lks_comm_wait(spec->comm, &send, NULL);
}

lks_status lks_ring_gather(const lks_shard *shard, float *parameters)
{
    for (int hop = 0; hop + 1 < shard->size; ++hop)
        LKS_TRY(pass_on(shard, (shard->rank + shard->size - hop) % shard->size, parameters));
    return LKS_OK;
}
