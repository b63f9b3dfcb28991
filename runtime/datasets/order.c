#include "runtime/datasets/order.h"

#include "runtime/base/rng.h"

enum {
    FEISTEL_ROUNDS = 8,     /* even, so that the two widths end where they began */
    FEISTEL_LEAST_BITS = 8, /* with fewer, some permutations of few samples never come */
    LEVEL_RUNS = 1,
    LEVEL_WINDOW = 2,
    RUN_BYTES = 64 * 1024,
    WINDOW_RUNS = 1024,
};

/* A dataset up to this size stays in the page cache: the disk sees no order. */
static const uint64_t one_level_bytes = (uint64_t)256 * 1024 * 1024;

/* A permutation of [0, size). */
typedef struct permutation {
    uint64_t size;
    uint64_t key[2];
    unsigned high_bits, low_bits;
} permutation;

static uint64_t low_mask(unsigned bits)
{
    return bits >= 64 ? UINT64_MAX : ((uint64_t)1 << bits) - 1;
}

static permutation permutation_create(uint64_t size, const lks_order *order, int level,
                                      uint64_t epoch, uint64_t window)
{
    uint64_t key = lks_rng_key(order->seed, LKS_RNG_ORDER, (uint32_t)level);
    lks_rng_block words = lks_rng_philox(key, window, epoch);
    unsigned bits = FEISTEL_LEAST_BITS;
    while (bits < 64 && size - 1 > low_mask(bits))
        ++bits;
    permutation p = {.size = size, .high_bits = bits / 2, .low_bits = bits - bits / 2};
    p.key[0] = (uint64_t)words.word[1] << 32 | words.word[0];
    p.key[1] = (uint64_t)words.word[3] << 32 | words.word[2];
    return p;
}

/* SplitMix64's finaliser over the half block, the key and the round. */
static uint64_t round_value(const permutation *p, int round, uint64_t half)
{
    uint64_t z = (half ^ p->key[0]) + (uint64_t)(round + 1) * (p->key[1] | 1);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) >> 24;
}

static uint64_t feistel(const permutation *p, uint64_t value)
{
    unsigned high = p->high_bits, low = p->low_bits;
    for (int round = 0; round < FEISTEL_ROUNDS; ++round) {
        uint64_t right = value & low_mask(low);
        uint64_t left = (value >> low) ^ (round_value(p, round, right) & low_mask(high));
        value = right << high | left;
        unsigned swap = high;
        high = low;
        low = swap;
    }
    return value;
}

static uint64_t feistel_inverse(const permutation *p, uint64_t value)
{
    unsigned high = p->high_bits, low = p->low_bits;
    for (int round = FEISTEL_ROUNDS - 1; round >= 0; --round) {
        unsigned swap = high;
        high = low;
        low = swap;
        uint64_t right = value >> high;
        uint64_t left = (value & low_mask(high)) ^ (round_value(p, round, right) & low_mask(high));
        value = left << low | right;
    }
    return value;
}

/* The network permutes a power of two: walk its cycle until it is back inside. */
static uint64_t permute(const permutation *p, uint64_t value)
{
    do
        value = feistel(p, value);
    while (value >= p->size);
    return value;
}

static uint64_t permute_inverse(const permutation *p, uint64_t value)
{
    do
        value = feistel_inverse(p, value);
    while (value >= p->size);
    return value;
}

/* The permuted runs in a row. All have run_samples samples but the dataset's last, which may lack
 * some and lies in the slot short_slot. */
typedef struct run_row {
    permutation runs;
    uint64_t run_samples, short_slot, lacking;
} run_row;

static run_row run_row_create(const lks_order *order, uint64_t epoch)
{
    uint64_t count = (order->samples - 1) / order->run_samples + 1;
    uint64_t last = order->samples - (count - 1) * order->run_samples;
    run_row row = {.runs = permutation_create(count, order, LEVEL_RUNS, epoch, 0),
                   .run_samples = order->run_samples,
                   .short_slot = count,
                   .lacking = order->run_samples - last};
    if (row.lacking > 0)
        row.short_slot = permute_inverse(&row.runs, count - 1);
    return row;
}

/* Samples in the slots before `slot`. */
static uint64_t samples_before(const run_row *row, uint64_t slot)
{
    return slot * row->run_samples - (row->short_slot < slot ? row->lacking : 0);
}

static uint64_t slot_of(const run_row *row, uint64_t place)
{
    if (row->lacking > 0 && place >= samples_before(row, row->short_slot + 1))
        place += row->lacking;
    return place / row->run_samples;
}

/* `place` moved within its window of runs. */
static uint64_t mix_window(const lks_order *order, const run_row *row, uint64_t epoch,
                           uint64_t place)
{
    uint64_t window = slot_of(row, place) / order->window_runs;
    uint64_t first = window * order->window_runs;
    uint64_t left = row->runs.size - first;
    uint64_t end = first + (left < order->window_runs ? left : order->window_runs);
    uint64_t start = samples_before(row, first);
    permutation p =
        permutation_create(samples_before(row, end) - start, order, LEVEL_WINDOW, epoch, window);
    return start + permute(&p, place - start);
}

uint64_t lks_order_sample(const lks_order *order, uint64_t position)
{
    uint64_t epoch = position / order->samples, place = position % order->samples;
    run_row row = run_row_create(order, epoch);
    if (order->run_samples == 1)
        return permute(&row.runs, place);
    place = mix_window(order, &row, epoch, place);
    uint64_t slot = slot_of(&row, place);
    uint64_t run = permute(&row.runs, slot);
    return run * order->run_samples + (place - samples_before(&row, slot));
}

lks_order lks_order_create(uint64_t samples, uint64_t sample_bytes, uint64_t seed)
{
    lks_order order = {
        .samples = samples, .seed = seed, .run_samples = 1, .window_runs = WINDOW_RUNS};
    if (sample_bytes == 0 || samples <= one_level_bytes / sample_bytes)
        return order;
    if (sample_bytes < RUN_BYTES)
        order.run_samples = RUN_BYTES / sample_bytes;
    return order;
}
