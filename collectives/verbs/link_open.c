#include "collectives/verbs/link_private.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

static lks_status verbs_look(const lks_link_spec *spec)
{
    lks_verbs_ops ops;
    lks_verbs_port port;
    if (!spec->verbs)
        return LKS_FAIL(LKS_ERR_USAGE, "link verbs needs its options, and this caller has none");
    LKS_TRY(lks_shard_on_host(spec, "verbs"));
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
    LKS_TRY(LKS_NEW_ARRAY(&link->owners, (size_t)link->shard.size));
    for (int r = 0; r < link->shard.size; ++r) {
        verbs_owner *owner = &link->owners[r];
        int before = link->shard.own_leaf - (r < link->shard.rank ? verbs_leaves_of(link, r) : 0);
        lks_shard_owned(&link->shard.spec, r, &owner->offset, &owner->elements);
        owner->inbox_place = (uint64_t)before * owner->elements;
    }
    return LKS_OK;
}

static lks_status verbs_allocate(verbs_link *link)
{
    LKS_TRY(LKS_NEW_ARRAY(&link->missing[0], link->shard.segment_count));
    LKS_TRY(LKS_NEW_ARRAY(&link->missing[1], link->shard.segment_count));
    LKS_TRY(lks_shard_allocate(&link->shard, LKS_ALIGNMENT));
    return lks_shard_allocate_inbox(&link->shard);
}

/* Room for all that a step sends to each owner, should it never give credits back. */
static lks_status verbs_reserve(verbs_link *link)
{
    const lks_link_spec *spec = &link->shard.spec;
    for (int r = 0; r < link->shard.size; ++r) {
        size_t transfers = 1;
        for (uint32_t b = 0; b < spec->buckets->count; ++b) {
            uint64_t offset = 0, elements = 0;
            lks_shard_part(spec, b, r, &offset, &elements);
            transfers += elements > 0 ? (size_t)link->shard.own_leaves : 0;
        }
        LKS_TRY(lks_verbs_mesh_reserve(link->mesh, r, transfers));
    }
    return LKS_OK;
}

static lks_status verbs_register(verbs_link *link)
{
    const lks_shard *shard = &link->shard;
    const lks_link_arrays *arrays = &shard->arrays;
    LKS_TRY(lks_verbs_mesh_register(link->mesh, LKS_VERBS_GRADIENTS, arrays->gradients,
                                    arrays->array_bytes * (size_t)shard->levels));
    LKS_TRY(lks_verbs_mesh_register(link->mesh, LKS_VERBS_INBOX, shard->inbox, shard->inbox_bytes));
    return lks_verbs_mesh_register(link->mesh, LKS_VERBS_PARAMETERS, arrays->parameters,
                                   arrays->array_bytes);
}

static lks_status verbs_prepare(verbs_link *link, const lks_link_spec *spec)
{
    char text[160];
    lks_verbs_mesh_spec mesh = {.comm = spec->comm,
                                .ops = &link->ops,
                                .options = spec->verbs,
                                .arrived = verbs_arrived,
                                .user = link};
    LKS_TRY(lks_shard_open(&link->shard, spec));
    LKS_TRY(verbs_find_owners(link));
    LKS_TRY(verbs_allocate(link));
    LKS_TRY(lks_verbs_library_open(&link->ops));
    LKS_TRY(lks_verbs_mesh_open(&link->mesh, &mesh));
    lks_log_verbose("verbs: %s",
                    lks_verbs_port_text(lks_verbs_mesh_port(link->mesh), text, sizeof text));
    LKS_TRY(verbs_reserve(link));
    return verbs_register(link);
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
    lks_memory_free(link->owners);
    lks_memory_free(link->missing[0]);
    lks_memory_free(link->missing[1]);
    lks_shard_close(&link->shard);
    lks_memory_free(link);
}

lks_status verbs_open(void **instance, const lks_link_spec *spec, lks_link_arrays *arrays)
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
    *arrays = link->shard.arrays;
    return LKS_OK;
}
