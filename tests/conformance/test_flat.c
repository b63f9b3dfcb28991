/* Flat memory: the lane tree bit for bit, updates against f64, devices and the probe. */
#include "tests/conformance/test_kernels_a.h"

#include "runtime/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LANES_MAX = 17, ELEMENTS = 2500 };

static float lane_value(int lane, int element)
{
    lks_rng_block words =
        lks_rng_words(lks_rng_key(1, LKS_RNG_TEST, 0), (uint64_t)lane, (uint64_t)element);
    return (lks_rng_uniform(words.word[0]) - 0.5f) * (float)(1 << words.word[1] % 12);
}

static int split(int first, int end)
{
    int half = 1;
    while (half * 2 < end - first)
        half *= 2;
    return first + half;
}

/* tree(first, end) as device.h defines it. */
static float tree(int first, int end, int element)
{
    if (end - first == 1)
        return lane_value(first, element);
    int middle = split(first, end);
    float left = tree(first, middle, element);
    return left + tree(middle, end, element);
}

/* The largest nodes of tree(first, end) that lie within [from, to). */
static int cover(int first, int end, int from, int to, lks_partial *out)
{
    if (to <= first || end <= from)
        return 0;
    if (from <= first && end <= to) {
        float *data = malloc(ELEMENTS * sizeof *data);
        for (int i = 0; i < ELEMENTS; ++i)
            data[i] = tree(first, end, i);
        *out = (lks_partial){first, end, data, 0};
        return 1;
    }
    int middle = split(first, end), left = cover(first, middle, from, to, out);
    return left + cover(middle, end, from, to, out + left);
}

static double square_sum_of(const float *x)
{
    double sum = 0;
    for (int i = 0; i < ELEMENTS; ++i)
        sum += (double)x[i] * x[i];
    return sum;
}

/* One block; `partials` and `out` are the device's, `squares` (or NULL) is the host's. */
static lks_status sum_whole(lks_device *device, const lks_partial *partials, int count, int lanes,
                            uint32_t elements, float *out, double *squares)
{
    const lks_layout_block whole = {.elements = elements};
    const double unset = -1;
    lks_layout_block *blocks = harness_to_device(device, &whole, sizeof whole);
    double *sums = squares ? harness_to_device(device, &unset, sizeof unset) : NULL;
    const lks_sum call = {blocks, &whole, 1, partials, count, lanes, out, sums};
    lks_status status = lks_device_sum_blocks(device, &call);
    if (squares)
        harness_from_device(device, squares, sums, sizeof *squares);
    lks_device_free(device, blocks, sizeof whole);
    if (squares)
        lks_device_free(device, sums, sizeof *squares);
    return status;
}

/* The partials that `ranks` ranks send; into one of them, or into memory of its own. */
static void run_sum(lks_device *device, int lanes, int ranks, int into, const float *wanted)
{
    lks_partial partials[LANES_MAX];
    float found[ELEMENTS] = {0};
    int count = 0;
    for (int r = 0; r < ranks; ++r)
        count += cover(0, lanes, r * lanes / ranks, (r + 1) * lanes / ranks, partials + count);
    for (int i = 0; i < count; ++i) {
        void *host = (void *)(uintptr_t)partials[i].data;
        partials[i].data = harness_to_device(device, host, sizeof found);
        free(host);
    }
    float *own = harness_to_device(device, found, sizeof found);
    float *out = into < count ? (float *)(uintptr_t)partials[into].data : own;
    double squares = -1;
    ck_assert_int_eq(
        sum_whole(device, partials, count, lanes, ELEMENTS, out, into % 2 ? NULL : &squares),
        LKS_OK);
    harness_from_device(device, found, out, sizeof found);
    ck_assert_mem_eq(found, wanted, sizeof found);
    if (into % 2 == 0) /* 2,500 additions in f64 */
        ck_assert_double_eq_tol(squares, square_sum_of(wanted),
                                2500 * 0x1p-53 * square_sum_of(wanted));
    for (int i = 0; i < count; ++i)
        lks_device_free(device, (void *)(uintptr_t)partials[i].data, sizeof found);
    lks_device_free(device, own, sizeof found);
}

START_TEST(test_sum_partials)
{
    static float wanted[ELEMENTS];
    lks_device *device = harness_open(_i);
    for (int lanes = 1; lanes <= LANES_MAX; ++lanes) {
        for (int i = 0; i < ELEMENTS; ++i)
            wanted[i] = tree(0, lanes, i);
        for (int ranks = 1; ranks <= lanes && ranks <= 8; ++ranks)
            for (int into = 0; into < lanes + 2; into += 3)
                run_sum(device, lanes, ranks, into, wanted);
    }
    lks_device_close(device);
}
END_TEST

START_TEST(test_sum_refused)
{
    lks_device *device = harness_open(_i);
    float x[4] = {1, 2, 3, 4}, out[4];
    lks_partial gap[] = {{0, 2, x, 0}, {3, 4, x, 0}}, no_node[] = {{0, 3, x, 0}, {3, 4, x, 0}};
    ck_assert_int_eq(sum_whole(device, gap, 2, 4, 4, out, NULL), LKS_ERR_INTERNAL);
    ck_assert_int_eq(sum_whole(device, gap, 1, 4, 4, out, NULL), LKS_ERR_INTERNAL);
    ck_assert_int_eq(sum_whole(device, no_node, 2, 4, 4, out, NULL), LKS_ERR_INTERNAL);
    lks_device_close(device);
}
END_TEST

/* The same bits of square_sum whatever the instruction set. */
START_TEST(test_square_sum_everywhere)
{
    static float x[ELEMENTS], found[ELEMENTS];
    double first = 0;
    for (int i = 0; i < ELEMENTS; ++i)
        x[i] = lane_value(0, i);
    for (int variant = 0; variant < harness_variants(); ++variant) {
        lks_device *device = harness_open(variant);
        float *data = harness_to_device(device, x, sizeof x);
        float *out = harness_to_device(device, found, sizeof found);
        lks_partial partial = {0, 1, data, 0};
        double squares;
        ck_assert_int_eq(sum_whole(device, &partial, 1, 1, ELEMENTS, out, &squares), LKS_OK);
        harness_from_device(device, found, out, sizeof found);
        ck_assert_mem_eq(found, x, sizeof found);
        lks_device_free(device, data, sizeof x);
        lks_device_free(device, out, sizeof found);
        if (variant == 0)
            first = squares;
        ck_assert(squares == first);
        lks_device_close(device);
    }
}
END_TEST

START_TEST(test_add)
{
    lks_device *device = harness_open(_i);
    float into[77], from[77];
    for (int i = 0; i < 77; ++i) {
        into[i] = lane_value(1, i);
        from[i] = lane_value(2, i);
    }
    float *device_from = harness_to_device(device, from, sizeof from);
    float *device_into = harness_to_device(device, into, sizeof into);
    ck_assert_int_eq(lks_device_add(device, 77, device_from, device_into), LKS_OK);
    harness_from_device(device, into, device_into, sizeof into);
    lks_device_free(device, device_from, sizeof from);
    lks_device_free(device, device_into, sizeof into);
    for (int i = 0; i < 77; ++i)
        harness_expect("sum", (size_t)i, into[i], lane_value(1, i) + lane_value(2, i), 0);
    lks_device_close(device);
}
END_TEST

/* The nearest bf16, ties to even; NaN stays NaN, what is too large becomes infinite. */
START_TEST(test_round)
{
    static const struct {
        float from, wanted;
    } cases[] = {{1, 1},
                 {-3.140625f, -3.140625f},
                 {1 + 0x1p-8f, 1},
                 {1 + 0x1p-8f + 0x1p-20f, 1 + 0x1p-7f},
                 {1 + 3 * 0x1p-8f, 1 + 0x1p-6f},
                 {0x1.ffp127f, INFINITY},
                 {0x1.fep127f, 0x1.fep127f},
                 {-INFINITY, -INFINITY},
                 {0x1p-133f, 0x1p-133f},
                 {0x1p-134f, 0},
                 {NAN, NAN}};
    enum { CASES = sizeof cases / sizeof *cases };
    lks_device *device = harness_open(_i);
    float from[CASES];
    uint16_t halves[CASES] = {0};
    for (int i = 0; i < CASES; ++i)
        from[i] = cases[i].from;
    float *device_from = harness_to_device(device, from, sizeof from);
    uint16_t *device_to = harness_to_device(device, halves, sizeof halves);
    ck_assert_int_eq(lks_device_round(device, CASES, device_from, device_to), LKS_OK);
    harness_from_device(device, halves, device_to, sizeof halves);
    for (int i = 0; i < CASES; ++i) {
        uint32_t bits = (uint32_t)halves[i] << 16;
        float found;
        memcpy(&found, &bits, sizeof found);
        ck_assert_msg(isnan(cases[i].wanted) ? isnan(found) : found == cases[i].wanted,
                      "case %d: %g became %g", i, (double)cases[i].from, (double)found);
    }
    lks_device_free(device, device_from, sizeof from);
    lks_device_free(device, device_to, sizeof halves);
    lks_device_close(device);
}
END_TEST

/* --- Updates ---------------------------------------------------------------------- */

enum { GRADIENT, PARAMETER, STATE0, STATE1, ARRAYS };
enum { UPDATE_ELEMENTS = 517 };
typedef struct update_arrays {
    float x[ARRAYS][UPDATE_ELEMENTS];
} update_arrays;

static void fill(update_arrays *arrays)
{
    for (int a = 0; a < ARRAYS; ++a)
        for (int i = 0; i < UPDATE_ELEMENTS; ++i) {
            float value = lane_value(a, i) / 100;
            arrays->x[a][i] = a == STATE1 ? fabsf(value) : value;
        }
}

/* One element in f64; sizes get the sums of the absolute values that went in. */
static void exact_update(const lks_update *u, double g, double *p, double *s0, double *s1,
                         double size[ARRAYS])
{
    double lr = u->lr, decay = u->weight_decay, b1 = u->beta1, b2 = u->beta2;
    g *= u->gradient_scale;
    size[PARAMETER] = fabs(*p);
    if (u->rule == LKS_UPDATE_AVERAGE) {
        size[PARAMETER] += fabs(g);
        *p = (1 - (double)u->momentum) * *p + (double)u->momentum * g;
        return;
    }
    bool decoupled = u->rule == LKS_UPDATE_ADAM && u->decoupled;
    double g_size = fabs(g) + (decoupled ? 0 : fabs(decay * *p));
    if (!decoupled)
        g += decay * *p;
    if (u->rule == LKS_UPDATE_SGD) {
        double momentum = u->momentum, kept = u->first_step ? 0 : momentum;
        size[STATE0] = fabs(kept * *s0) + g_size;
        *s0 = kept * *s0 + g;
        double step = momentum == 0 ? g : u->nesterov ? g + momentum * *s0 : *s0;
        size[PARAMETER] += lr * (momentum == 0 ? g_size : g_size + size[STATE0]);
        *p -= lr * step;
        return;
    }
    if (decoupled)
        *p -= lr * decay * *p;
    size[STATE0] = fabs(b1 * *s0) + (1 - b1) * g_size;
    size[STATE1] = b2 * *s1 + (1 - b2) * g_size * g_size;
    *s0 = b1 * *s0 + (1 - b1) * g;
    *s1 = b2 * *s1 + (1 - b2) * g * g;
    double root = sqrt(*s1 / (double)u->correction2) + (double)u->epsilon;
    /* The square's error reaches the step by at most size / value of state1. */
    double blow_up = 1 + (*s1 > 0 ? size[STATE1] / *s1 : 0);
    size[PARAMETER] += lr / (double)u->correction1 * size[STATE0] / root * blow_up;
    *p -= lr * (*s0 / (double)u->correction1) / root;
}

static void check_element(const char *name, float found, double wanted, double size, int i)
{
    /* At most 12 roundings on the way to any of them. 1 - beta of f32 betas is exact in f32. */
    harness_expect(name, (size_t)i, found, wanted, 12 * 0x1p-24 * size + 0x1p-126);
}

/* The elements [first, first + count) of the arrays as one block. */
static lks_status update_range(lks_device *device, const lks_update *update, update_arrays *at,
                               int first, int count, bool momentum, bool adam)
{
    const lks_layout_block block = {.offset = (uint64_t)first, .elements = (uint32_t)count};
    lks_layout_block *blocks = harness_to_device(device, &block, sizeof block);
    const lks_update_blocks what = {.blocks = blocks,
                                    .host_blocks = &block,
                                    .count = 1,
                                    .gradient = at->x[GRADIENT],
                                    .parameter = at->x[PARAMETER],
                                    .states = {momentum || adam ? at->x[STATE0] + first : NULL,
                                               adam ? at->x[STATE1] + first : NULL},
                                    .origin = (uint64_t)first};
    lks_status status = lks_device_update(device, update, &what);
    lks_device_free(device, blocks, sizeof block);
    return status;
}

static void run_update(lks_device *device, const lks_update *update)
{
    static update_arrays before, once, pieces;
    bool momentum = update->rule == LKS_UPDATE_SGD && update->momentum != 0;
    bool adam = update->rule == LKS_UPDATE_ADAM;
    fill(&before);
    update_arrays *at = harness_to_device(device, &before, sizeof before);
    ck_assert_int_eq(update_range(device, update, at, 0, UPDATE_ELEMENTS, momentum, adam), LKS_OK);
    harness_from_device(device, &once, at, sizeof once);
    lks_device_free(device, at, sizeof *at);
    at = harness_to_device(device, &before, sizeof before);
    for (int first = 0, count = 1; first < UPDATE_ELEMENTS; first += count, count += 7) {
        int n = first + count < UPDATE_ELEMENTS ? count : UPDATE_ELEMENTS - first;
        ck_assert_int_eq(update_range(device, update, at, first, n, true, true), LKS_OK);
    }
    harness_from_device(device, &pieces, at, sizeof pieces);
    lks_device_free(device, at, sizeof *at);
    ck_assert_mem_eq(&once, &pieces, sizeof once); /* however it is cut */
    for (int i = 0; i < UPDATE_ELEMENTS; ++i) {
        double p = before.x[PARAMETER][i], s0 = before.x[STATE0][i], s1 = before.x[STATE1][i];
        double size[ARRAYS] = {0};
        exact_update(update, before.x[GRADIENT][i], &p, &s0, &s1, size);
        check_element("parameter", once.x[PARAMETER][i], p, size[PARAMETER], i);
        if (momentum || adam)
            check_element("state0", once.x[STATE0][i], s0, size[STATE0], i);
        if (adam)
            check_element("state1", once.x[STATE1][i], s1, size[STATE1], i);
    }
    ck_assert_mem_eq(once.x[GRADIENT], before.x[GRADIENT], sizeof once.x[GRADIENT]);
}

START_TEST(test_update)
{
    lks_device *device = harness_open(_i);
    lks_update base = {.gradient_scale = 0.37f, .lr = 0.01f, .weight_decay = 0.1f};
    for (int option = 0; option < 8; ++option) {
        lks_update sgd = base;
        sgd.rule = LKS_UPDATE_SGD;
        sgd.momentum = option & 1 ? 0.9f : 0;
        sgd.nesterov = option & 2;
        sgd.first_step = option & 4;
        run_update(device, &sgd);
    }
    for (int option = 0; option < 4; ++option) {
        lks_update adam = base;
        adam.rule = LKS_UPDATE_ADAM;
        adam.beta1 = 0.9;
        adam.beta2 = 0.999;
        adam.epsilon = 1e-8f;
        adam.correction1 = option & 1 ? 0.1f : 0.99f;
        adam.correction2 = option & 1 ? 0.001f : 0.5f;
        adam.decoupled = option & 2;
        run_update(device, &adam);
    }
    lks_update average = {.rule = LKS_UPDATE_AVERAGE, .gradient_scale = 0.25f, .momentum = 0.1f};
    run_update(device, &average);
    lks_device_close(device);
}
END_TEST

START_TEST(test_update_without_state)
{
    lks_device *device = harness_open(_i);
    lks_update adam = {.rule = LKS_UPDATE_ADAM};
    float x[2] = {0};
    const lks_layout_block block = {.elements = 2};
    const lks_update_blocks what = {.blocks = &block,
                                    .host_blocks = &block,
                                    .count = 1,
                                    .gradient = x,
                                    .parameter = x,
                                    .states = {x, NULL}};
    ck_assert_int_eq(lks_device_update(device, &adam, &what), LKS_ERR_INTERNAL);
    lks_device_close(device);
}
END_TEST

/* The scale of the totals, read when the update runs; numbers that are not finite change nothing. */
static void run_update_by_totals(lks_device *device, const lks_update *constant,
                                 const lks_totals *totals, bool finite)
{
    static update_arrays before, wanted, found;
    lks_update by_totals = *constant;
    lks_totals *there = harness_to_device(device, totals, sizeof *totals);
    fill(&before);
    update_arrays *at = harness_to_device(device, &before, sizeof before);
    ck_assert_int_eq(update_range(device, constant, at, 0, UPDATE_ELEMENTS, true, true), LKS_OK);
    harness_from_device(device, finite ? &wanted : &found, at, sizeof wanted);
    if (!finite)
        wanted = before;
    lks_device_free(device, at, sizeof *at);
    at = harness_to_device(device, &before, sizeof before);
    by_totals.totals = there;
    if (constant->rule != LKS_UPDATE_AVERAGE)
        by_totals.gradient_scale = 1e9f;
    ck_assert_int_eq(update_range(device, &by_totals, at, 0, UPDATE_ELEMENTS, true, true), LKS_OK);
    harness_from_device(device, &found, at, sizeof found);
    ck_assert_mem_eq(&found, &wanted, sizeof found);
    lks_device_free(device, at, sizeof *at);
    lks_device_free(device, there, sizeof *totals);
}

START_TEST(test_update_by_totals)
{
    static const lks_totals cases[] = {
        {.bad_lane = -1, .bad_block = -1, .gradient_scale = 0.25f},
        {.bad_lane = 2, .bad_block = -1, .gradient_scale = 0.25f},
        {.bad_lane = -1, .bad_block = 0, .gradient_scale = 0.25f},
    };
    lks_device *device = harness_open(_i);
    const lks_update base = {.gradient_scale = 0.25f, .lr = 0.01f, .weight_decay = 0.1f};
    for (int i = 0; i < 3; ++i) {
        lks_update sgd = base, momentum = base, adam = base, average = base;
        momentum.momentum = 0.9f;
        adam.rule = LKS_UPDATE_ADAM;
        adam.beta1 = 0.9;
        adam.beta2 = 0.999;
        adam.epsilon = 1e-8f;
        adam.correction1 = adam.correction2 = 0.5f;
        average.rule = LKS_UPDATE_AVERAGE;
        average.momentum = 0.1f;
        const lks_update *const updates[] = {&sgd, &momentum, &adam, &average};
        for (int u = 0; u < 4; ++u)
            run_update_by_totals(device, updates[u], &cases[i], i == 0);
    }
    lks_device_close(device);
}
END_TEST

/* --- The numbers of a step ------------------------------------------------------------ */

enum { TOTAL_LANES = 5, TOTAL_BATCHES = 3, TOTAL_BLOCKS = 2500 };

typedef struct numbers {
    double stats[TOTAL_LANES][TOTAL_BATCHES][LKS_STATS];
    double squares[TOTAL_BLOCKS];
    uint8_t counted[TOTAL_BLOCKS];
} numbers;

static void fill_numbers(numbers *n)
{
    for (int lane = 0; lane < TOTAL_LANES; ++lane)
        for (int b = 0; b < TOTAL_BATCHES; ++b) {
            n->stats[lane][b][0] = fabs((double)lane_value(lane, b)) * 1.1;
            n->stats[lane][b][1] = 7 + lane + b;
            n->stats[lane][b][2] = lane;
        }
    for (int i = 0; i < TOTAL_BLOCKS; ++i) {
        n->squares[i] = fabs((double)lane_value(20, i)) / 3;
        n->counted[i] = i % 7 != 3;
    }
}

/* By the letter: lanes' sums in order of micro-batches, then of lanes; blocks in order. */
static lks_totals reference_totals(const numbers *n, double clip_norm)
{
    lks_totals t = {.bad_lane = -1, .bad_block = -1};
    for (int lane = 0; lane < TOTAL_LANES; ++lane) {
        double sums[LKS_STATS] = {0};
        for (int b = 0; b < TOTAL_BATCHES; ++b)
            for (int j = 0; j < LKS_STATS; ++j)
                sums[j] += n->stats[lane][b][j];
        t.loss_sum += sums[0];
        t.targets += sums[1];
        t.correct += sums[2];
        if (!isfinite(sums[0]) && t.bad_lane < 0)
            t.bad_lane = lane;
    }
    for (int i = TOTAL_BLOCKS; i-- > 0;)
        if (n->counted[i] && !isfinite(n->squares[i]))
            t.bad_block = i;
    for (int i = 0; i < TOTAL_BLOCKS; ++i)
        t.square_sum += n->counted[i] ? n->squares[i] : 0;
    double targets = t.targets > 0 ? t.targets : 1;
    t.norm = sqrt(t.square_sum) / targets;
    double factor = clip_norm > 0 && t.norm > clip_norm ? clip_norm / t.norm : 1;
    t.gradient_scale = (float)(factor / targets);
    return t;
}

static bool same_number(double a, double b)
{
    return a == b || (isnan(a) && isnan(b));
}

static void check_totals(lks_device *device, const numbers *n, double clip_norm)
{
    numbers *there = harness_to_device(device, n, sizeof *n);
    static const double zeros[TOTAL_LANES * LKS_STATS];
    static const lks_totals nothing;
    double *sums = harness_to_device(device, zeros, sizeof zeros);
    lks_totals found, wanted = reference_totals(n, clip_norm);
    lks_totals *out = harness_to_device(device, &nothing, sizeof nothing);
    ck_assert_int_eq(
        lks_device_sum_stats(device, TOTAL_LANES, TOTAL_BATCHES, there->stats[0][0], sums), LKS_OK);
    const lks_totals_spec spec = {TOTAL_LANES,    TOTAL_BLOCKS,   sums,
                                  there->squares, there->counted, clip_norm};
    ck_assert_int_eq(lks_device_total(device, &spec, out), LKS_OK);
    harness_from_device(device, &found, out, sizeof found);
    ck_assert(same_number(found.loss_sum, wanted.loss_sum));
    ck_assert(same_number(found.targets, wanted.targets));
    ck_assert(same_number(found.correct, wanted.correct));
    ck_assert(same_number(found.square_sum, wanted.square_sum));
    ck_assert(same_number(found.norm, wanted.norm));
    ck_assert(same_number((double)found.gradient_scale, (double)wanted.gradient_scale));
    ck_assert_int_eq(found.bad_lane, wanted.bad_lane);
    ck_assert_int_eq(found.bad_block, wanted.bad_block);
    lks_device_free(device, there, sizeof *n);
    lks_device_free(device, sums, sizeof zeros);
    lks_device_free(device, out, sizeof nothing);
}

/* The same bits as the plain loop, whatever the device: their order is the contract. */
START_TEST(test_totals)
{
    static numbers plain, odd;
    lks_device *device = harness_open(_i);
    fill_numbers(&plain);
    for (int clip = 0; clip < 3; ++clip)
        check_totals(device, &plain, (double[]){0, 0.01, 1e9}[clip]);
    odd = plain;
    odd.stats[3][1][0] = NAN;
    odd.stats[4][0][0] = INFINITY;
    odd.squares[3] = NAN; /* not counted */
    check_totals(device, &odd, 1);
    odd.squares[1025] = INFINITY;
    odd.squares[2400] = NAN;
    check_totals(device, &odd, 1);
    memset(&odd, 0, sizeof odd); /* no valid target at all */
    check_totals(device, &odd, 1);
    lks_device_close(device);
}
END_TEST

/* --- Devices ----------------------------------------------------------------------- */

START_TEST(test_open)
{
    lks_device *device = NULL;
    ck_assert_int_eq(lks_device_open(&device, "abacus", 0), LKS_ERR_USAGE);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "there are auto, cpu, cuda"));
    ck_assert_int_eq(lks_device_open(&device, "cpu:z80", 0), LKS_ERR_USAGE);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "cpu:baseline"));
    static const char *const names[] = {"cpu", "auto"};
    for (int i = 0; i < 2; ++i) {
        ck_assert_int_eq(lks_device_open(&device, names[i], 0), LKS_OK);
        ck_assert_str_eq(lks_device_name(device), "cpu");
        ck_assert_ptr_nonnull(strstr(lks_device_arithmetic(device), "onednn-"));
        lks_device_close(device);
    }
    lks_device_close(NULL);
}
END_TEST

START_TEST(test_memory)
{
    static const size_t sizes[] = {0, 1, 1000, 3 << 20};
    lks_device *device = harness_open(_i);
    for (int i = 0; i < 4; ++i) {
        unsigned char *memory, value = 9, back = 0;
        ck_assert_int_eq(lks_device_allocate(device, sizes[i], (void **)&memory), LKS_OK);
        ck_assert_uint_eq((uintptr_t)memory % 64, 0);
        unsigned char *host = malloc(sizes[i] + 1);
        harness_from_device(device, host, memory, sizes[i]);
        for (size_t j = 0; j < sizes[i]; ++j)
            if (host[j])
                ck_abort_msg("byte %zu is not zero", j);
        free(host);
        if (sizes[i]) {
            ck_assert_int_eq(lks_device_copy_in(device, memory, &value, 1), LKS_OK);
            ck_assert_int_eq(lks_device_copy_out(device, &back, memory, 1), LKS_OK);
            ck_assert_uint_eq(back, 9);
        }
        lks_device_free(device, memory, sizes[i]);
    }
    lks_device_close(device);
}
END_TEST

START_TEST(test_probe)
{
    uint64_t hash[2];
    for (int i = 0; i < 2; ++i) {
        lks_device *device = harness_open(_i);
        lks_status status = lks_device_probe(device, &hash[i]);
        ck_assert_msg(status == LKS_OK, "%s", lks_status_message());
        lks_device_close(device);
    }
    ck_assert_uint_eq(hash[0], hash[1]);
}
END_TEST

TCase *flat_cases(void)
{
    TCase *tcase = tcase_create("flat");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_sum_partials);
    HARNESS_ADD(tcase, test_sum_refused);
    HARNESS_ADD(tcase, test_add);
    HARNESS_ADD(tcase, test_round);
    HARNESS_ADD(tcase, test_update);
    HARNESS_ADD(tcase, test_update_without_state);
    HARNESS_ADD(tcase, test_update_by_totals);
    HARNESS_ADD(tcase, test_totals);
    HARNESS_ADD(tcase, test_memory);
    HARNESS_ADD(tcase, test_probe);
    tcase_add_test(tcase, test_square_sum_everywhere);
    if (harness_on_cpu())
        tcase_add_test(tcase, test_open);
    return tcase;
}
