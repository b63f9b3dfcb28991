#include "runtime/train/exchange.h"
#include "collectives/reducer.h"
#include "runtime/base/memory.h"

#include <math.h>

/* A rank's part: {votes, lanes' stats, own blocks' square sums}. */
struct lks_exchange {
    lks_comm *comm;
    const lks_layout *layout;
    int lanes, first_lane, end_lane;
    uint32_t first_block, end_block;
    size_t *bytes; /* [world size] of each rank's part */
    double *mine, *all;
    lks_ledger_hash *ids; /* [lanes] */
};

enum {
    STATS = sizeof(lks_lane_stats) / sizeof(double),
    VOTES = sizeof(lks_votes) / sizeof(double),
};

static size_t part_numbers(const lks_exchange *x, int rank)
{
    int first_lane, end_lane, world_size = lks_comm_size(x->comm);
    uint32_t first_block, end_block;
    lks_lanes_of(x->lanes, rank, world_size, &first_lane, &end_lane);
    lks_layout_owned(x->layout, rank, world_size, &first_block, &end_block);
    return VOTES + (size_t)(end_lane - first_lane) * STATS + (end_block - first_block);
}

static lks_status exchange_allocate(lks_exchange *x)
{
    int world_size = lks_comm_size(x->comm);
    size_t total = 0;
    LKS_TRY(LKS_NEW_ARRAY(&x->bytes, (size_t)world_size));
    for (int rank = 0; rank < world_size; ++rank) {
        x->bytes[rank] = part_numbers(x, rank) * sizeof(double);
        total += part_numbers(x, rank);
    }
    LKS_TRY(LKS_NEW_ARRAY(&x->ids, (size_t)x->lanes));
    LKS_TRY(LKS_NEW_ARRAY(&x->mine, part_numbers(x, lks_comm_rank(x->comm))));
    return LKS_NEW_ARRAY(&x->all, total);
}

lks_status lks_exchange_open(lks_exchange **out, lks_comm *comm, const lks_layout *layout,
                             int lanes)
{
    *out = NULL;
    lks_exchange *x;
    LKS_TRY(LKS_NEW(&x));
    *x = (lks_exchange){.comm = comm, .layout = layout, .lanes = lanes};
    lks_lanes_of(lanes, lks_comm_rank(comm), lks_comm_size(comm), &x->first_lane, &x->end_lane);
    lks_layout_owned(layout, lks_comm_rank(comm), lks_comm_size(comm), &x->first_block,
                     &x->end_block);
    lks_status status = exchange_allocate(x);
    if (status != LKS_OK) {
        lks_exchange_close(x);
        return status;
    }
    *out = x;
    return LKS_OK;
}

void lks_exchange_close(lks_exchange *exchange)
{
    if (!exchange)
        return;
    lks_memory_free(exchange->bytes);
    lks_memory_free(exchange->ids);
    lks_memory_free(exchange->mine);
    lks_memory_free(exchange->all);
    lks_memory_free(exchange);
}

lks_lane_stats *lks_exchange_lane(lks_exchange *exchange, int lane)
{
    return (lks_lane_stats *)(exchange->mine + VOTES) + (lane - exchange->first_lane);
}

double *lks_exchange_blocks(lks_exchange *exchange)
{
    return exchange->mine + VOTES + (size_t)(exchange->end_lane - exchange->first_lane) * STATS;
}

static void add_votes(lks_totals *totals, const lks_votes *votes)
{
    if (votes->notice != 0 && (!totals->notice || votes->notice < totals->notice_seconds))
        totals->notice_seconds = votes->notice;
    totals->notice |= votes->notice != 0;
    totals->no_data |= votes->no_data != 0;
}

static void add_lane(lks_totals *totals, const lks_lane_stats *stats, int lane)
{
    totals->loss_sum += stats->loss_sum;
    totals->targets += stats->targets;
    totals->correct += stats->correct;
    if (totals->bad_lane < 0 && !isfinite(stats->loss_sum))
        totals->bad_lane = lane;
}

static void add_block(lks_totals *totals, double square_sum, int64_t block)
{
    totals->square_sum += square_sum;
    if (totals->bad_block < 0 && !isfinite(square_sum))
        totals->bad_block = block;
}

lks_status lks_exchange_run(lks_exchange *exchange, const lks_votes *votes, lks_totals *out)
{
    *(lks_votes *)exchange->mine = *votes;
    LKS_TRY(lks_comm_all_gather(exchange->comm, exchange->mine, exchange->all, exchange->bytes));
    *out = (lks_totals){.bad_lane = -1, .bad_block = -1};
    const double *part = exchange->all;
    int world_size = lks_comm_size(exchange->comm), lane = 0;
    int64_t block = 0;
    for (int rank = 0; rank < world_size; ++rank) {
        const double *end = part + exchange->bytes[rank] / sizeof(double);
        add_votes(out, (const lks_votes *)part);
        part += VOTES;
        int first_lane, end_lane;
        lks_lanes_of(exchange->lanes, rank, world_size, &first_lane, &end_lane);
        for (; lane < end_lane; ++lane, part += STATS) {
            add_lane(out, (const lks_lane_stats *)part, lane);
            exchange->ids[lane] = ((const lks_lane_stats *)part)->ids;
        }
        while (part < end)
            add_block(out, *part++, block++);
    }
    return LKS_OK;
}

const lks_ledger_hash *lks_exchange_ids(const lks_exchange *exchange)
{
    return exchange->ids;
}
