/* Turning files into datasets: text, images, table. Collective: every rank of
 * `comm` calls with equal arguments; the bytes that come out do not depend on how many there are.
 */
#ifndef LKS_DATASETS_PREPARE_H
#define LKS_DATASETS_PREPARE_H

#include "runtime/base/options.h"
#include "runtime/base/status.h"
#include "runtime/datasets/parallel.h"

#include <stdint.h>

/* The settings of every format (--shard-size, --split, --shuffle) stand in one table, those of a
 * format in its own driver (format_driver.h). */
typedef struct lks_prepare_spec {
    const char *format; /* "text", "images", "table" */
    const char *output; /* directory to make; must not exist, or hold only a dataset when `force` */
    const char *const *inputs; /* files; directories stand for their files, sorted */
    int input_count;
    double
        validation_fraction; /* 0: no split; else output/train and output/validation, the latter the
                                   last part of the input */
    bool shuffle;            /* records are shuffled before the cut */
    uint64_t shuffle_seed;
    bool force;
    int64_t shard_bytes;  /* 0: 64 MiB */
    void *format_options; /* the driver's struct, filled through its table */
} lks_prepare_spec;

/* Nothing is left behind on failure. */
lks_status lks_prepare(const lks_prepare_spec *spec, const lks_parallel *parallel) LKS_MUST_CHECK;

const lks_option *lks_prepare_options(const char *format); /* NULL: no such format */
size_t lks_prepare_options_bytes(const char *format);
const char *const *lks_prepare_formats(void); /* NULL-terminated */

/* Converts one raw record as training did, for predict: a CSV row by the column
 * rules in a manifest. Defined in table.h. */

#endif
