/* The feed: the loader's micro-batches where the device's kernels can read them.
 *
 * On a host device they are the loader's own memory. Elsewhere they are copied from the loader's
 * pinned ring to one of two places in device memory while the kernels of the one before run.
 */
#ifndef LKS_TRAIN_FEED_H
#define LKS_TRAIN_FEED_H

#include "kernels/device.h"
#include "runtime/datasets/loader.h"

typedef struct lks_feed lks_feed;

/* Both are borrowed and outlive it. Not collective. */
lks_status lks_feed_open(lks_feed **out, lks_loader *loader, lks_device *device,
                         const lks_schema *schema, int64_t micro_batch) LKS_MUST_CHECK;
void lks_feed_close(lks_feed *feed);         /* NULL is fine */
size_t lks_feed_bytes(const lks_feed *feed); /* of device memory */

/* The next micro-batch: `batch` as the loader gave it, for the host; device memory for kernels. Both are
 * valid until the next call of this. */
typedef struct lks_fed {
    lks_batch batch;
    const void *const *inputs; /* [schema.field_count] */
    const uint64_t *positions; /* [micro-batch] */
} lks_fed;
lks_status lks_feed_next(lks_feed *feed, lks_fed *out) LKS_MUST_CHECK;

#endif
