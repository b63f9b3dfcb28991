#include "runtime/train/geometry.h"
#include "collectives/reducer.h"
#include "runtime/base/text.h"

enum { DEFAULT_LANES_MAX = 8 };

static int64_t divisor_at_most(int64_t number, int64_t most)
{
    int64_t divisor = most < number ? most : number;
    while (number % divisor)
        --divisor;
    return divisor;
}

static int64_t divisor_at_least(int64_t number, int64_t least)
{
    int64_t divisor = least;
    while (divisor < number && number % divisor)
        ++divisor;
    return divisor < number ? divisor : number;
}

/* "train.lanes is 5, which does not divide train.global_batch 12: 4 and 6 do". */
static lks_status refuse_divisor(const char *what, int64_t value, const char *whole_name,
                                 int64_t whole)
{
    int64_t below = divisor_at_most(whole, value), above = divisor_at_least(whole, value);
    if (below == above || value > whole)
        return LKS_FAIL(LKS_ERR_USAGE, "%s is %lld, which does not divide %s %lld: %lld does", what,
                        (long long)value, whole_name, (long long)whole, (long long)below);
    return LKS_FAIL(LKS_ERR_USAGE, "%s is %lld, which does not divide %s %lld: %lld and %lld do",
                    what, (long long)value, whole_name, (long long)whole, (long long)below,
                    (long long)above);
}

static lks_status refuse_ranks(int world_size, int64_t lanes, int64_t global_batch)
{
    char most[32];
    lks_text_count(most, sizeof most, (uint64_t)lanes, "rank");
    if (world_size > global_batch)
        return LKS_FAIL(
            LKS_ERR_USAGE,
            "%d ranks, but train.lanes is %lld and train.global_batch %lld: start at most "
            "%s, or a new job with a larger batch",
            world_size, (long long)lanes, (long long)global_batch, most);
    return LKS_FAIL(LKS_ERR_USAGE,
                    "%d ranks, but train.lanes is %lld: start at most %s, or a new job with "
                    "--set train.lanes=%lld",
                    world_size, (long long)lanes, most,
                    (long long)divisor_at_least(global_batch, world_size));
}

lks_status lks_geometry_init(lks_geometry *out, const lks_settings *settings, int rank,
                             int world_size)
{
    int64_t batch = settings->train.global_batch;
    int64_t lanes = settings->train.lanes;
    if (!lanes)
        lanes = divisor_at_most(batch, DEFAULT_LANES_MAX);
    if (batch % lanes)
        return refuse_divisor("train.lanes", lanes, "train.global_batch", batch);
    if (world_size > lanes)
        return refuse_ranks(world_size, lanes, batch);
    int64_t share = batch / lanes;
    int64_t micro_batch = settings->train.micro_batch ? settings->train.micro_batch : share;
    if (share % micro_batch)
        return refuse_divisor("train.micro_batch", micro_batch, "a lane's share of the batch,",
                              share);
    *out = (lks_geometry){.global_batch = batch,
                          .lanes = (int)lanes,
                          .micro_batch = micro_batch,
                          .micro_batches = share / micro_batch};
    lks_lanes_of((int)lanes, rank, world_size, &out->first_lane, &out->end_lane);
    return LKS_OK;
}
