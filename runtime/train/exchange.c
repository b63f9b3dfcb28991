#include "runtime/train/exchange.h"
#include "runtime/base/memory.h"

#include <string.h>

/* A rank's part on its way: {votes, own lanes' ids} and, through the host, {own lanes' sums, own blocks' square sums}. */
struct lks_exchange {
    lks_exchange_spec spec;
    bool through_host;
    int first_lane, end_lane;
    uint32_t first_block, end_block;
    uint64_t *first_sum, *first_square; /* [world size + 1] of each rank's numbers */
    size_t *bytes;                      /* [world size] of each rank's part */
    char *mine, *all;
    lks_ledger_hash *ids; /* [lanes] */
    /* Device memory: */
    double *stats;                   /* [own lanes][micro-batches][LKS_STATS] */
    double *lane_sums, *square_sums; /* [lanes][LKS_STATS], [blocks] */
    uint8_t *counted;                /* [blocks] */
    lks_totals *totals;
};

static int world_size(const lks_exchange *x)
{
    return lks_comm_size(x->spec.comm);
}

static size_t stats_bytes(const lks_exchange *x)
{
    return sizeof(double) * LKS_STATS * (size_t)(x->end_lane - x->first_lane) *
           x->spec.micro_batches;
}

static size_t sums_bytes(const lks_exchange *x)
{
    return sizeof(double) * LKS_STATS * (size_t)x->spec.lanes;
}

/* --- Opening -------------------------------------------------------------------- */

static void place_parts(lks_exchange *x)
{
    for (int rank = 0; rank < world_size(x); ++rank) {
        int first_lane, end_lane;
        uint32_t first_block, end_block;
        lks_lanes_of(x->spec.lanes, rank, world_size(x), &first_lane, &end_lane);
        lks_layout_owned(x->spec.layout, rank, world_size(x), &first_block, &end_block);
        x->first_sum[rank + 1] = (uint64_t)end_lane * LKS_STATS;
        x->first_square[rank + 1] = end_block;
        size_t numbers = (size_t)(end_lane - first_lane) * LKS_STATS + (end_block - first_block);
        x->bytes[rank] = sizeof(lks_votes) + (size_t)(end_lane - first_lane) * sizeof *x->ids +
                         (x->through_host ? numbers * sizeof(double) : 0);
    }
}

static lks_status open_parts(lks_exchange *x)
{
    size_t ranks = (size_t)world_size(x), total = 0;
    LKS_TRY(LKS_NEW_ARRAY(&x->first_sum, ranks + 1));
    LKS_TRY(LKS_NEW_ARRAY(&x->first_square, ranks + 1));
    LKS_TRY(LKS_NEW_ARRAY(&x->bytes, ranks));
    place_parts(x);
    for (size_t rank = 0; rank < ranks; ++rank)
        total += x->bytes[rank];
    LKS_TRY(LKS_NEW_ARRAY(&x->mine, x->bytes[lks_comm_rank(x->spec.comm)]));
    LKS_TRY(LKS_NEW_ARRAY(&x->all, total));
    return LKS_NEW_ARRAY(&x->ids, (size_t)x->spec.lanes);
}

/* The "gradient" of a buffer is a statistic: it is not part of the norm. */
static lks_status open_counted(lks_exchange *x)
{
    const lks_layout *layout = x->spec.layout;
    uint8_t *counted;
    LKS_TRY(lks_device_allocate(x->spec.device, layout->block_count, (void **)&x->counted));
    LKS_TRY(LKS_NEW_ARRAY(&counted, layout->block_count));
    for (uint32_t i = 0; i < layout->block_count; ++i)
        counted[i] = layout->tensors[layout->blocks[i].tensor].role != LKS_ROLE_BUFFER;
    lks_status status =
        lks_device_copy_in(x->spec.device, x->counted, counted, layout->block_count);
    lks_memory_free(counted);
    return status;
}

static lks_status exchange_allocate(lks_exchange *x)
{
    lks_device *device = x->spec.device;
    LKS_TRY(open_parts(x));
    LKS_TRY(open_counted(x));
    LKS_TRY(lks_device_allocate(device, stats_bytes(x), (void **)&x->stats));
    LKS_TRY(lks_device_allocate(device, sums_bytes(x), (void **)&x->lane_sums));
    LKS_TRY(lks_device_allocate(device, x->spec.layout->block_count * sizeof(double),
                                (void **)&x->square_sums));
    return lks_device_allocate(device, sizeof *x->totals, (void **)&x->totals);
}

lks_status lks_exchange_open(lks_exchange **out, const lks_exchange_spec *spec)
{
    *out = NULL;
    lks_exchange *x;
    int rank = lks_comm_rank(spec->comm), size = lks_comm_size(spec->comm);
    LKS_TRY(LKS_NEW(&x));
    *x = (lks_exchange){.spec = *spec, .through_host = !lks_reducer_can_share(spec->reducer)};
    lks_lanes_of(spec->lanes, rank, size, &x->first_lane, &x->end_lane);
    lks_layout_owned(spec->layout, rank, size, &x->first_block, &x->end_block);
    lks_status status = exchange_allocate(x);
    if (status != LKS_OK)
        lks_exchange_close(x);
    else
        *out = x;
    return status;
}

void lks_exchange_close(lks_exchange *x)
{
    if (!x)
        return;
    lks_device *device = x->spec.device;
    lks_device_free(device, x->stats, stats_bytes(x));
    lks_device_free(device, x->lane_sums, sums_bytes(x));
    lks_device_free(device, x->square_sums, x->spec.layout->block_count * sizeof(double));
    lks_device_free(device, x->counted, x->spec.layout->block_count);
    lks_device_free(device, x->totals, sizeof *x->totals);
    lks_memory_free(x->first_sum);
    lks_memory_free(x->first_square);
    lks_memory_free(x->bytes);
    lks_memory_free(x->mine);
    lks_memory_free(x->all);
    lks_memory_free(x->ids);
    lks_memory_free(x);
}

/* --- A step --------------------------------------------------------------------- */

double *lks_exchange_stats(lks_exchange *x, int lane, int64_t micro_batch)
{
    return x->stats + ((lane - x->first_lane) * (int64_t)x->spec.micro_batches + micro_batch) *
                          (int64_t)LKS_STATS;
}

lks_ledger_hash *lks_exchange_lane_ids(lks_exchange *x, int lane)
{
    return (lks_ledger_hash *)(void *)(x->mine + sizeof(lks_votes)) + (lane - x->first_lane);
}

static void add_votes(lks_votes *all, const lks_votes *votes)
{
    if (votes->notice != 0 && (all->notice == 0 || votes->notice < all->notice))
        all->notice = votes->notice;
    if (votes->no_data != 0)
        all->no_data = 1;
}

/* Own numbers, where all of them will be. */
static lks_status gather_own(lks_exchange *x)
{
    lks_device *device = x->spec.device;
    LKS_TRY(lks_device_sum_stats(device, (uint32_t)(x->end_lane - x->first_lane),
                                 x->spec.micro_batches, x->stats,
                                 x->lane_sums + (size_t)x->first_lane * LKS_STATS));
    return lks_device_copy(device, x->square_sums + x->first_block,
                           lks_reducer_square_sums(x->spec.reducer),
                           (x->end_block - x->first_block) * sizeof(double));
}

/* Behind the ids in this rank's part. */
static lks_status bring_to_host(lks_exchange *x)
{
    size_t lanes = (size_t)(x->end_lane - x->first_lane);
    char *at = x->mine + sizeof(lks_votes) + lanes * sizeof *x->ids;
    LKS_TRY(lks_device_copy_out(x->spec.device, at,
                                x->lane_sums + (size_t)x->first_lane * LKS_STATS,
                                lanes * LKS_STATS * sizeof(double)));
    return lks_device_copy_out(x->spec.device, at + lanes * LKS_STATS * sizeof(double),
                               x->square_sums + x->first_block,
                               (x->end_block - x->first_block) * sizeof(double));
}

/* One rank's numbers, which arrived at `from`. */
static lks_status bring_to_device(lks_exchange *x, int rank, const char *from)
{
    size_t sums = (x->first_sum[rank + 1] - x->first_sum[rank]) * sizeof(double);
    size_t squares = (x->first_square[rank + 1] - x->first_square[rank]) * sizeof(double);
    LKS_TRY(lks_device_copy_in(x->spec.device, x->lane_sums + x->first_sum[rank], from, sums));
    return lks_device_copy_in(x->spec.device, x->square_sums + x->first_square[rank], from + sums,
                              squares);
}

static lks_status unpack(lks_exchange *x, lks_votes *votes)
{
    const char *part = x->all;
    *votes = (lks_votes){0};
    for (int rank = 0; rank < world_size(x); part += x->bytes[rank++]) {
        size_t lanes = (size_t)(x->first_sum[rank + 1] - x->first_sum[rank]) / LKS_STATS;
        const char *ids = part + sizeof *votes;
        add_votes(votes, (const lks_votes *)(const void *)part);
        memcpy(x->ids + x->first_sum[rank] / LKS_STATS, ids, lanes * sizeof *x->ids);
        if (x->through_host)
            LKS_TRY(bring_to_device(x, rank, ids + lanes * sizeof *x->ids));
    }
    return LKS_OK;
}

lks_status lks_exchange_run(lks_exchange *x, const lks_votes *mine, double clip_norm,
                            lks_votes *all)
{
    memcpy(x->mine, mine, sizeof *mine);
    LKS_TRY(gather_own(x));
    if (x->through_host)
        LKS_TRY(bring_to_host(x));
    LKS_TRY(lks_comm_all_gather(x->spec.comm, x->mine, x->all, x->bytes));
    LKS_TRY(unpack(x, all));
    if (!x->through_host) {
        LKS_TRY(lks_reducer_share(x->spec.reducer, x->lane_sums, x->first_sum));
        LKS_TRY(lks_reducer_share(x->spec.reducer, x->square_sums, x->first_square));
    }
    const lks_totals_spec spec = {.lanes = (uint32_t)x->spec.lanes,
                                  .blocks = x->spec.layout->block_count,
                                  .lane_sums = x->lane_sums,
                                  .square_sums = x->square_sums,
                                  .counted = x->counted,
                                  .clip_norm = clip_norm};
    return lks_device_total(x->spec.device, &spec, x->totals);
}

const lks_totals *lks_exchange_totals(const lks_exchange *x)
{
    return x->totals;
}

lks_status lks_exchange_take(lks_exchange *x, lks_totals *out)
{
    return lks_device_copy_out(x->spec.device, out, x->totals, sizeof *out);
}

bool lks_exchange_is_through_host(const lks_exchange *x)
{
    return x->through_host;
}

const lks_ledger_hash *lks_exchange_ids(const lks_exchange *x)
{
    return x->ids;
}
