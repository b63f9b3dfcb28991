/* Turning files into datasets: text, images, table.
 *
 * README.md has the formats. The settings of every format (--output, --split, --shuffle) stand
 * in lks_prepare_spec, those of one format in its own table (format_driver.h).
 */
#ifndef LKS_DATASETS_PREPARE_H
#define LKS_DATASETS_PREPARE_H

#include "runtime/base/options.h"
#include "runtime/base/status.h"
#include "runtime/datasets/parallel.h"

#include <stdint.h>

typedef struct lks_prepare_spec {
    const char *format;        /* "text", "images", "table" */
    const char *output;        /* directory to make; must not exist, or hold only a dataset (or
                           a train and validation pair) when `force` */
    const char *const *inputs; /* files; directories stand for their files, sorted */
    int input_count;
    double validation_fraction; /* 0: no split; else output/train and output/validation, the
                                   latter the last floor(fraction N) of N records */
    bool shuffle;               /* records are shuffled before the cut; refused for text */
    uint64_t shuffle_seed;
    bool force;
    int64_t shard_bytes;        /* 0: 64 MiB */
    const void *format_options; /* the driver's struct, filled through its table */
} lks_prepare_spec;

/* Collective: every rank calls with equal arguments and gets the same status. The bytes
 * that come out do not depend on how many ranks there are. Nothing is left behind on failure.
 * LKS_ERR_USAGE: a missing input, an output that exists, an option that does not fit;
 * LKS_ERR_CORRUPT: bad input, with file and place; LKS_ERR_IO: the output cannot be written. */
lks_status lks_prepare(const lks_prepare_spec *spec, const lks_parallel *parallel) LKS_MUST_CHECK;

const lks_option *lks_prepare_options(const char *format); /* NULL: no such format */
size_t lks_prepare_options_bytes(const char *format);
const char *lks_prepare_about(const char *format);
const char *const *lks_prepare_formats(void); /* NULL-terminated */

#endif
