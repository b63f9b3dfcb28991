/* Flat memory: sums, updates, and the numbers of a step. */
#include "kernels/device_private.h"
#include "kernels/totals.h"

/* Whether the next partials are the nodes of tree(first, end) in order; *next
 * is left after them. */
static bool covers(const lks_partial **next, const lks_partial *end_partial, int first, int end)
{
    if (*next == end_partial)
        return false;
    if ((*next)->first_lane == first && (*next)->end_lane == end) {
        ++*next;
        return true;
    }
    if (end - first < 2)
        return false;
    int middle = lks_tree_split(first, end);
    return covers(next, end_partial, first, middle) && covers(next, end_partial, middle, end);
}

static lks_status check_partials(const lks_sum *sum)
{
    const lks_partial *next = sum->partials, *end = next + sum->partial_count;
    if (covers(&next, end, 0, sum->lanes) && next == end)
        return LKS_OK;
    if (next == end)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%d partial sums do not cover %d lanes",
                        sum->partial_count, sum->lanes);
    return LKS_FAIL(LKS_ERR_INTERNAL,
                    "partial sum %d, of lanes [%d, %d), is not the next node of the tree over %d "
                    "lanes",
                    (int)(next - sum->partials), next->first_lane, next->end_lane, sum->lanes);
}

lks_status lks_device_sum_blocks(lks_device *device, const lks_sum *sum)
{
    LKS_TRY(check_partials(sum));
    lks_profile_line *line = &device->flat[LKS_FLAT_SUM];
    LKS_TRY(lks_profile_enter(line));
    LKS_TRY(device->driver->sum_blocks(device->instance, sum));
    return lks_profile_leave(line, line->profile->running ? lks_sum_cost(sum).bytes : 0, 0);
}

lks_status lks_device_add(lks_device *device, uint64_t elements, const float *from, float *into)
{
    LKS_TRY(lks_profile_enter(&device->flat[LKS_FLAT_ADD]));
    LKS_TRY(device->driver->add(device->instance, elements, from, into));
    return lks_profile_leave(&device->flat[LKS_FLAT_ADD], 3.0 * sizeof(float) * (double)elements,
                             0);
}

lks_status lks_device_round(lks_device *device, uint64_t elements, const float *from, uint16_t *to)
{
    LKS_TRY(lks_profile_enter(&device->flat[LKS_FLAT_ROUND]));
    LKS_TRY(device->driver->round(device->instance, elements, from, to));
    return lks_profile_leave(&device->flat[LKS_FLAT_ROUND], 6.0 * (double)elements, 0);
}

lks_status lks_device_update(lks_device *device, const lks_update *update,
                             const lks_update_blocks *what)
{
    bool adam = update->rule == LKS_UPDATE_ADAM;
    bool first_wanted = adam || (update->rule == LKS_UPDATE_SGD && update->momentum != 0);
    if ((first_wanted && !what->states[0]) || (adam && !what->states[1]))
        return LKS_FAIL(LKS_ERR_INTERNAL, "update rule %d: its state is missing",
                        (int)update->rule);
    if (!what->count)
        return LKS_OK;
    lks_profile_line *line = &device->flat[LKS_FLAT_UPDATE];
    LKS_TRY(lks_profile_enter(line));
    LKS_TRY(device->driver->update(device->instance, update, what));
    return lks_profile_leave(line, line->profile->running ? lks_update_cost(update, what).bytes : 0,
                             0);
}

/* --- The numbers of a step ---------------------------------------------------- */

lks_status lks_device_sum_stats(lks_device *device, uint32_t lanes, uint32_t micro_batches,
                                const double *stats, double *sums)
{
    if (device->driver->sum_stats) {
        LKS_TRY(lks_profile_enter(&device->flat[LKS_FLAT_SUM_STATS]));
        LKS_TRY(device->driver->sum_stats(device->instance, lanes, micro_batches, stats, sums));
        return lks_profile_leave(&device->flat[LKS_FLAT_SUM_STATS], 0, 0);
    }
    for (uint32_t i = 0; i < lanes * LKS_STATS; ++i)
        sums[i] = lks_totals_stat(stats, micro_batches, i / LKS_STATS, i % LKS_STATS);
    return LKS_OK;
}

lks_status lks_device_total(lks_device *device, const lks_totals_spec *spec, lks_totals *out)
{
    if (device->driver->total) {
        LKS_TRY(lks_profile_enter(&device->flat[LKS_FLAT_TOTAL]));
        LKS_TRY(device->driver->total(device->instance, spec, out));
        return lks_profile_leave(&device->flat[LKS_FLAT_TOTAL], 0, 0);
    }
    *out = lks_totals_none();
    for (uint32_t lane = 0; lane < spec->lanes; ++lane)
        lks_totals_add_lane(out, spec->lane_sums + (size_t)lane * LKS_STATS, lane);
    for (uint32_t block = 0; block < spec->blocks; ++block)
        if (spec->counted[block])
            lks_totals_add_block(out, spec->square_sums[block], block);
    lks_totals_finish(out, spec->clip_norm);
    return LKS_OK;
}
