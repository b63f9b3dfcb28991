#include "collectives/verbs/link_private.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

static lks_status verbs_look(const lks_link_spec *spec)
{
    lks_verbs_ops ops;
    lks_verbs_port port;
    if (!spec->verbs)
        return LKS_FAIL(LKS_ERR_USAGE, "link verbs needs its options, and this caller has none");
    if (!lks_device_is_host(spec->device))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "link verbs needs a device that computes in the host's memory, not %s: set "
                        "collectives.link=auto",
                        lks_device_name(spec->device));
    LKS_TRY(lks_verbs_library_open(&ops));
    lks_verbs_wish wish = {.options = spec->verbs,
                           .numa_node = lks_verbs_own_numa_node(),
                           .local_rank = lks_comm_local_rank(spec->comm)};
    return lks_verbs_choose(&ops, &wish, &port, NULL);
}

lks_status verbs_usable(const lks_link_spec *spec)
{
    return lks_comm_agree(spec->comm, verbs_look(spec));
}

static int verbs_leaves_of(const verbs_link *link, int rank)
{
    int count = 0;
    for (int i = 0; i < link->shard.leaf_count; ++i)
        count += link->shard.leaves[i].rank == rank;
    return count;
}

/* Inboxes hold the leaves of all but their owner, in order. */
static lks_status verbs_find_owners(verbs_link *link)
{
    LKS_TRY(LKS_NEW_ARRAY(&link->owners, (size_t)link->size));
    for (int r = 0; r < link->size; ++r) {
        verbs_owner *owner = &link->owners[r];
        int before = link->shard.own_leaf - (r < link->rank ? verbs_leaves_of(link, r) : 0);
        lks_shard_owned(&link->shard.spec, r, &owner->offset, &owner->elements);
        owner->inbox_place = (uint64_t)before * owner->elements;
    }
    return LKS_OK;
}

static lks_status verbs_allocate(verbs_link *link)
{
    const lks_link_spec *spec = &link->shard.spec;
    size_t segments = link->shard.segment_count;
    size_t foreign = (size_t)(link->shard.leaf_count - link->own_leaves);
    link->array_bytes = lks_round_up(spec->layout->flat_elements * sizeof(float), LKS_ALIGNMENT);
    link->inbox_bytes = foreign * link->shard.elements * sizeof(float);
    LKS_TRY(LKS_NEW_ARRAY(&link->missing[0], segments));
    LKS_TRY(LKS_NEW_ARRAY(&link->missing[1], segments));
    LKS_TRY(LKS_NEW_ARRAY(&link->ready, segments));
    LKS_TRY(lks_device_allocate(spec->device, link->array_bytes, (void **)&link->parameters));
    LKS_TRY(lks_device_allocate(spec->device, link->array_bytes * (size_t)link->levels,
                                (void **)&link->gradients));
    if (link->inbox_bytes > 0)
        LKS_TRY(lks_device_allocate(spec->device, link->inbox_bytes, (void **)&link->inbox));
    return LKS_OK;
}

float *verbs_gradient(void *instance, int level)
{
    verbs_link *link = instance;
    return link->gradients + link->array_bytes / sizeof(float) * (size_t)level;
}

static void verbs_point_leaves(verbs_link *link)
{
    size_t foreign = 0;
    for (int i = 0; i < link->shard.leaf_count; ++i) {
        lks_leaf *leaf = &link->shard.leaves[i];
        bool own = leaf->rank == link->rank;
        leaf->data = own ? verbs_gradient(link, leaf->level)
                         : link->inbox + foreign++ * link->shard.elements;
        leaf->origin = own ? 0 : link->shard.offset;
    }
}

/* Room for all that a step sends to each owner, should it never give credits back. */
static lks_status verbs_reserve(verbs_link *link)
{
    const lks_link_spec *spec = &link->shard.spec;
    for (int r = 0; r < link->size; ++r) {
        size_t transfers = 1;
        for (uint32_t b = 0; b < spec->buckets->count; ++b) {
            uint64_t offset = 0, elements = 0;
            lks_shard_part(spec, b, r, &offset, &elements);
            transfers += elements > 0 ? (size_t)link->own_leaves : 0;
        }
        LKS_TRY(lks_verbs_mesh_reserve(link->mesh, r, transfers));
    }
    return LKS_OK;
}

static lks_status verbs_prepare(verbs_link *link, const lks_link_spec *spec)
{
    char text[160];
    lks_verbs_mesh_spec mesh = {.comm = spec->comm,
                                .ops = &link->ops,
                                .options = spec->verbs,
                                .arrived = verbs_arrived,
                                .user = link};
    int first_lane = 0, end_lane = 0;
    link->rank = lks_comm_rank(spec->comm);
    link->size = lks_comm_size(spec->comm);
    LKS_TRY(lks_shard_open(&link->shard, spec));
    lks_lanes_of(spec->lanes, link->rank, link->size, &first_lane, &end_lane);
    link->levels = lks_lane_levels(spec->lanes, first_lane, end_lane);
    link->own_leaves = verbs_leaves_of(link, link->rank);
    LKS_TRY(verbs_find_owners(link));
    LKS_TRY(verbs_allocate(link));
    verbs_point_leaves(link);
    LKS_TRY(lks_verbs_library_open(&link->ops));
    LKS_TRY(lks_verbs_mesh_open(&link->mesh, &mesh));
    lks_log_verbose("verbs: %s",
                    lks_verbs_port_text(lks_verbs_mesh_port(link->mesh), text, sizeof text));
    LKS_TRY(verbs_reserve(link));
    LKS_TRY(lks_verbs_mesh_register(link->mesh, LKS_VERBS_GRADIENTS, link->gradients,
                                    link->array_bytes * (size_t)link->levels));
    LKS_TRY(lks_verbs_mesh_register(link->mesh, LKS_VERBS_INBOX, link->inbox, link->inbox_bytes));
    return lks_verbs_mesh_register(link->mesh, LKS_VERBS_PARAMETERS, link->parameters,
                                   link->array_bytes);
}

static void verbs_free_arrays(verbs_link *link)
{
    lks_device *device = link->shard.spec.device;
    if (link->parameters)
        lks_device_free(device, link->parameters, link->array_bytes);
    if (link->gradients)
        lks_device_free(device, link->gradients, link->array_bytes * (size_t)link->levels);
    if (link->inbox)
        lks_device_free(device, link->inbox, link->inbox_bytes);
}

/* A peer whose last confirmation was lost asks for it again: no pair ends before all are done. */
void verbs_close(void *instance)
{
    verbs_link *link = instance;
    if (!link)
        return;
    if (link->connected) {
        lks_status status = lks_comm_barrier(link->shard.spec.comm);
        (void)status;
    }
    lks_verbs_mesh_close(link->mesh);
    verbs_free_arrays(link);
    lks_memory_free(link->owners);
    lks_memory_free(link->missing[0]);
    lks_memory_free(link->missing[1]);
    lks_memory_free(link->ready);
    lks_shard_close(&link->shard);
    lks_memory_free(link);
}

lks_status verbs_open(void **instance, const lks_link_spec *spec)
{
    verbs_link *link = NULL;
    lks_status status = LKS_NEW(&link);
    if (status == LKS_OK)
        status = verbs_prepare(link, spec);
    status = lks_comm_agree(spec->comm, status);
    if (status == LKS_OK)
        status = lks_verbs_mesh_connect(link->mesh);
    if (status != LKS_OK) {
        verbs_close(link);
        return status;
    }
    for (uint64_t i = 0; i < 2; ++i) {
        verbs_expect_partials(link, i);
        verbs_expect_parameters(link, i);
    }
    link->connected = true;
    *instance = link;
    return LKS_OK;
}
