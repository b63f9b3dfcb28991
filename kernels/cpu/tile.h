/* Small matrix products in registers, for attention's blocks: c (+)= a b.
 *
 * Columns of b and c are padded to LKS_TILE_PAD, so there is no edge there; a
 * may have any steps, and so may be a transpose.
 */
#ifndef LKS_KERNELS_CPU_TILE_H
#define LKS_KERNELS_CPU_TILE_H

#include <stdbool.h>
#include <stdint.h>

enum { LKS_TILE_PAD = 32 }; /* floats */

#if defined(__AVX512F__)
enum { LKS_TILE_FLOATS = 16, LKS_TILE_ROWS = 8 };
#elif defined(__AVX__)
enum { LKS_TILE_FLOATS = 8, LKS_TILE_ROWS = 6 };
#else
enum { LKS_TILE_FLOATS = 4, LKS_TILE_ROWS = 4 };
#endif
enum { LKS_TILE_COLUMNS = 2 * LKS_TILE_FLOATS };

typedef float lks_vector
    __attribute__((vector_size(LKS_TILE_FLOATS * sizeof(float)), aligned(4), may_alias));

typedef struct lks_tile_product {
    int64_t rows, columns, depth; /* columns: a multiple of LKS_TILE_PAD */
    const float *a;
    int64_t a_row, a_depth; /* steps in floats */
    const float *b;
    int64_t b_row; /* b's rows run along the depth */
    float *c;
    int64_t c_row;
    bool add;
} lks_tile_product;

/* `rows` is a constant at each call, so that the sums live in registers. */
static inline __attribute__((always_inline)) void
lks_tile_block(const lks_tile_product *p, const int rows, int64_t row, int64_t column)
{
    lks_vector sums[LKS_TILE_ROWS][2];
    float *c = p->c + row * p->c_row + column;
    const float *a = p->a + row * p->a_row, *b = p->b + column;
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < 2; ++v)
            sums[r][v] =
                p->add ? *(lks_vector *)(c + r * p->c_row + v * LKS_TILE_FLOATS) : (lks_vector){0};
    for (int64_t k = 0; k < p->depth; ++k) {
        lks_vector left = *(const lks_vector *)(b + k * p->b_row);
        lks_vector right = *(const lks_vector *)(b + k * p->b_row + LKS_TILE_FLOATS);
        for (int r = 0; r < rows; ++r) {
            float factor = a[r * p->a_row + k * p->a_depth];
            sums[r][0] += factor * left;
            sums[r][1] += factor * right;
        }
    }
    for (int r = 0; r < rows; ++r)
        for (int v = 0; v < 2; ++v)
            *(lks_vector *)(c + r * p->c_row + v * LKS_TILE_FLOATS) = sums[r][v];
}

static inline void lks_tile_multiply(const lks_tile_product *product)
{
    lks_tile_product p = *product;
    for (int64_t column = 0; column < p.columns; column += LKS_TILE_COLUMNS) {
        int64_t row = 0;
        for (; row + LKS_TILE_ROWS <= p.rows; row += LKS_TILE_ROWS)
            lks_tile_block(&p, LKS_TILE_ROWS, row, column);
        for (; row + 2 <= p.rows; row += 2)
            lks_tile_block(&p, 2, row, column);
        for (; row < p.rows; ++row)
            lks_tile_block(&p, 1, row, column);
    }
}

#endif
