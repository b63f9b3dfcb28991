/* What prepare learns of a table's columns from the training part.
 *
 * Means and squared deviations are taken over fixed chunks of rows (Welford, Technometrics 1962) and combined
 * in the order of the chunks (Chan, Golub, LeVeque, 1979), so that they do not depend on who read which chunk.
 */
#ifndef LKS_DATASETS_TABLE_STATISTICS_H
#define LKS_DATASETS_TABLE_STATISTICS_H

#include "runtime/base/status.h"

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

typedef struct lks_table_moments {
    uint64_t chunk, count;
    double mean, squares; /* squares: sum of (x - mean)^2 */
} lks_table_moments;

typedef struct lks_table_statistics {
    bool want_values;   /* set by the caller: collect the different texts */
    size_t most_values; /* and give up beyond so many */

    uint64_t present, missing;
    bool numbers;   /* every value so far is a number */
    bool fractions; /* and some are not whole */
    json_t *values; /* {text: true}; NULL: not wanted or too many */
    bool too_many;
    lks_table_moments *moments; /* a chunk each, in order */
    size_t moment_count, moment_capacity;
    lks_table_moments total; /* once merged */
} lks_table_statistics;

lks_status lks_table_statistics_init(lks_table_statistics *statistics, bool want_values,
                                     size_t most_values) LKS_MUST_CHECK;
void lks_table_statistics_release(lks_table_statistics *statistics);
lks_status lks_table_statistics_start_chunk(lks_table_statistics *statistics,
                                            uint64_t chunk) LKS_MUST_CHECK;
/* `text` NULL: a missing value. Text that is not UTF-8 is LKS_ERR_CORRUPT without a place. */
lks_status lks_table_statistics_add(lks_table_statistics *statistics,
                                    const char *text) LKS_MUST_CHECK;

/* What the ranks exchange. */
json_t *lks_table_statistics_to_json(const lks_table_statistics *statistics);
/* The union of every rank's, into a fresh `statistics`. */
lks_status lks_table_statistics_merge(lks_table_statistics *statistics,
                                      const json_t *one) LKS_MUST_CHECK;
void lks_table_statistics_combine(lks_table_statistics *statistics);

double lks_table_statistics_deviation(const lks_table_statistics *statistics); /* 1 if constant */

/* The values as a new array of texts: in byte order, or by number when `numeric`. */
json_t *lks_table_statistics_sorted(const lks_table_statistics *statistics, bool numeric);

#endif
