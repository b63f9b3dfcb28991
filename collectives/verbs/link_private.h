/* What link.c and link_open.c share of a link. */
#ifndef LKS_COLLECTIVES_VERBS_LINK_PRIVATE_H
#define LKS_COLLECTIVES_VERBS_LINK_PRIVATE_H

#include "collectives/shard.h"
#include "collectives/verbs/mesh.h"

/* Where a rank's partials go in an owner's inbox, and what it owns. */
typedef struct verbs_owner {
    uint64_t offset, elements; /* in a flat array */
    uint64_t inbox_place;      /* elements: of this rank's first partial */
} verbs_owner;

typedef struct verbs_link {
    lks_shard shard;
    lks_verbs_ops ops;
    lks_verbs_mesh *mesh;
    verbs_owner *owners;            /* [size] */
    uint64_t step, gather;          /* their numbers */
    uint32_t *missing[2];           /* [segments] chunks, and own offer, of even and odd steps */
    uint32_t parameters_missing[2]; /* chunks */
    bool connected;
} verbs_link;

/* As lks_link_driver has them. */
lks_status verbs_usable(const lks_link_spec *spec) LKS_MUST_CHECK;
lks_status verbs_open(void **instance, const lks_link_spec *spec,
                      lks_link_arrays *arrays) LKS_MUST_CHECK;
void verbs_close(void *instance);

/* What step, and gather, number so-and-so will bring. */
void verbs_expect_partials(verbs_link *link, uint64_t step);
void verbs_expect_parameters(verbs_link *link, uint64_t gather);
/* As lks_verbs_mesh_spec has it. */
lks_status verbs_arrived(void *user, int rank, uint32_t tag) LKS_MUST_CHECK;

#endif
