/* Links: how gradients and parameters travel between ranks, beneath the reducer.
 *
 * A rank's lanes leave it as a few partials, each a node of the lane tree. The
 * reducer says which buckets are final; the link brings the partials of every own
 * block together and sums them in tree order (lks_device_sum_partials).
 */
#ifndef LKS_COLLECTIVES_LINK_DRIVER_H
#define LKS_COLLECTIVES_LINK_DRIVER_H

#include "collectives/reducer.h"

/* What a link is opened with; all of it outlives the link. */
typedef struct lks_link_spec {
    lks_comm *comm;
    lks_device *device;
    const lks_layout *layout;
    int lanes;
    uint32_t bucket_blocks_bytes;
    int levels; /* gradient buffers that this rank needs */
} lks_link_spec;

typedef struct lks_link_driver {
    const char *name;
    const char *about;
    /* Whether it can serve this communicator; else why not, in lks_status_message. */
    lks_status (*usable)(const lks_comm *comm);
    lks_status (*open)(void **instance, const lks_link_spec *spec); /* (collective) */
    void (*close)(void *instance);                                  /* (collective) */
    float *(*parameters)(void *instance);
    float *(*gradient)(void *instance, int level); /* flat array of that pending level */
    lks_status (*publish)(void *instance);         /* (collective) */
    lks_status (*begin)(void *instance);
    /* Blocks [first, end) of this rank's partials are final; partials[i].data are
     * flat arrays. May be called from gradient_final: only records or starts. */
    lks_status (*offer)(void *instance, uint32_t first_block, uint32_t end_block,
                        const lks_partial *partials, int partial_count);
    lks_status (*progress)(void *instance);
    lks_status (*sum)(void *instance, double *wait_seconds); /* all own blocks summed */
    const float *(*block)(void *instance, uint32_t block, double *square_sum);
    lks_status (*gather)(void *instance, double *wait_seconds); /* (collective) */
    void (*memory)(void *instance, uint64_t *shared_bytes, uint64_t *private_bytes);
} lks_link_driver;

extern const lks_link_driver *const lks_link_drivers[]; /* NULL-terminated; written by Meson */

#endif
