/* A format that prepare reads, for its implementers.
 *
 * The steps: open finds the records; learn takes statistics of the training part;
 * read yields records, converted, for any part. Functions marked collective return the same
 * status on every rank; what a source holds after them is the same on every rank.
 */
#ifndef LKS_DATASETS_FORMAT_DRIVER_H
#define LKS_DATASETS_FORMAT_DRIVER_H

#include "runtime/base/options.h"
#include "runtime/base/status.h"
#include "runtime/datasets/inputs.h"
#include "runtime/datasets/order.h"
#include "runtime/datasets/parallel.h"
#include "runtime/datasets/shard_writer.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* Outlives the source. */
typedef struct lks_format_job {
    const lks_inputs *inputs;
    const void *options; /* the driver's struct */
    const lks_parallel *parallel;
    const char *scratch; /* a directory that all ranks see, removed with what it holds */
    bool shuffled;       /* records will be read in any order */
} lks_format_job;

/* Positions [first, first + count) of the records, which `order` permutes (NULL: it does not). */
typedef struct lks_format_part {
    uint64_t first, count;
    const lks_order *order;
} lks_format_part;

static inline uint64_t lks_format_record(const lks_format_part *part, uint64_t index)
{
    uint64_t position = part->first + index;
    return part->order ? lks_order_sample(part->order, position) : position;
}

/* The longest run of consecutive records from `index` on, at most `limit`. */
static inline uint64_t lks_format_run(const lks_format_part *part, uint64_t index, uint64_t limit)
{
    if (!part->order)
        return limit;
    uint64_t first = lks_format_record(part, index), run = 1;
    while (run < limit && lks_format_record(part, index + run) == first + run)
        ++run;
    return run;
}

typedef struct lks_format_driver {
    const char *name;  /* as in `prepare <name>`, and the manifest's kind */
    const char *about; /* one line */
    const lks_option *options;
    size_t options_bytes;
    const char *no_shuffle; /* why records cannot be shuffled; NULL: they can */
    uint64_t least_records; /* that a dataset needs */

    /* Collective. Checks the inputs and counts the records. */
    lks_status (*open)(void **source, const lks_format_job *job);
    void (*close)(void *source); /* NULL is fine */
    uint64_t (*records)(const void *source);

    /* Collective. Called once, before arrays, read and describe. */
    lks_status (*learn)(void *source, const lks_format_part *training);
    /* The arrays of a shard; they live as long as the source. */
    const lks_shard_array *(*arrays)(const void *source, int *count);
    /* Records [index, index + count) of a part; data[i] is count x the shape of array i. */
    lks_status (*read)(void *source, const lks_format_part *part, uint64_t index, uint64_t count,
                       void *const *data);
    /* The manifest's "schema", and "statistics" (NULL: none); new references. */
    lks_status (*describe)(const void *source, json_t **schema, json_t **statistics);
} lks_format_driver;

/* Written by Meson; end in NULL. */
extern const lks_format_driver *const lks_format_drivers[];
extern const char *const lks_format_names[];

#endif
