#include "warp.h"

#include "access.h"
#include "block.h"

#include <algorithm>
#include <math.h>
#include <string.h>

static float float_of(uint32_t bits)
{
    float out;
    memcpy(&out, &bits, sizeof out);
    return out;
}

static uint32_t word_of(const lks_warp_lane *lane)
{
    uint32_t out;
    memcpy(&out, lane->in, sizeof out);
    return out;
}

static void shuffle(lks_warp_lane *const *lanes)
{
    for (int i = 0; i < 32; ++i) {
        int source;
        if (!lanes[i])
            continue;
        memcpy(&source, lanes[i]->in + 8, sizeof source);
        if (source < 0 || source > 31 || !lanes[source])
            return lks_fault_raise("lane %d asks for the value of lane %d, which does not take "
                                   "part in the shuffle",
                                   i, source);
        memcpy(lanes[i]->out, lanes[source]->in, 8);
    }
}

static void combine(lks_warp_lane *const *lanes)
{
    uint32_t result = 0;
    bool first = true;
    for (int i = 0; i < 32; ++i) {
        if (!lanes[i])
            continue;
        uint32_t word = word_of(lanes[i]);
        switch (lanes[i]->kind) {
        case LKS_COLLECTIVE_BALLOT:
            result |= (uint32_t)(word != 0) << i;
            break;
        case LKS_COLLECTIVE_ADD:
            result += word;
            break;
        case LKS_COLLECTIVE_MIN:
            result = first || word < result ? word : result;
            break;
        default:
            result = first || word > result ? word : result;
        }
        first = false;
    }
    for (int i = 0; i < 32; ++i)
        if (lanes[i])
            memcpy(lanes[i]->out, &result, sizeof result);
}

static void match(lks_warp_lane *const *lanes)
{
    for (int i = 0; i < 32; ++i) {
        uint32_t same = 0;
        for (int j = 0; lanes[i] && j < 32; ++j)
            same |= (uint32_t)(lanes[j] && word_of(lanes[j]) == word_of(lanes[i])) << j;
        if (lanes[i])
            memcpy(lanes[i]->out, &same, sizeof same);
    }
}

/* --- Tensor cores: PTX ISA, "Warp-level matrix instructions", the fragments' tables ---------- */

struct product {
    float a[16][16], b[16][8], d[16][8];
};

static const lks_emulation_mma *mma_of(const lks_warp_lane *lane)
{
    return reinterpret_cast<const lks_emulation_mma *>(lane->in);
}

/* 2^exponent_of(x) <= |x|; less than all others for 0. */
static int exponent_of(double x)
{
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return (int)(bits >> 52 & 0x7ff) - 1023;
}

static double power_of_two(int exponent)
{
    uint64_t bits = (uint64_t)(exponent + 1023) << 52;
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static float toward_zero(double x)
{
    float nearest = (float)x;
    return fabs((double)nearest) > fabs(x) ? nextafterf(nearest, 0) : nearest;
}

/* As tensor cores do (Fasi, Higham, Mikaitis and Pranesh 2021): all terms at once, each cut off below the last bit of f32
 * that the largest has, of which later ones keep a bit or two more; the sum is cut off as well. */
static float add_terms(const double *term, int count)
{
    int largest = -1023;
    double sum = 0;
    for (int i = 0; i < count; ++i) {
        largest = std::max(largest, exponent_of(term[i]));
        sum += term[i];
    }
    if (largest > 126 || largest < -100) /* infinite, not a number, or about to be nothing */
        return (float)sum;
    double units = power_of_two(23 - largest);
    int64_t whole = 0;
    for (int i = 0; i < count; ++i)
        whole += (int64_t)(term[i] * units);
    return toward_zero((double)whole * power_of_two(largest - 23));
}

static void multiply(lks_warp_lane *const *lanes, product *p, int depth)
{
    for (int row = 0; row < 16; ++row)
        for (int column = 0; column < 8; ++column) {
            double term[17] = {(double)p->d[row][column]};
            for (int k = 0; k < depth; ++k)
                term[k + 1] = (double)p->a[row][k] * (double)p->b[k][column];
            p->d[row][column] = add_terms(term, depth + 1);
        }
    for (int lane = 0; lane < 32; ++lane) {
        int row = lane / 4, column = lane % 4 * 2;
        float d[4] = {p->d[row][column], p->d[row][column + 1], p->d[row + 8][column],
                      p->d[row + 8][column + 1]};
        memcpy(lanes[lane]->out, d, sizeof d);
    }
}

static void gather_sums(lks_warp_lane *const *lanes, product *p)
{
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i)
            p->d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = mma_of(lanes[lane])->d[i];
}

/* m16n8k16: a register holds two columns of a (or rows of b), the lower one in its lower half. */
static void multiply_bf16(lks_warp_lane *const *lanes)
{
    product p;
    gather_sums(lanes, &p);
    for (int lane = 0; lane < 32; ++lane) {
        const lks_emulation_mma *in = mma_of(lanes[lane]);
        int group = lane / 4, pair = lane % 4 * 2;
        for (int half = 0; half < 2; ++half) {
            for (int i = 0; i < 4; ++i)
                p.a[group + i % 2 * 8][pair + half + i / 2 * 8] =
                    float_of(half ? in->a[i] & 0xffff0000u : in->a[i] << 16);
            for (int i = 0; i < 2; ++i)
                p.b[pair + half + i * 8][group] =
                    float_of(half ? in->b[i] & 0xffff0000u : in->b[i] << 16);
        }
    }
    multiply(lanes, &p, 16);
}

/* m16n8k8: the lower 13 bits of an operand are not looked at. */
static void multiply_tf32(lks_warp_lane *const *lanes)
{
    product p;
    gather_sums(lanes, &p);
    for (int lane = 0; lane < 32; ++lane) {
        const lks_emulation_mma *in = mma_of(lanes[lane]);
        for (int i = 0; i < 4; ++i)
            p.a[lane / 4 + i % 2 * 8][lane % 4 + i / 2 * 4] = float_of(in->a[i] & 0xffffe000u);
        for (int i = 0; i < 2; ++i)
            p.b[lane % 4 + i * 4][lane / 4] = float_of(in->b[i] & 0xffffe000u);
    }
    multiply(lanes, &p, 8);
}

static bool check_row(int lane, const void *row)
{
    bool shared = lks_block_owns_shared(static_cast<const char *>(row), 16);
    if (shared && (uintptr_t)row % 16 == 0)
        return true;
    lks_fault_raise("lane %d gives the row %p of a matrix, which must be 16 bytes of shared "
                    "memory, aligned",
                    lane, row);
    return false;
}

static void load_matrices(lks_warp_lane *const *lanes)
{
    lks_emulation_rows in[32];
    uint16_t matrix[4][8][8];
    for (int i = 0; i < 32; ++i)
        memcpy(&in[i], lanes[i]->in, sizeof in[i]);
    for (int i = 0; i < in[0].matrices * 8; ++i) {
        if (!check_row(i, in[i].row))
            return;
        lks_access_check_for(i, in[i].row, 16, LKS_ACCESS_READ);
        memcpy(matrix[i / 8][i % 8], in[i].row, 16);
    }
    for (int lane = 0; lane < 32; ++lane)
        for (int m = 0; m < in[0].matrices; ++m) {
            int row = lane / 4, column = lane % 4 * 2;
            uint32_t low = in[0].transposed ? matrix[m][column][row] : matrix[m][row][column];
            uint32_t high =
                in[0].transposed ? matrix[m][column + 1][row] : matrix[m][row][column + 1];
            uint32_t word = low | high << 16;
            memcpy(lanes[lane]->out + 4 * m, &word, sizeof word);
        }
}

void lks_warp_complete(lks_warp_lane *const *lanes)
{
    int first = 0;
    while (!lanes[first])
        ++first;
    switch (lanes[first]->kind) {
    case LKS_COLLECTIVE_SYNC:
        return;
    case LKS_COLLECTIVE_SHUFFLE:
        return shuffle(lanes);
    case LKS_COLLECTIVE_MATCH:
        return match(lanes);
    case LKS_COLLECTIVE_MMA_BF16:
        return multiply_bf16(lanes);
    case LKS_COLLECTIVE_MMA_TF32:
        return multiply_tf32(lanes);
    case LKS_COLLECTIVE_LOAD_MATRICES:
        return load_matrices(lanes);
    default:
        return combine(lanes);
    }
}
