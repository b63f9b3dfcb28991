/* Flat arrays: the lane tree, addition, optimizer updates.
 *
 * An element's bits must not depend on where in a call it stands (calls are cut
 * by who owns which blocks), so every multiply-add is spelled lks_fma and
 * nothing is left for the compiler to contract in one loop and not in its tail.
 */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/vector_math.h"
#include "runtime/base/bf16.h"

#include <string.h>

enum {
    CHUNK = 1024, /* elements: a chunk of every level stays in cache */
    LEVELS = 32,  /* of a tree over at most 2^31 lanes */
    SQUARES = 16, /* accumulators; element i adds to number i mod 16 */
};

typedef struct tree_walk {
    const lks_partial *next;
    uint64_t offset, count; /* of the chunk in the flat array */
    float (*level)[CHUNK];
} tree_walk;

static void add_chunks(uint64_t count, const float *a, const float *b, float *out)
{
#pragma omp simd
    for (uint64_t i = 0; i < count; ++i)
        out[i] = a[i] + b[i];
}

/* The chunk of tree(first, end): a leaf's own memory or walk->level[level]. */
static const float *tree_evaluate(tree_walk *walk, int first, int end, int level)
{
    const lks_partial *leaf = walk->next;
    if (leaf->first_lane == first && leaf->end_lane == end) {
        ++walk->next;
        return leaf->data + (walk->offset - leaf->origin);
    }
    int middle = lks_tree_split(first, end);
    const float *left = tree_evaluate(walk, first, middle, level);
    const float *right = tree_evaluate(walk, middle, end, level + 1);
    add_chunks(walk->count, left, right, walk->level[level]);
    return walk->level[level];
}

static void add_squares(double sums[SQUARES], const float *x, uint64_t count)
{
    uint64_t whole = count / SQUARES * SQUARES;
    for (uint64_t i = 0; i < whole; i += SQUARES)
        for (int j = 0; j < SQUARES; ++j)
            sums[j] += (double)x[i + j] * x[i + j]; /* the product is exact */
    for (uint64_t i = whole; i < count; ++i)
        sums[i - whole] += (double)x[i] * x[i];
}

static double sum_squares(const double sums[SQUARES])
{
    double total = 0;
    for (int j = 0; j < SQUARES; ++j)
        total += sums[j];
    return total;
}

static void sum_chunk(const lks_sum *sum, tree_walk *walk)
{
    float *out = sum->out + walk->offset;
    if (sum->partial_count > 1) {
        int middle = lks_tree_split(0, sum->lanes);
        const float *left = tree_evaluate(walk, 0, middle, 0);
        const float *right = tree_evaluate(walk, middle, sum->lanes, 1);
        add_chunks(walk->count, left, right, out);
        return;
    }
    const float *only = sum->partials->data + (walk->offset - sum->partials->origin);
    if (out != only)
        memcpy(out, only, walk->count * sizeof *out);
}

static void cpu_sum_blocks(const lks_sum *sum)
{
    float level[LEVELS][CHUNK];
    for (uint32_t i = 0; i < sum->count; ++i) {
        const lks_layout_block *block = &sum->host_blocks[i];
        double squares[SQUARES] = {0};
        for (uint64_t at = 0; at < block->elements; at += CHUNK) {
            uint64_t count = block->elements - at < CHUNK ? block->elements - at : CHUNK;
            tree_walk walk = {sum->partials, block->offset + at, count, level};
            sum_chunk(sum, &walk);
            if (sum->square_sums)
                add_squares(squares, sum->out + walk.offset, count);
        }
        if (sum->square_sums)
            sum->square_sums[i] = sum_squares(squares);
    }
}

static void cpu_add(uint64_t elements, const float *from, float *into)
{
    add_chunks(elements, into, from, into);
}

static void cpu_round(uint64_t elements, const float *from, uint16_t *to)
{
#pragma omp simd
    for (uint64_t i = 0; i < elements; ++i)
        to[i] = lks_bf16_of(from[i]);
}

static void cpu_widen(uint64_t elements, const uint16_t *from, float *to)
{
#pragma omp simd
    for (uint64_t i = 0; i < elements; ++i)
        to[i] = lks_bf16_value(from[i]);
}

static void update_sgd(const lks_update *u, uint64_t elements, const float *gradient,
                       float *parameter, float *state)
{
    float scale = u->gradient_scale, decay = u->weight_decay, lr = u->lr, momentum = u->momentum;
    if (momentum == 0.0f) {
#pragma omp simd
        for (uint64_t i = 0; i < elements; ++i) {
            float g = lks_fma(decay, parameter[i], scale * gradient[i]);
            parameter[i] = lks_fma(-lr, g, parameter[i]);
        }
        return;
    }
    float kept = u->first_step ? 0.0f : momentum;
    bool nesterov = u->nesterov;
#pragma omp simd
    for (uint64_t i = 0; i < elements; ++i) {
        float g = lks_fma(decay, parameter[i], scale * gradient[i]);
        float s = lks_fma(kept, state[i], g);
        float step = nesterov ? lks_fma(momentum, s, g) : s;
        state[i] = s;
        parameter[i] = lks_fma(-lr, step, parameter[i]);
    }
}

static void update_adam(const lks_update *u, uint64_t elements, const float *gradient,
                        float *parameter, float *state0, float *state1)
{
    float scale = u->gradient_scale, epsilon = u->epsilon;
    float b1 = (float)u->beta1, b2 = (float)u->beta2;
    float coupled = u->decoupled ? 0.0f : u->weight_decay;
    float shrink = u->decoupled ? -(u->lr * u->weight_decay) : 0.0f;
    float rest1 = (float)(1 - u->beta1), rest2 = (float)(1 - u->beta2);
    float step = -(u->lr / u->correction1);
    float correction2 = u->correction2;
#pragma omp simd
    for (uint64_t i = 0; i < elements; ++i) {
        float p = parameter[i];
        float g = lks_fma(coupled, p, scale * gradient[i]);
        float first = lks_fma(b1, state0[i], rest1 * g);
        float second = lks_fma(b2, state1[i], rest2 * g * g);
        p = lks_fma(shrink, p, p);
        state0[i] = first;
        state1[i] = second;
        parameter[i] = lks_fma(step, first / (sqrtf(second / correction2) + epsilon), p);
    }
}

static void update_average(const lks_update *u, uint64_t elements, const float *gradient,
                           float *parameter)
{
    float scale = u->gradient_scale, momentum = u->momentum, kept = 1.0f - momentum;
#pragma omp simd
    for (uint64_t i = 0; i < elements; ++i)
        parameter[i] = lks_fma(kept, parameter[i], momentum * (scale * gradient[i]));
}

static void cpu_update(const lks_update *update, uint64_t elements, const float *gradient,
                       float *parameter, float *state0, float *state1)
{
    switch (update->rule) {
    case LKS_UPDATE_SGD:
        update_sgd(update, elements, gradient, parameter, state0);
        break;
    case LKS_UPDATE_ADAM:
        update_adam(update, elements, gradient, parameter, state0, state1);
        break;
    case LKS_UPDATE_AVERAGE:
        update_average(update, elements, gradient, parameter);
        break;
    }
}

extern const lks_cpu_flat LKS_ISA_NAME(lks_cpu_flat);
const lks_cpu_flat LKS_ISA_NAME(lks_cpu_flat) = {cpu_sum_blocks, cpu_add, cpu_round, cpu_widen,
                                                 cpu_update};
