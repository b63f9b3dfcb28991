/* The order of samples: a keyed permutation, computable at any position in O(1).
 *
 * Position p of a job is sample order_e(p mod N) of epoch e = p div N. The
 * permutation is a Feistel network with cycle walking (Black and Rogaway, "Ciphers with arbitrary
 * finite domains", CT-RSA 2002), on two levels: runs of consecutive samples are
 * permuted, then the samples within windows of runs, so that a disk sees runs
 * while a batch mixes many of them. With run_samples 1 it is one permutation of
 * all samples.
 */
#ifndef LKS_DATASETS_ORDER_H
#define LKS_DATASETS_ORDER_H

#include <stdint.h>

typedef struct lks_order {
    uint64_t samples; /* N >= 1 */
    uint64_t seed;
    uint64_t run_samples; /* samples per run, >= 1 */
    uint64_t window_runs; /* runs per window, >= 1 */
} lks_order;

/* The rule that picks run and window from N and the bytes of a sample; part of the job's identity. */
lks_order lks_order_create(uint64_t samples, uint64_t sample_bytes, uint64_t seed);
uint64_t lks_order_sample(const lks_order *order, uint64_t position);

#endif
