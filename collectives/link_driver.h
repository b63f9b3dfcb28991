/* Links: how gradients and parameters travel between ranks, beneath the reducer.
 *
 * A rank's lanes leave it as a few partials, each a node of the lane tree; partial i
 * lies in the rank's gradient array i (lane_tree.h says which partials each rank has).
 * The reducer says which buckets are final; the link brings the partials of every own
 * block together and sums them in tree order (shard.h).
 */
#ifndef LKS_COLLECTIVES_LINK_DRIVER_H
#define LKS_COLLECTIVES_LINK_DRIVER_H

#include "collectives/reducer.h"

/* Bucket i is blocks [first_block[i], first_block[i + 1]): the same on every rank. */
typedef struct lks_buckets {
    uint32_t count;
    uint32_t *first_block; /* [count + 1] */
} lks_buckets;

/* What a link is opened with; all of it outlives the link. */
typedef struct lks_link_spec {
    lks_comm *comm;
    lks_device *device;
    const lks_layout *layout;
    int lanes;                  /* at least as many as there are ranks */
    const lks_buckets *buckets; /* count times partials of any rank fits below LKS_TAG_PARAMETERS */
    bool any_order;             /* a link whose library adds may leave the order to it */
    double timeout_seconds; /* without an end of what was begun, where a link watches that itself */
    const lks_verbs_options *verbs; /* NULL: none */
} lks_link_spec;

/* A rank's flat arrays and what is summed there, in device memory. Zeroed when a link is opened. */
typedef struct lks_link_arrays {
    float *parameters;
    float *gradients; /* lks_lane_levels of this rank; after sum the first has own blocks' sums */
    double *square_sums;                  /* [own blocks] after sum: theirs */
    size_t array_bytes;                   /* from one gradient array to the next */
    uint64_t shared_bytes, private_bytes; /* of memory: the node's, this rank's */
} lks_link_arrays;

static inline float *lks_link_gradient(const lks_link_arrays *arrays, int level)
{
    return arrays->gradients + arrays->array_bytes / sizeof(float) * (size_t)level;
}

/* Any call but usable may be made only between a successful open and close. Within a step:
 * begin, offer of every bucket once, from the last to the first, progress at will, sum, share, gather, settle. */
typedef struct lks_link_driver {
    const char *name;
    const char *about;
    /* True: when it is usable but cannot be opened, "auto" says so and takes the next. */
    bool may_give_way;
    /* True: one rank takes it only when it is named: to try it. */
    bool alone_by_name;
    /* (collective) Whether it can serve; else LKS_ERR_USAGE and why not. The same on every rank. */
    lks_status (*usable)(const lks_link_spec *spec);
    /* (collective) *arrays lasts as long as the link. */
    lks_status (*open)(void **instance, const lks_link_spec *spec, lks_link_arrays *arrays);
    void (*close)(void *instance); /* (collective) */
    /* The next three are NULL where all is done in sum. */
    lks_status (*begin)(void *instance);
    /* The bucket's blocks are final in all of this rank's partials. Records or starts. */
    lks_status (*offer)(void *instance, uint32_t bucket);
    lks_status (*progress)(void *instance); /* a little work, no waiting */
    /* A call of this link, or a message of the comm, has failed: ends what a library of the link's would keep the device
     * waiting for; nothing but close follows. NULL: nothing does. */
    void (*abandon)(void *instance);
    /* All buckets are offered: when the device has done what it was given, own blocks are summed and own gradient
     * arrays are not needed by messages any more. Adds to *wait_seconds. */
    lks_status (*sum)(void *instance, double *wait_seconds);
    /* (collective) See lks_reducer_share. NULL: only where there is one rank. */
    lks_status (*share)(void *instance, double *numbers, const uint64_t *first);
    /* (collective) Adds to *wait_seconds. */
    lks_status (*gather)(void *instance, double *wait_seconds);
    /* See lks_reducer_settle; adds to *wait_seconds. NULL: nothing is still under way. */
    lks_status (*settle)(void *instance, double *wait_seconds);
} lks_link_driver;

/* NULL-terminated; written by Meson. Built in; a device's module brings more (link.c). */
extern const lks_link_driver *const lks_link_drivers[];

#endif
