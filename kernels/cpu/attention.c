/* Attention, a block of queries at a time: the scores of a block against all
 * keys that it may see are a matrix of BLOCK x T in scratch, and nothing larger is.
 *
 * Per head, keys and values are copied out of qkv once: as they are (rows
 * padded to a tile) where they stand on the right of a product along keys, transposed
 * where along the width. Blocks, keys and group members are taken in order, so
 * every sum has one order.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/dropout.h"
#include "kernels/cpu/sums.h"
#include "kernels/cpu/tile.h"
#include "kernels/cpu/vector_math.h"

#include <string.h>

enum { BLOCK = 32 };

typedef struct attention_state {
    lks_attention_attributes with;
    int64_t samples, length, stride;     /* stride: floats from token to token in qkv */
    int64_t padded_length, padded_width; /* multiples of LKS_TILE_PAD */
} attention_state;

/* --- Scratch ------------------------------------------------------------------- */

typedef struct attention_scratch {
    float *keys, *values;               /* [length, padded_width] */
    float *keys_across, *values_across; /* [width, padded_length] */
    float *scores, *dropped, *slopes;   /* [BLOCK, padded_length] */
    float *block;                       /* [BLOCK, padded_width] */
    float *dkeys, *dvalues;             /* [length, padded_width] */
    float *queries, *dy;                /* [BLOCK, padded_width] */
    float *factors;                     /* [padded_length] */
} attention_scratch;

/* Takes `floats` from the scratch; with a NULL base only counts. */
static float *take(char *base, size_t *used, int64_t floats)
{
    size_t at = *used;
    *used += lks_round_up((size_t)floats * sizeof(float), LKS_ALIGNMENT);
    return base ? (float *)(base + at) : NULL;
}

static size_t scratch_cut(const attention_state *state, bool backward, void *base,
                          attention_scratch *out)
{
    int64_t rows = state->length * state->padded_width;
    int64_t across = state->with.width * state->padded_length;
    int64_t block = BLOCK * state->padded_width, scores = BLOCK * state->padded_length;
    size_t used = 0;
    *out = (attention_scratch){0};
    out->keys_across = take(base, &used, across);
    out->scores = take(base, &used, scores);
    out->block = take(base, &used, block);
    out->factors = take(base, &used, state->padded_length);
    if (!backward) {
        out->values = take(base, &used, rows);
        return used;
    }
    out->keys = take(base, &used, rows);
    out->values_across = take(base, &used, across);
    out->dropped = take(base, &used, scores);
    out->slopes = take(base, &used, scores);
    out->dkeys = take(base, &used, rows);
    out->dvalues = take(base, &used, rows);
    out->queries = take(base, &used, block);
    out->dy = take(base, &used, block);
    return used;
}

static void copy_rows(float *to, int64_t to_step, const float *from, int64_t from_step,
                      int64_t rows, int64_t width)
{
    for (int64_t row = 0; row < rows; ++row) {
        memcpy(to + row * to_step, from + row * from_step, (size_t)width * sizeof *to);
        memset(to + row * to_step + width, 0, (size_t)(to_step - width) * sizeof *to);
    }
}

static void copy_across(float *to, int64_t to_step, const float *from, int64_t from_step,
                        int64_t rows, int64_t width)
{
    for (int64_t d = 0; d < width; ++d) {
        for (int64_t row = 0; row < rows; ++row)
            to[d * to_step + row] = from[row * from_step + d];
        memset(to + d * to_step + rows, 0, (size_t)(to_step - rows) * sizeof *to);
    }
}

/* --- One block of queries -------------------------------------------------------- */

typedef struct attention_head {
    const attention_state *state;
    const lks_kernel_context *context;
    int64_t sample, head;
} attention_head;

typedef struct attention_block {
    int64_t first, rows;
    int64_t keys;   /* seen by some query of the block */
    int64_t padded; /* keys rounded up to a tile */
} attention_block;

static attention_block block_at(const attention_state *state, int64_t first)
{
    attention_block block = {.first = first};
    block.rows = state->length - first < BLOCK ? state->length - first : BLOCK;
    block.keys = state->with.causal ? first + block.rows : state->length;
    block.padded = (int64_t)lks_round_up((size_t)block.keys, LKS_TILE_PAD);
    return block;
}

static int64_t keys_of(const attention_state *state, const attention_block *block, int64_t row)
{
    return state->with.causal ? block->first + row + 1 : block->keys;
}

static void score(const attention_state *state, const attention_scratch *scratch,
                  const attention_block *block, const float *queries)
{
    lks_tile_multiply(&(lks_tile_product){.rows = block->rows,
                                          .columns = block->padded,
                                          .depth = state->with.width,
                                          .a = queries,
                                          .a_row = state->stride,
                                          .a_depth = 1,
                                          .b = scratch->keys_across,
                                          .b_row = state->padded_length,
                                          .c = scratch->scores,
                                          .c_row = state->padded_length});
}

/* The factors of one query's keys, as ops.h numbers them. */
static void drop_row(const attention_head *at, int64_t query, int64_t keys, float *factors)
{
    const lks_attention_attributes *with = &at->state->with;
    uint64_t key = lks_rng_key(at->context->seed, LKS_RNG_DROPOUT, with->instance);
    uint64_t first = ((uint64_t)at->head * (uint64_t)at->state->length + (uint64_t)query) *
                     (uint64_t)at->state->length;
    lks_dropout_factors(key, at->context->positions[at->sample], first, keys, with->dropout,
                        factors);
}

/* Scores become probabilities, and zero beyond `keys`; returns log of the sum. */
static float softmax_row(float *row, int64_t keys, int64_t padded, float scale)
{
    float largest = lks_largest(row, keys); /* scale is positive */
#pragma omp simd
    for (int64_t j = 0; j < keys; ++j)
        row[j] = lks_exp((row[j] - largest) * scale);
    LKS_SUM(sum, j, keys, row[j]);
    float inverse = 1.0f / sum;
#pragma omp simd
    for (int64_t j = 0; j < keys; ++j)
        row[j] *= inverse;
    for (int64_t j = keys; j < padded; ++j)
        row[j] = 0;
    return largest * scale + logf(sum);
}

static void attention_block_run(const attention_head *at, const attention_scratch *scratch,
                                const attention_block *block, const float *queries, float *y,
                                float *lse)
{
    const attention_state *state = at->state;
    int64_t width = state->with.width, y_step = state->with.heads * width;
    score(state, scratch, block, queries);
    for (int64_t row = 0; row < block->rows; ++row) {
        float *scores = scratch->scores + row * state->padded_length;
        int64_t keys = keys_of(state, block, row);
        float log_sum = softmax_row(scores, keys, block->padded, state->with.scale);
        if (lse)
            lse[block->first + row] = log_sum;
        if (state->with.dropout > 0) {
            drop_row(at, block->first + row, keys, scratch->factors);
            for (int64_t j = 0; j < keys; ++j)
                scores[j] *= scratch->factors[j];
        }
    }
    lks_tile_multiply(&(lks_tile_product){.rows = block->rows,
                                          .columns = state->padded_width,
                                          .depth = block->keys,
                                          .a = scratch->scores,
                                          .a_row = state->padded_length,
                                          .a_depth = 1,
                                          .b = scratch->values,
                                          .b_row = state->padded_width,
                                          .c = scratch->block,
                                          .c_row = state->padded_width});
    for (int64_t row = 0; row < block->rows; ++row)
        memcpy(y + (block->first + row) * y_step, scratch->block + row * state->padded_width,
               (size_t)width * sizeof *y);
}

/* --- attention -------------------------------------------------------------------- */

static lks_status attention_make(void **out, const lks_kernel_spec *spec, bool backward,
                                 size_t *workspace)
{
    const lks_attention_attributes *with = spec->attributes;
    const lks_shape *shape = &spec->inputs[0].shape;
    attention_state *state;
    attention_scratch scratch;
    LKS_TRY(LKS_NEW(&state));
    state->with = *with;
    state->samples = shape->size[0];
    state->length = shape->size[1];
    state->stride = shape->size[2];
    state->padded_length = (int64_t)lks_round_up((size_t)state->length, LKS_TILE_PAD);
    state->padded_width = (int64_t)lks_round_up((size_t)with->width, LKS_TILE_PAD);
    *workspace = scratch_cut(state, backward, NULL, &scratch);
    *out = state;
    return LKS_OK;
}

static lks_status attention_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                    size_t *workspace)
{
    (void)device;
    LKS_TRY(lks_shapes_expect_attention(spec, NULL));
    return attention_make(out, spec, false, workspace);
}

/* Where key-value head `group`'s keys of a sample start; the values follow all keys. */
static const float *keys_at(const attention_state *state, const float *qkv, int64_t sample,
                            int64_t group)
{
    return qkv + sample * state->length * state->stride +
           (state->with.heads + group) * state->with.width;
}

static lks_status attention_run(void *state_, const lks_kernel_run *run)
{
    const attention_state *state = state_;
    const lks_attention_attributes *with = &state->with;
    const float *qkv = run->inputs[0];
    float *y = run->outputs[0], *lse = run->outputs[1];
    int64_t members = with->heads / with->kv_heads, length = state->length;
    attention_scratch scratch;
    scratch_cut(state, false, run->workspace, &scratch);
    for (int64_t i = 0; i < state->samples * with->heads; ++i) {
        attention_head at = {state, run->context, i / with->heads, i % with->heads};
        const float *sample = qkv + at.sample * length * state->stride;
        if (at.head % members == 0) {
            const float *keys = keys_at(state, qkv, at.sample, at.head / members);
            copy_across(scratch.keys_across, state->padded_length, keys, state->stride, length,
                        with->width);
            copy_rows(scratch.values, state->padded_width, keys + with->kv_heads * with->width,
                      state->stride, length, with->width);
        }
        for (int64_t first = 0; first < length; first += BLOCK) {
            attention_block block = block_at(state, first);
            attention_block_run(&at, &scratch, &block,
                                sample + first * state->stride + at.head * with->width,
                                y + (at.sample * length * with->heads + at.head) * with->width,
                                lse ? lse + i * length : NULL);
        }
    }
    return LKS_OK;
}

/* --- attention_grad ---------------------------------------------------------------- */

static lks_status attention_grad_prepare(void **out, lks_device *device,
                                         const lks_kernel_spec *spec, size_t *workspace)
{
    (void)device;
    LKS_TRY(lks_shapes_expect_attention_grad(spec, NULL));
    return attention_make(out, spec, true, workspace);
}

/* Of one query: scores to probabilities P (by lse), slopes from dP' (P' = P dropped) to
 * P (dP - delta) scale, and P' into `dropped`. */
static void slope_row(float *scores, float *dropped, float *slopes, const float *factors,
                      int64_t keys, int64_t padded, float scale, float lse, float delta)
{
#pragma omp simd
    for (int64_t j = 0; j < keys; ++j) {
        float p = lks_exp(scores[j] * scale - lse);
        dropped[j] = p * factors[j];
        slopes[j] = p * (slopes[j] * factors[j] - delta) * scale;
    }
    for (int64_t j = keys; j < padded; ++j)
        dropped[j] = slopes[j] = 0;
}

/* What a block of queries of one head reads and writes. */
typedef struct attention_grad_block {
    const float *queries; /* in qkv */
    const float *y, *dy;  /* step heads width */
    const float *lse;     /* [rows] */
    float *dqueries;      /* in dqkv */
    bool accumulate;
} attention_grad_block;

static void slopes_of(const attention_head *at, const attention_scratch *scratch,
                      const attention_block *block, const attention_grad_block *data)
{
    const attention_state *state = at->state;
    int64_t width = state->with.width, y_step = state->with.heads * width;
    for (int64_t row = 0; row < block->rows; ++row) {
        int64_t keys = keys_of(state, block, row), line = row * state->padded_length;
        const float *y = data->y + row * y_step, *dy = data->dy + row * y_step;
        LKS_SUM(delta, d, width, y[d] * dy[d]);
        if (state->with.dropout > 0)
            drop_row(at, block->first + row, keys, scratch->factors);
        slope_row(scratch->scores + line, scratch->dropped + line, scratch->slopes + line,
                  scratch->factors, keys, block->padded, state->with.scale, data->lse[row], delta);
    }
}

static void add_rows(float *to, int64_t to_step, const float *from, int64_t from_step, int64_t rows,
                     int64_t width, bool accumulate)
{
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t d = 0; d < width; ++d) {
            float *element = to + row * to_step + d;
            *element =
                accumulate ? *element + from[row * from_step + d] : from[row * from_step + d];
        }
}

static void attention_grad_block_run(const attention_head *at, const attention_scratch *scratch,
                                     const attention_block *block, const attention_grad_block *data)
{
    const attention_state *state = at->state;
    int64_t width = state->with.width, y_step = state->with.heads * width;
    int64_t padded_width = state->padded_width, padded_length = state->padded_length;
    copy_rows(scratch->queries, padded_width, data->queries, state->stride, block->rows, width);
    copy_rows(scratch->dy, padded_width, data->dy, y_step, block->rows, width);
    score(state, scratch, block, data->queries);
    lks_tile_product dp = {
        block->rows,   block->padded,   width,         data->dy, y_step, 1, scratch->values_across,
        padded_length, scratch->slopes, padded_length, false};
    lks_tile_multiply(&dp);
    slopes_of(at, scratch, block, data);
    lks_tile_product dv = {
        block->keys, padded_width, block->rows,      scratch->dropped, 1,   padded_length,
        scratch->dy, padded_width, scratch->dvalues, padded_width,     true};
    lks_tile_multiply(&dv);
    lks_tile_product dk = {
        block->keys,      padded_width, block->rows,    scratch->slopes, 1,   padded_length,
        scratch->queries, padded_width, scratch->dkeys, padded_width,    true};
    lks_tile_multiply(&dk);
    lks_tile_product dq = {block->rows, padded_width,  block->keys,  scratch->slopes, padded_length,
                           1,           scratch->keys, padded_width, scratch->block,  padded_width,
                           false};
    lks_tile_multiply(&dq);
    add_rows(data->dqueries, state->stride, scratch->block, padded_width, block->rows, width,
             data->accumulate);
}

static void attention_grad_head(const attention_head *at, const attention_scratch *scratch,
                                const lks_kernel_run *run)
{
    const attention_state *state = at->state;
    int64_t width = state->with.width, heads = state->with.heads, length = state->length;
    const float *qkv = run->inputs[0], *y = run->inputs[1], *lse = run->inputs[2];
    const float *dy = run->inputs[3];
    float *dqkv = run->outputs[0];
    for (int64_t first = 0; first < length; first += BLOCK) {
        attention_block block = block_at(state, first);
        int64_t token = at->sample * length + first;
        int64_t query = token * state->stride + at->head * width;
        int64_t result = (token * heads + at->head) * width;
        attention_grad_block data = {
            .queries = qkv + query,
            .y = y + result,
            .dy = dy + result,
            .lse = lse + (at->sample * heads + at->head) * length + first,
            .dqueries = dqkv + query,
            .accumulate = run->accumulate[0],
        };
        attention_grad_block_run(at, scratch, &block, &data);
    }
}

static lks_status attention_grad_run(void *state_, const lks_kernel_run *run)
{
    const attention_state *state = state_;
    const lks_attention_attributes *with = &state->with;
    const float *qkv = run->inputs[0];
    float *dqkv = run->outputs[0];
    int64_t members = with->heads / with->kv_heads, length = state->length, width = with->width;
    int64_t to_values = with->kv_heads * width;
    size_t rows_bytes = (size_t)(length * state->padded_width) * sizeof(float);
    attention_scratch scratch;
    scratch_cut(state, true, run->workspace, &scratch);
    for (int64_t j = 0; j < length; ++j)
        scratch.factors[j] = 1; /* without dropout they stay so */
    for (int64_t i = 0; i < state->samples * with->kv_heads; ++i) {
        int64_t sample = i / with->kv_heads, group = i % with->kv_heads;
        const float *keys = keys_at(state, qkv, sample, group);
        copy_rows(scratch.keys, state->padded_width, keys, state->stride, length, width);
        copy_across(scratch.keys_across, state->padded_length, keys, state->stride, length, width);
        copy_across(scratch.values_across, state->padded_length, keys + to_values, state->stride,
                    length, width);
        memset(scratch.dkeys, 0, rows_bytes);
        memset(scratch.dvalues, 0, rows_bytes);
        for (int64_t member = 0; member < members; ++member) {
            attention_head at = {state, run->context, sample, group * members + member};
            attention_grad_head(&at, &scratch, run);
        }
        float *dkeys = dqkv + (keys - qkv);
        add_rows(dkeys, state->stride, scratch.dkeys, state->padded_width, length, width,
                 run->accumulate[0]);
        add_rows(dkeys + to_values, state->stride, scratch.dvalues, state->padded_width, length,
                 width, run->accumulate[0]);
    }
    return LKS_OK;
}

extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_attention);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_attention) = {"attention", attention_prepare,
                                                                  attention_run, lks_memory_free};
extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_attention_grad);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_attention_grad) = {
    "attention_grad", attention_grad_prepare, attention_grad_run, lks_memory_free};
