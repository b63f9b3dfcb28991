/* What attention.cu and attention_grad.cu share: geometry, dropout, and products of tiles in shared memory.
 *
 * Flash attention (Dao et al. 2022, Dao 2023): a block of threads owns a block of rows and goes over the other side's
 * rows a stage at a time; products are the tensor cores' for bf16 (probabilities and slopes are rounded to bf16 for
 * them), plain multiply-adds for f32. Rows in shared memory are 16 bytes longer than the width, so that the eight rows
 * of a fragment lie in different banks. Each result is one thread block's, which adds in one order.
 */
#ifndef LKS_KERNELS_CUDA_ATTENTION_CUH
#define LKS_KERNELS_CUDA_ATTENTION_CUH

#include "kernels/cuda/cuda.cuh"

constexpr float LKS_LOG2_E = 1.44269504088896340736f;
enum { LKS_ATTENTION_WIDTH_MAX = 128 };

struct lks_attention_shape {
    int samples, length, heads, kv_heads, width;
    int64_t stride;        /* elements from token to token in qkv */
    float scale, exponent; /* exponent: scale log2(e) */
    bool causal;
    float rate, kept; /* of the dropout, and what is kept is multiplied with */
    uint32_t dropped; /* random words below this are dropped */
    uint64_t key;     /* of the dropout's random stream */
    const uint64_t *positions;
};

/* Of a spec that lks_shapes_expect_attention or _grad took: what is known then, within what these kernels can do. */
lks_status lks_attention_describe(const lks_kernel_spec *spec,
                                  lks_attention_shape *out) LKS_MUST_CHECK;

/* With what the run brings along. */
static inline lks_attention_shape lks_attention_at(const lks_attention_shape *shape,
                                                   uint32_t instance, const lks_kernel_run *run)
{
    lks_attention_shape with = *shape;
    if (with.rate > 0) {
        with.key = lks_rng_key(run->context->seed, LKS_RNG_DROPOUT, instance);
        with.positions = run->context->positions;
    }
    return with;
}

/* Of 32, 64, 96, 128 the first that holds the width. */
static inline int lks_attention_padded(int width)
{
    return (width + 31) / 32 * 32;
}

/* Offsets in qkv and in y. */
static __device__ __forceinline__ int64_t lks_query_at(const lks_attention_shape &shape, int sample,
                                                       int head)
{
    return (int64_t)sample * shape.length * shape.stride + (int64_t)head * shape.width;
}
static __device__ __forceinline__ int64_t lks_key_at(const lks_attention_shape &shape, int sample,
                                                     int group)
{
    return lks_query_at(shape, sample, shape.heads + group);
}
static __device__ __forceinline__ int64_t lks_result_at(const lks_attention_shape &shape,
                                                        int sample, int head)
{
    return ((int64_t)sample * shape.length * shape.heads + head) * shape.width;
}

/* What dropout multiplies a probability with. */
static __device__ __forceinline__ float lks_attention_kept(const lks_attention_shape &shape,
                                                           uint32_t word)
{
    return word >= shape.dropped ? shape.kept : 0.0f;
}
static __device__ __forceinline__ float lks_attention_factor(const lks_attention_shape &shape,
                                                             uint64_t position, int head, int query,
                                                             int key)
{
    uint64_t element =
        ((uint64_t)head * (uint64_t)shape.length + (uint64_t)query) * (uint64_t)shape.length +
        (uint64_t)key;
    lks_rng_block words = lks_rng_words(shape.key, position, element / 4);
    uint32_t low = element & 1 ? words.word[1] : words.word[0];
    uint32_t high = element & 1 ? words.word[3] : words.word[2];
    return lks_attention_kept(shape, element & 2 ? high : low);
}

/* Lanes that differ in `bit` exchange: the one that has it gives a for the other's b. */
static __device__ __forceinline__ void lks_exchange(int lane, int bit, uint32_t &a, uint32_t &b)
{
    bool upper = lane & bit;
    uint32_t got = __shfl_xor_sync(0xffffffffu, upper ? a : b, bit);
    if (upper)
        a = got;
    else
        b = got;
}

/* Of a product's 16 x 8 elements, of which row 0 and column 0 are (query, key), or (key, query) for Keys; `key` is
 * a multiple of 4. Where a row of keys begins with a block of random words, a lane draws one block for
 * four elements, of which it needs one or two, and gives the others away. */
template <bool Keys>
static __device__ __forceinline__ void lks_attention_factors(const lks_attention_shape &shape,
                                                             uint64_t position, int head, int query,
                                                             int key, float (&factor)[4])
{
    int lane = lks_lane();
    if (shape.length % 4 == 0) {
        int j = Keys ? lane / 4 % 4 : lane % 2; /* whose block of the lanes that share */
        query += Keys ? lane % 4 * 2 + j % 2 : j * 8 + lane / 4;
        key += Keys ? j / 2 * 8 + lane / 16 * 4 : lane / 2 % 2 * 4;
        uint64_t row = (uint64_t)head * (uint64_t)shape.length + (uint64_t)query;
        lks_rng_block block = lks_rng_words(
            shape.key, position, row * (uint64_t)(shape.length / 4) + (uint64_t)(key / 4));
        uint32_t(&word)[4] = block.word;
        if (Keys) {
            lks_exchange(lane, 4, word[0], word[1]);
            lks_exchange(lane, 4, word[2], word[3]);
            lks_exchange(lane, 8, word[0], word[2]);
            lks_exchange(lane, 8, word[1], word[3]);
        } else {
            lks_exchange(lane, 1, word[0], word[2]);
            lks_exchange(lane, 1, word[1], word[3]);
        }
#pragma unroll
        for (int e = 0; e < 4; ++e)
            factor[e] = lks_attention_kept(shape, word[e]);
        return;
    }
    factor[0] = factor[1] = factor[2] = factor[3] = 0;
#pragma unroll 1
    for (int e = 0; e < 4; ++e) {
        int row = e / 2 * 8 + lane / 4, column = lane % 4 * 2 + e % 2;
        float one = lks_attention_factor(shape, position, head, query + (Keys ? column : row),
                                         key + (Keys ? row : column));
#pragma unroll
        for (int i = 0; i < 4; ++i)
            factor[i] = i == e ? one : factor[i];
    }
}

/* --- Tiles of bf16 in shared memory: rows of Width + 8 elements ------------------------ */

enum { LKS_ATTENTION_THREADS = 128 }; /* four warps, each with its own rows */

template <int Width> struct lks_tile {
    enum { STEP = Width + 8 };
    /* Threads that copy one row, 8 elements each, and rows that the block copies at a time. */
    enum { LANES = Width <= 32 ? 4 : Width <= 64 ? 8 : 16, TURN = LKS_ATTENTION_THREADS / LANES };
};

/* Where the thread's part of row `first` and those after it begins. */
template <int Width>
static __device__ __forceinline__ const lks_bf16 *lks_tile_place(const lks_bf16 *matrix, int step,
                                                                 int first)
{
    int thread = (int)threadIdx.x, row = first + thread / lks_tile<Width>::LANES;
    return matrix + (int64_t)row * step + thread % lks_tile<Width>::LANES * 8;
}

/* Starts the copy of Rows rows from the thread's place, zeros beyond the `left` that there are and beyond `width`. */
template <int Width, int Rows>
static __device__ __forceinline__ void lks_tile_load(lks_bf16 *tile, const lks_bf16 *place,
                                                     int step, int left, int width)
{
    typedef lks_tile<Width> shape;
    int row = (int)threadIdx.x / shape::LANES, column = (int)threadIdx.x % shape::LANES * 8;
    if (shape::LANES * 8 > Width && column >= Width)
        return;
#pragma unroll
    for (int i = 0; i < Rows; i += shape::TURN)
        if (Rows % shape::TURN == 0 || row + i < Rows)
            lks_copy16(tile + (row + i) * shape::STEP + column, place + (int64_t)i * step,
                       row + i < left && column < width);
}

/* The left side of products, 16 Tiles rows of a tile: in shared memory, or held in registers. */
template <int Width, int Tiles> struct lks_tile_lying {
    const lks_bf16 *at;

    __device__ __forceinline__ explicit lks_tile_lying(const lks_bf16 *tile) : at(tile) {}
    __device__ __forceinline__ void fetch(uint32_t (&left)[Tiles][4], int k, int lane) const
    {
#pragma unroll
        for (int t = 0; t < Tiles; ++t)
            lks_load_matrices(left[t], at + (t * 16 + lane % 16) * lks_tile<Width>::STEP + k * 16 +
                                           lane / 16 * 8);
    }
};
template <int Width, int Tiles> struct lks_tile_held {
    uint32_t rows[Width / 16][Tiles][4];

    __device__ __forceinline__ explicit lks_tile_held(const lks_bf16 *tile)
    {
        lks_tile_lying<Width, Tiles> lying(tile);
        int lane = lks_lane();
#pragma unroll
        for (int k = 0; k < Width / 16; ++k)
            lying.fetch(rows[k], k, lane);
    }
    __device__ __forceinline__ void fetch(uint32_t (&left)[Tiles][4], int k, int) const
    {
#pragma unroll
        for (int i = 0; i < Tiles * 4; ++i)
            left[i / 4][i % 4] = rows[k][i / 4][i % 4];
    }
};

/* d += a b^T: a has 16 Tiles rows, b 8 Columns rows. */
template <int Width, int Tiles, int Columns, typename Left>
static __device__ __forceinline__ void lks_tile_product(float (&d)[Tiles][Columns][4],
                                                        const Left &a, const lks_bf16 *b, int lane)
{
    constexpr int STEP = lks_tile<Width>::STEP;
    b += (lane / 16 * 8 + lane % 8) * STEP + lane / 8 % 2 * 8;
#pragma unroll
    for (int k = 0; k < Width / 16; ++k) {
        uint32_t left[Tiles][4];
        a.fetch(left, k, lane);
#pragma unroll
        for (int n = 0; n < Columns / 2; ++n) {
            uint32_t right[4];
            lks_load_matrices(right, b + n * 16 * STEP + k * 16);
#pragma unroll
            for (int t = 0; t < Tiles; ++t) {
                lks_mma_bf16(d[t][2 * n], left[t], right);
                lks_mma_bf16(d[t][2 * n + 1], left[t], right + 2);
            }
        }
    }
}

/* d += a b: a is fragments, 16 Depth wide; b has 16 Depth rows. */
template <int Width, int Tiles, int Depth>
static __device__ __forceinline__ void lks_tile_multiply(float (&d)[Tiles][Width / 8][4],
                                                         const uint32_t (&a)[Tiles][Depth][4],
                                                         const lks_bf16 *b, int lane)
{
    constexpr int STEP = lks_tile<Width>::STEP;
    b += lane % 16 * STEP + lane / 16 * 8;
#pragma unroll
    for (int k = 0; k < Depth; ++k)
#pragma unroll
        for (int n = 0; n < Width / 16; ++n) {
            uint32_t right[4];
            lks_load_matrices_transposed(right, b + k * 16 * STEP + n * 16);
#pragma unroll
            for (int t = 0; t < Tiles; ++t) {
                lks_mma_bf16(d[t][2 * n], a[t][k], right);
                lks_mma_bf16(d[t][2 * n + 1], a[t][k], right + 2);
            }
        }
}

/* The sums of a product as the left side of the next. */
template <int Tiles, int Columns>
static __device__ __forceinline__ void lks_tile_pack(const float (&d)[Tiles][Columns][4],
                                                     uint32_t (&a)[Tiles][Columns / 2][4])
{
#pragma unroll
    for (int t = 0; t < Tiles; ++t)
#pragma unroll
        for (int k = 0; k < Columns / 2; ++k) {
            a[t][k][0] = lks_pack_bf16(d[t][2 * k][0], d[t][2 * k][1]);
            a[t][k][1] = lks_pack_bf16(d[t][2 * k][2], d[t][2 * k][3]);
            a[t][k][2] = lks_pack_bf16(d[t][2 * k + 1][0], d[t][2 * k + 1][1]);
            a[t][k][3] = lks_pack_bf16(d[t][2 * k + 1][2], d[t][2 * k + 1][3]);
        }
}

/* Where the warp's rows go. */
struct lks_tile_rows {
    lks_bf16 *to;
    int64_t step;
    int first, length, width;
};

/* Writes the warp's sums times factor[t][half row] (+ what was there), by way of `tile`, which nobody but the warp
 * reads. */
template <int Width, int Tiles>
static __device__ __forceinline__ void
lks_tile_store(const float (&d)[Tiles][Width / 8][4], const float (&factor)[Tiles][2],
               lks_bf16 *tile, const lks_tile_rows &rows, bool accumulate)
{
    constexpr int STEP = lks_tile<Width>::STEP, CHUNKS = Width / 8;
    int lane = (int)threadIdx.x % 32;
    __syncwarp();
#pragma unroll
    for (int t = 0; t < Tiles; ++t)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            int row = t * 16 + half * 8 + lane / 4;
            bool inside = accumulate && rows.first + row < rows.length;
#pragma unroll
            for (int n = 0; n < Width / 8; ++n) {
                int column = n * 8 + lane % 4 * 2;
                float low = d[t][n][2 * half] * factor[t][half];
                float high = d[t][n][2 * half + 1] * factor[t][half];
                if (inside && column < rows.width) {
                    const lks_bf16 *before = rows.to + (rows.first + row) * rows.step + column;
                    low += lks_load(before, 0);
                    high += lks_load(before, 1);
                }
                *reinterpret_cast<uint32_t *>(tile + row * STEP + column) =
                    lks_pack_bf16(low, high);
            }
        }
    __syncwarp();
    for (int i = lane; i < 16 * Tiles * CHUNKS; i += 32) {
        int row = i / CHUNKS, column = i % CHUNKS * 8;
        if (rows.first + row < rows.length && column < rows.width)
            lks_vector<lks_bf16>::load(tile + row * STEP + column)
                .store(rows.to + (rows.first + row) * rows.step + column);
    }
}

#endif
