/* How the numbers of a step are added up: the same code on every device. */
#ifndef LKS_KERNELS_TOTALS_H
#define LKS_KERNELS_TOTALS_H

#include "kernels/device.h"

#include <math.h>

/* Set before the first include where the functions are for another kind of processor too. */
#ifndef LKS_TOTALS_QUALIFIER
#define LKS_TOTALS_QUALIFIER
#endif

/* One number of a lane: over its micro-batches, in order. */
static inline LKS_TOTALS_QUALIFIER double
lks_totals_stat(const double *stats, uint32_t micro_batches, uint32_t lane, uint32_t stat)
{
    double sum = 0;
    for (uint32_t i = 0; i < micro_batches; ++i)
        sum += stats[((size_t)lane * micro_batches + i) * LKS_STATS + stat];
    return sum;
}

static inline LKS_TOTALS_QUALIFIER lks_totals lks_totals_none(void)
{
    lks_totals totals = {0, 0, 0, 0, 0, -1, -1, 0};
    return totals;
}

static inline LKS_TOTALS_QUALIFIER void lks_totals_add_lane(lks_totals *totals, const double *sums,
                                                            uint32_t lane)
{
    totals->loss_sum += sums[0];
    totals->targets += sums[1];
    totals->correct += sums[2];
    if (totals->bad_lane < 0 && !isfinite(sums[0]))
        totals->bad_lane = lane;
}

static inline LKS_TOTALS_QUALIFIER void lks_totals_add_block(lks_totals *totals, double square_sum,
                                                             uint32_t block)
{
    totals->square_sum += square_sum;
    if (totals->bad_block < 0 && !isfinite(square_sum))
        totals->bad_block = block;
}

static inline LKS_TOTALS_QUALIFIER void lks_totals_finish(lks_totals *totals, double clip_norm)
{
    double targets = totals->targets > 0 ? totals->targets : 1;
    totals->norm = sqrt(totals->square_sum) / targets;
    double factor = clip_norm > 0 && totals->norm > clip_norm ? clip_norm / totals->norm : 1;
    totals->gradient_scale = (float)(factor / targets);
}

static inline LKS_TOTALS_QUALIFIER bool lks_totals_are_finite(const lks_totals *totals)
{
    return totals->bad_lane < 0 && totals->bad_block < 0;
}

#endif
