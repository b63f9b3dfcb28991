/* What dataset.c, dataset_read.c and loader.c share. */
#ifndef LKS_DATASETS_DATASET_READ_H
#define LKS_DATASETS_DATASET_READ_H

#include "runtime/datasets/dataset.h"
#include "runtime/datasets/shard.h"

struct lks_dataset {
    lks_manifest *manifest;
    lks_shards *shards;
    lks_schema schema;
    lks_field fields[LKS_SCHEMA_FIELDS];
    uint64_t samples;
};

/* lks_dataset_read with the caller's scratch: a thread that keeps one allocates nothing. */
lks_status lks_dataset_read_with(lks_dataset *dataset, const uint64_t *samples, int64_t count,
                                 void *const *fields, lks_shard_scratch *scratch) LKS_MUST_CHECK;

#endif
