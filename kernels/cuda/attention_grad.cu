/* attention_grad in three kernels: delta = sum(y dy) of each query, then one over blocks of keys for dK and dV, one over
 * blocks of queries for dQ. Each computes the probabilities again from lse; what one block of threads owns it
 * alone adds up, in one order. One kernel for all three would have two products fewer of seven, but dQ's parts, one
 * for each block of keys, would lie in memory until they are added in order: as many as there are blocks.
 *
 * The two are one body. With (own0, own1) = (K, V), (other0, other1) = (Q, dY) for keys, the other way round for
 * queries, scores are own0 other0^T and the probabilities' gradients own1 other1^T; with P' the dropped probabilities
 * and S = P (f dP - delta): dV = P' other1, and dK, dQ = scale S other0.
 */
#include "kernels/cuda/attention.cuh"

#include <type_traits>

namespace
{

template <typename T> struct grad_arguments {
    lks_attention_shape shape;
    const T *qkv, *y, *dy;
    const float *lse;
    float *scores, *slopes; /* [samples, heads, length]: -lse log2(e) and -delta */
    T *dqkv;
    bool accumulate;
};

struct grad_state {
    lks_cuda_device *cuda;
    lks_attention_shape shape;
    uint32_t instance;
    lks_dtype type;
};

/* --- delta ----------------------------------------------------------------------------- */

enum { DELTA_THREADS = 256 };

/* Blocks: x: of queries; y: head; z: sample. A query has 2^bits lanes with 16 bytes each. */
template <typename T>
static __global__ void __launch_bounds__(DELTA_THREADS)
    attention_delta(grad_arguments<T> with, int bits)
{
    constexpr int SIZE = lks_vector<T>::SIZE;
    const lks_attention_shape &shape = with.shape;
    int head = (int)blockIdx.y, sample = (int)blockIdx.z, lanes = 1 << bits;
    int lane = (int)threadIdx.x & (lanes - 1);
    int query = (int)blockIdx.x * (DELTA_THREADS >> bits) + ((int)threadIdx.x >> bits);
    int column = lane * SIZE;
    float sum = 0;
    if (query < shape.length && column < shape.width) {
        int64_t at = lks_result_at(shape, sample, head) +
                     (int64_t)query * (shape.heads * shape.width) + column;
        lks_vector<T> y = lks_vector<T>::load(with.y + at), dy = lks_vector<T>::load(with.dy + at);
#pragma unroll
        for (int i = 0; i < SIZE; ++i)
            sum += y[i] * dy[i];
    }
    for (int offset = lanes / 2; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (query < shape.length && lane == 0) {
        int64_t at = ((int64_t)sample * shape.heads + head) * shape.length + query;
        with.scores[at] = -LKS_LOG2_E * with.lse[at];
        with.slopes[at] = -sum;
    }
}

/* --- What a block owns, and what it goes over --------------------------------------------- */

/* Blocks: x: of rows; y: query head, or key-value head; z: sample. */
template <typename T, bool Keys> struct grad_sides {
    const T *own0, *own1;
    int own_step0, own_step1;
};

template <typename T, bool Keys>
static __device__ __forceinline__ grad_sides<T, Keys> own_sides(const grad_arguments<T> &with)
{
    const lks_attention_shape &shape = with.shape;
    int sample = (int)blockIdx.z, head = (int)blockIdx.y;
    if (Keys) {
        const T *keys = with.qkv + lks_key_at(shape, sample, head);
        return {keys, keys + shape.kv_heads * shape.width, (int)shape.stride, (int)shape.stride};
    }
    return {with.qkv + lks_query_at(shape, sample, head),
            with.dy + lks_result_at(shape, sample, head), (int)shape.stride,
            shape.heads * shape.width};
}

/* The other side, a stage at a time: for keys the queries of each of the group's heads, from the first that sees a
 * key of the block. */
struct grad_step {
    int head, group, first; /* first row of the other side */
};
struct grad_walk {
    int first, end, heads_end;
};

template <bool Keys>
static __device__ __forceinline__ grad_walk walk_of(const lks_attention_shape &shape, int own_first,
                                                    int own_rows, int stage)
{
    int first = Keys && shape.causal ? own_first / stage * stage : 0;
    int end = !Keys && shape.causal ? min(shape.length, own_first + own_rows) : shape.length;
    return {first, end,
            Keys ? ((int)blockIdx.y + 1) * (shape.heads / shape.kv_heads) : (int)blockIdx.y + 1};
}

template <bool Keys>
static __device__ __forceinline__ grad_step first_step(const lks_attention_shape &shape,
                                                       const grad_walk &walk)
{
    int members = shape.heads / shape.kv_heads, at = (int)blockIdx.y;
    return {Keys ? at * members : at, Keys ? at : at / members, walk.first};
}

static __device__ __forceinline__ bool next_step(const grad_walk &walk, int stage, grad_step &step)
{
    step.first += stage;
    if (step.first >= walk.end) {
        step.first = walk.first;
        ++step.head;
    }
    return step.head < walk.heads_end;
}

template <typename T, bool Keys>
static __device__ __forceinline__ grad_sides<T, Keys> other_sides(const grad_arguments<T> &with,
                                                                  const grad_step &step)
{
    const lks_attention_shape &shape = with.shape;
    int sample = (int)blockIdx.z;
    if (!Keys) {
        const T *keys = with.qkv + lks_key_at(shape, sample, step.group);
        return {keys, keys + shape.kv_heads * shape.width, (int)shape.stride, (int)shape.stride};
    }
    return {with.qkv + lks_query_at(shape, sample, step.head),
            with.dy + lks_result_at(shape, sample, step.head), (int)shape.stride,
            shape.heads * shape.width};
}

/* What is added to a query's scores before exp2, and to its dP. Nothing comes of a query that is not there: its Q and
 * its dY are zeros. */
struct grad_query {
    float score, slope;
};

/* Where those of a head's queries begin. */
template <typename T>
static __device__ __forceinline__ int64_t queries_at(const grad_arguments<T> &with, int head)
{
    return ((int64_t)blockIdx.z * with.shape.heads + head) * with.shape.length;
}

/* --- bf16 ------------------------------------------------------------------------------ */

/* A warp owns 16 TILES rows, in registers where there is room; the other side comes STAGE rows at a time. */
template <int Width, bool Keys, bool Drop> struct grad_plan {
    static constexpr int WIDTH = Width, KEYS = Keys, DROP = Drop, STEP = lks_tile<Width>::STEP;
    static constexpr int TILES = Width <= 64 ? 2 : 1, ROWS = 64 * TILES;
    static constexpr int STAGE = Keys && Drop ? 16 : 32, STAGES = Width <= 64 ? 3 : 2;
    static constexpr bool HOLD = !Keys || Width == 32 || Width == 96;
    static constexpr int TILE_BYTES = 2 * (ROWS + STAGES * STAGE) * STEP * (int)sizeof(lks_bf16);
    static constexpr int SHARED_BYTES =
        TILE_BYTES + (Keys ? 2 * STAGES * STAGE * (int)sizeof(float) : 0);
};

/* A warp's sums, and (for queries) what it knows of its rows. */
template <typename P> struct grad_warp {
    int first, head;
    float d0[P::TILES][P::WIDTH / 8][4];                             /* dK / scale or dQ / scale */
    float d1[P::KEYS ? P::TILES : 1][P::KEYS ? P::WIDTH / 8 : 1][4]; /* dV */
    grad_query query[P::KEYS ? 1 : P::TILES][2];
};

/* The warp's own rows. */
template <typename P> struct grad_own {
    typedef std::conditional_t<P::HOLD, lks_tile_held<P::WIDTH, P::TILES>,
                               lks_tile_lying<P::WIDTH, P::TILES>>
        side;
    side rows0, rows1;
};

/* One stage of the other side, in shared memory. */
struct grad_stage {
    const lks_bf16 *other0, *other1;
    const float *scores, *slopes; /* grad_query of its queries, for keys */
    int first;
};

/* Whether neither the causal mask nor the end of the sequence cuts into a stage. */
template <typename P>
static __device__ __forceinline__ bool is_whole(const lks_attention_shape &shape, int own_first,
                                                int other_first)
{
    bool seen = P::KEYS ? other_first >= own_first + 16 * P::TILES - 1
                        : other_first + P::STAGE - 1 <= own_first;
    return other_first + P::STAGE <= shape.length && (seen || !shape.causal);
}

template <typename P>
static __device__ __forceinline__ grad_query query_at(const grad_warp<P> &warp,
                                                      const grad_stage &stage, int t, int half,
                                                      int column)
{
    if constexpr (P::KEYS)
        return {stage.scores[column], stage.slopes[column]};
    else
        return warp.query[t][half];
}

/* The element's place in the warp's rows and the stage's columns. */
static __device__ __forceinline__ int row_of(int t, int e)
{
    return t * 16 + e / 2 * 8 + (int)threadIdx.x % 32 / 4;
}
static __device__ __forceinline__ int column_of(int n, int e)
{
    return n * 8 + (int)threadIdx.x % 4 * 2 + e % 2;
}

/* Leaves out what the causal mask hides, and keys beyond the end (for keys these are not stored). */
template <typename P>
static __device__ __forceinline__ void mask(const lks_attention_shape &shape, int own_first,
                                            int other_first, float (&p)[P::TILES][P::STAGE / 8][4])
{
    int ahead = (P::KEYS ? own_first - other_first : other_first - own_first) +
                (P::KEYS ? 1 : -1) * (row_of(0, 0) - column_of(0, 0));
    int most = shape.causal ? 0 : INT32_MAX, left = shape.length - other_first - column_of(0, 0);
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int n = 0; n < P::STAGE / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int row = t * 16 + e / 2 * 8, column = n * 8 + e % 2;
                if (ahead + (P::KEYS ? row - column : column - row) > most ||
                    (!P::KEYS && column >= left))
                    p[t][n][e] = -INFINITY;
            }
}

/* Sums of products to probabilities. */
template <typename P>
static __device__ __forceinline__ void
probabilities(const lks_attention_shape &shape, const grad_warp<P> &warp, const grad_stage &stage,
              float (&p)[P::TILES][P::STAGE / 8][4])
{
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int n = 0; n < P::STAGE / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                float score = query_at<P>(warp, stage, t, e / 2, column_of(n, e)).score;
                p[t][n][e] = lks_exp2(fmaf(p[t][n][e], shape.exponent, score));
            }
}

/* dP to S = P (dP - delta). */
template <typename P>
static __device__ __forceinline__ void slopes(const grad_warp<P> &warp, const grad_stage &stage,
                                              const float (&p)[P::TILES][P::STAGE / 8][4],
                                              float (&s)[P::TILES][P::STAGE / 8][4])
{
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int n = 0; n < P::STAGE / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                float minus_delta = query_at<P>(warp, stage, t, e / 2, column_of(n, e)).slope;
                s[t][n][e] = p[t][n][e] * (s[t][n][e] + minus_delta);
            }
}

/* With dropout: dP to S = P (f dP - delta), and P to P' = f P. */
template <typename P>
static __device__ __forceinline__ void
dropped_slopes(const lks_attention_shape &shape, const grad_warp<P> &warp, const grad_stage &stage,
               float (&p)[P::TILES][P::STAGE / 8][4], float (&s)[P::TILES][P::STAGE / 8][4])
{
    uint64_t position = shape.positions[blockIdx.z];
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int n = 0; n < P::STAGE / 8; ++n) {
            float factor[4];
            int own = warp.first + t * 16, other = stage.first + n * 8;
            lks_attention_factors<P::KEYS>(shape, position, warp.head, P::KEYS ? other : own,
                                           P::KEYS ? own : other, factor);
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                float minus_delta = query_at<P>(warp, stage, t, e / 2, column_of(n, e)).slope;
                s[t][n][e] = p[t][n][e] * (factor[e] * s[t][n][e] + minus_delta);
                p[t][n][e] *= factor[e];
            }
        }
}

/* dV += P'^T dY. */
template <typename P>
static __device__ __forceinline__ void add_values(const float (&p)[P::TILES][P::STAGE / 8][4],
                                                  const grad_stage &stage, grad_warp<P> &warp,
                                                  int lane)
{
    uint32_t left[P::TILES][P::STAGE / 16][4];
    lks_tile_pack(p, left);
    lks_tile_multiply<P::WIDTH>(warp.d1, left, stage.other1, lane);
}

template <typename P, bool Whole>
static __device__ __forceinline__ void stage_run(const lks_attention_shape &shape,
                                                 const grad_stage &stage, const grad_own<P> &own,
                                                 grad_warp<P> &warp)
{
    int lane = lks_lane();
    float p[P::TILES][P::STAGE / 8][4] = {}, s[P::TILES][P::STAGE / 8][4] = {};
    uint32_t left[P::TILES][P::STAGE / 16][4];
    lks_tile_product<P::WIDTH>(p, own.rows0, stage.other0, lane);
    if constexpr (!Whole)
        mask<P>(shape, warp.first, stage.first, p);
    probabilities<P>(shape, warp, stage, p);
    lks_tile_product<P::WIDTH>(s, own.rows1, stage.other1, lane);
    if constexpr (P::DROP)
        dropped_slopes<P>(shape, warp, stage, p, s);
    else
        slopes<P>(warp, stage, p, s);
    if constexpr (P::KEYS)
        add_values<P>(p, stage, warp, lane);
    lks_tile_pack(s, left);
    lks_tile_multiply<P::WIDTH>(warp.d0, left, stage.other0, lane);
}

/* Whether no key of the stage is seen by a query of it. */
template <typename P>
static __device__ __forceinline__ bool is_masked(const lks_attention_shape &shape, int own_first,
                                                 int other_first)
{
    if (!shape.causal)
        return false;
    return P::KEYS ? other_first + P::STAGE - 1 < own_first
                   : other_first > own_first + 16 * P::TILES - 1;
}

template <typename P> struct grad_shared {
    lks_bf16 *own0, *own1, *other0, *other1; /* others: STAGES stages each */
    float *scores, *slopes;                  /* for keys, STAGES stages each */
};

template <typename P> static __device__ __forceinline__ grad_shared<P> shared_of(lks_bf16 *shared)
{
    lks_bf16 *other = shared + 2 * P::ROWS * P::STEP;
    float *queries = reinterpret_cast<float *>(other + 2 * P::STAGES * P::STAGE * P::STEP);
    return {shared,  shared + P::ROWS * P::STEP,    other, other + P::STAGES * P::STAGE * P::STEP,
            queries, queries + P::STAGES * P::STAGE};
}

template <typename P>
static __device__ __forceinline__ grad_stage stage_at(const grad_shared<P> &shared, int turn,
                                                      int first)
{
    int at = turn * P::STAGE;
    return {shared.other0 + at * P::STEP, shared.other1 + at * P::STEP, shared.scores + at,
            shared.slopes + at, first};
}

/* The other side on its way into shared memory: the thread's places, of the step that comes next. */
struct grad_feed {
    const lks_bf16 *from0, *from1;
    grad_step step;
};

template <typename P>
static __device__ __forceinline__ grad_feed feed_from(const grad_arguments<lks_bf16> &with,
                                                      const grad_step &step)
{
    grad_sides<lks_bf16, P::KEYS> other = other_sides<lks_bf16, P::KEYS>(with, step);
    return {lks_tile_place<P::WIDTH>(other.own0, other.own_step0, step.first),
            lks_tile_place<P::WIDTH>(other.own1, other.own_step1, step.first), step};
}

/* Starts the copy of a step's rows, where there is one, into one of the stages, and moves on. */
template <typename P>
static __device__ __forceinline__ void
feed_stage(const grad_arguments<lks_bf16> &with, const grad_walk &walk,
           const grad_shared<P> &shared, int turn, grad_feed &feed)
{
    const lks_attention_shape &shape = with.shape;
    int at = turn * P::STAGE, left = shape.length - feed.step.first, thread = (int)threadIdx.x;
    int step0 = (int)shape.stride, step1 = P::KEYS ? shape.heads * shape.width : step0;
    if (feed.step.head >= walk.heads_end)
        return;
    lks_tile_load<P::WIDTH, P::STAGE>(shared.other0 + at * P::STEP, feed.from0, step0, left,
                                      shape.width);
    lks_tile_load<P::WIDTH, P::STAGE>(shared.other1 + at * P::STEP, feed.from1, step1, left,
                                      shape.width);
    if (P::KEYS && thread < P::STAGE) {
        int64_t from = queries_at(with, feed.step.head) + feed.step.first + thread;
        lks_copy4(shared.scores + at + thread, with.scores + from, thread < left);
        lks_copy4(shared.slopes + at + thread, with.slopes + from, thread < left);
    }
    feed.from0 += (int64_t)P::STAGE * step0;
    feed.from1 += (int64_t)P::STAGE * step1;
    int head = feed.step.head;
    if (next_step(walk, P::STAGE, feed.step) && feed.step.head != head)
        feed = feed_from<P>(with, feed.step);
}

template <typename P>
static __device__ __forceinline__ void store_sums(const grad_arguments<lks_bf16> &with,
                                                  const grad_shared<P> &shared, int row,
                                                  const grad_warp<P> &warp)
{
    const lks_attention_shape &shape = with.shape;
    float factor[P::TILES][2];
    int sample = (int)blockIdx.z, head = (int)blockIdx.y;
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
        factor[t][0] = factor[t][1] = shape.scale;
    int64_t at = P::KEYS ? lks_key_at(shape, sample, head) : lks_query_at(shape, sample, head);
    lks_tile_rows rows = {with.dqkv + at, shape.stride, warp.first, shape.length, shape.width};
    lks_tile_store<P::WIDTH>(warp.d0, factor, shared.own0 + row * P::STEP, rows, with.accumulate);
    if constexpr (P::KEYS) {
#pragma unroll
        for (int t = 0; t < P::TILES; ++t)
            factor[t][0] = factor[t][1] = 1;
        rows.to += shape.kv_heads * shape.width;
        lks_tile_store<P::WIDTH>(warp.d1, factor, shared.own1 + row * P::STEP, rows,
                                 with.accumulate);
    }
}

/* What the warp knows of its rows before it begins. */
template <typename P>
static __device__ __forceinline__ grad_warp<P> warp_of(const grad_arguments<lks_bf16> &with,
                                                       int first)
{
    grad_warp<P> warp = {};
    warp.first = first;
    if constexpr (!P::KEYS)
#pragma unroll
        for (int t = 0; t < P::TILES; ++t)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                int query = min(first + row_of(t, 2 * half), with.shape.length - 1);
                int64_t at = queries_at(with, (int)blockIdx.y) + query;
                warp.query[t][half] = {with.scores[at], with.slopes[at]};
            }
    return warp;
}

/* The blocks with the most to do come first: low keys, high queries. While a stage is worked on, those after it are on
 * their way. */
template <typename P>
static __global__ void __launch_bounds__(LKS_ATTENTION_THREADS, 2)
    attention_grad_tiles(grad_arguments<lks_bf16> with)
{
    LKS_DYNAMIC_SHARED(lks_bf16, memory);
    const lks_attention_shape &shape = with.shape;
    grad_shared<P> shared = shared_of<P>(memory);
    int first = (int)(P::KEYS ? blockIdx.x : gridDim.x - 1 - blockIdx.x) * P::ROWS;
    int row = (int)threadIdx.x / 32 * 16 * P::TILES;
    grad_walk walk = walk_of<P::KEYS>(shape, first, P::ROWS, P::STAGE);
    grad_sides<lks_bf16, P::KEYS> side = own_sides<lks_bf16, P::KEYS>(with);
    int left = shape.length - first;
    lks_tile_load<P::WIDTH, P::ROWS>(shared.own0,
                                     lks_tile_place<P::WIDTH>(side.own0, side.own_step0, first),
                                     side.own_step0, left, shape.width);
    lks_tile_load<P::WIDTH, P::ROWS>(shared.own1,
                                     lks_tile_place<P::WIDTH>(side.own1, side.own_step1, first),
                                     side.own_step1, left, shape.width);
    grad_step step = first_step<P::KEYS>(shape, walk);
    grad_feed feed = feed_from<P>(with, step);
    for (int turn = 0; turn < P::STAGES - 1; ++turn) {
        feed_stage<P>(with, walk, shared, turn, feed);
        lks_copy_commit();
    }
    grad_warp<P> warp = warp_of<P>(with, first + row);
    lks_copy_wait<P::STAGES - 2>();
    __syncthreads();
    typedef typename grad_own<P>::side rows;
    const grad_own<P> own = {rows(shared.own0 + row * P::STEP), rows(shared.own1 + row * P::STEP)};
    int turn = 0;
    do {
        lks_copy_wait<P::STAGES - 2>();
        __syncthreads();
        feed_stage<P>(with, walk, shared, turn == 0 ? P::STAGES - 1 : turn - 1, feed);
        lks_copy_commit();
        warp.head = step.head;
        grad_stage stage = stage_at<P>(shared, turn, step.first);
        if (!P::DROP && is_whole<P>(shape, warp.first, step.first))
            stage_run<P, true>(shape, stage, own, warp);
        else if (!is_masked<P>(shape, warp.first, step.first))
            stage_run<P, false>(shape, stage, own, warp);
        turn = turn == P::STAGES - 1 ? 0 : turn + 1;
    } while (next_step(walk, P::STAGE, step));
    store_sums<P>(with, shared, row, warp);
}

/* --- f32: 16 x 16 threads; thread (x, y) has rows y + 16 i and columns x + 16 j ------------ */

enum { SIDE = 16, FLAT = 32, EACH = FLAT / SIDE };

template <int Width> constexpr size_t flat_bytes()
{
    return (size_t)(4 * FLAT * (Width + 1) + 2 * FLAT * (FLAT + 1)) * sizeof(float);
}

template <int Width>
static __device__ void flat_load(float *tile, const float *from, int64_t step, int first,
                                 const lks_attention_shape &shape)
{
    for (int i = (int)threadIdx.x; i < FLAT * Width; i += SIDE * SIDE) {
        int row = i / Width, column = i % Width;
        bool valid = first + row < shape.length && column < shape.width;
        tile[row * (Width + 1) + column] = valid ? from[(first + row) * step + column] : 0;
    }
}

template <int Width> struct flat_shared {
    float *own0, *own1, *other0, *other1, *p, *s;
};

/* The part's P' and S, into shared memory. */
template <int Width, bool Keys>
static __device__ __forceinline__ void flat_slopes(const grad_arguments<float> &with, int head,
                                                   int own_first, int other_first,
                                                   const flat_shared<Width> &shared)
{
    const lks_attention_shape &shape = with.shape;
    int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
    float p[EACH][EACH] = {}, s[EACH][EACH] = {};
#pragma unroll 4
    for (int d = 0; d < Width; ++d)
#pragma unroll
        for (int i = 0; i < EACH; ++i)
#pragma unroll
            for (int j = 0; j < EACH; ++j) {
                int row = (y + SIDE * i) * (Width + 1) + d;
                int column = (x + SIDE * j) * (Width + 1) + d;
                p[i][j] += shared.own0[row] * shared.other0[column];
                s[i][j] += shared.own1[row] * shared.other1[column];
            }
#pragma unroll
    for (int i = 0; i < EACH; ++i)
#pragma unroll
        for (int j = 0; j < EACH; ++j) {
            int own = own_first + y + SIDE * i, other = other_first + x + SIDE * j;
            int key = Keys ? own : other, query = Keys ? other : own;
            bool seen =
                key < shape.length && query < shape.length && !(shape.causal && key > query);
            float probability = 0, factor = 1, slope = 0;
            if (seen) {
                int64_t at = ((int64_t)blockIdx.z * shape.heads + head) * shape.length + query;
                probability = expf(p[i][j] * shape.scale - with.lse[at]);
                if (shape.rate > 0)
                    factor =
                        lks_attention_factor(shape, shape.positions[blockIdx.z], head, query, key);
                slope = probability * (factor * s[i][j] + with.slopes[at]);
            }
            int place = (y + SIDE * i) * (FLAT + 1) + x + SIDE * j;
            shared.p[place] = probability * factor;
            shared.s[place] = slope;
        }
}

/* sums[i][j] of rows y + 16 i and columns x + 16 j += left right. */
template <int Width>
static __device__ __forceinline__ void flat_add(const float *left, const float *right,
                                                float (&sums)[EACH][Width / SIDE])
{
    int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
#pragma unroll 4
    for (int k = 0; k < FLAT; ++k)
#pragma unroll
        for (int i = 0; i < EACH; ++i)
#pragma unroll
            for (int j = 0; j < Width / SIDE; ++j)
                sums[i][j] +=
                    left[(y + SIDE * i) * (FLAT + 1) + k] * right[k * (Width + 1) + x + SIDE * j];
}

template <int Width>
static __device__ __forceinline__ void flat_store(const lks_attention_shape &shape, float *to,
                                                  int first, float factor, bool accumulate,
                                                  const float (&sums)[EACH][Width / SIDE])
{
    int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < EACH; ++i)
#pragma unroll
        for (int j = 0; j < Width / SIDE; ++j) {
            int row = first + y + SIDE * i, column = x + SIDE * j;
            if (row >= shape.length || column >= shape.width)
                continue;
            float *element = to + row * shape.stride + column;
            *element = (accumulate ? *element : 0) + sums[i][j] * factor;
        }
}

template <int Width, bool Keys>
static __global__ void __launch_bounds__(SIDE *SIDE, 2)
    attention_grad_flat(grad_arguments<float> with)
{
    LKS_DYNAMIC_SHARED(float, memory);
    constexpr int TILE = FLAT * (Width + 1);
    const lks_attention_shape &shape = with.shape;
    flat_shared<Width> shared = {memory,
                                 memory + TILE,
                                 memory + 2 * TILE,
                                 memory + 3 * TILE,
                                 memory + 4 * TILE,
                                 memory + 4 * TILE + FLAT * (FLAT + 1)};
    int first = (int)(Keys ? blockIdx.x : gridDim.x - 1 - blockIdx.x) * FLAT;
    int sample = (int)blockIdx.z, head = (int)blockIdx.y;
    grad_walk walk = walk_of<Keys>(shape, first, FLAT, FLAT);
    grad_sides<float, Keys> own = own_sides<float, Keys>(with);
    flat_load<Width>(shared.own0, own.own0, own.own_step0, first, shape);
    flat_load<Width>(shared.own1, own.own1, own.own_step1, first, shape);
    float d0[EACH][Width / SIDE] = {}, d1[EACH][Width / SIDE] = {};
    grad_step step = first_step<Keys>(shape, walk);
    do {
        grad_sides<float, Keys> other = other_sides<float, Keys>(with, step);
        __syncthreads();
        flat_load<Width>(shared.other0, other.own0, other.own_step0, step.first, shape);
        flat_load<Width>(shared.other1, other.own1, other.own_step1, step.first, shape);
        __syncthreads();
        flat_slopes<Width, Keys>(with, step.head, first, step.first, shared);
        __syncthreads();
        flat_add<Width>(shared.s, shared.other0, d0);
        if constexpr (Keys)
            flat_add<Width>(shared.p, shared.other1, d1);
    } while (next_step(walk, FLAT, step));
    int64_t to = Keys ? lks_key_at(shape, sample, head) : lks_query_at(shape, sample, head);
    flat_store<Width>(shape, with.dqkv + to, first, shape.scale, with.accumulate, d0);
    if constexpr (Keys)
        flat_store<Width>(shape, with.dqkv + to + shape.kv_heads * shape.width, first, 1,
                          with.accumulate, d1);
}

/* --- Choice by width ---------------------------------------------------------------------- */

template <typename T> struct grad_choice {
    void (*kernel)(grad_arguments<T>);
    size_t shared;
    int rows, threads;
};

template <int Width, bool Keys> grad_choice<lks_bf16> tiles(bool drop)
{
    typedef grad_plan<Width, Keys, true> dropping;
    typedef grad_plan<Width, Keys, false> plain;
    if (drop)
        return {attention_grad_tiles<dropping>, dropping::SHARED_BYTES, dropping::ROWS,
                LKS_ATTENTION_THREADS};
    return {attention_grad_tiles<plain>, plain::SHARED_BYTES, plain::ROWS, LKS_ATTENTION_THREADS};
}

template <bool Keys> grad_choice<lks_bf16> choose(const lks_attention_shape *shape, lks_bf16)
{
    bool drop = shape->rate > 0;
    switch (lks_attention_padded(shape->width)) {
    case 32:
        return tiles<32, Keys>(drop);
    case 64:
        return tiles<64, Keys>(drop);
    case 96:
        return tiles<96, Keys>(drop);
    default:
        return tiles<128, Keys>(drop);
    }
}

template <bool Keys> grad_choice<float> choose(const lks_attention_shape *shape, float)
{
    switch (lks_attention_padded(shape->width)) {
    case 32:
        return {attention_grad_flat<32, Keys>, flat_bytes<32>(), FLAT, SIDE * SIDE};
    case 64:
        return {attention_grad_flat<64, Keys>, flat_bytes<64>(), FLAT, SIDE * SIDE};
    default:
        return {attention_grad_flat<128, Keys>, flat_bytes<128>(), FLAT, SIDE * SIDE};
    }
}

template <typename T, bool Keys> lks_status allow(const lks_attention_shape *shape)
{
    grad_choice<T> choice = choose<Keys>(shape, T());
    return lks_cuda_allow_shared(choice.kernel, choice.shared);
}
template <typename T> lks_status allow_both(const lks_attention_shape *shape)
{
    LKS_TRY((allow<T, true>(shape)));
    return allow<T, false>(shape);
}

lks_status attention_grad_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                  size_t *workspace)
{
    lks_dtype type;
    lks_attention_shape shape;
    grad_state *state;
    LKS_TRY(lks_shapes_expect_attention_grad(spec, &type));
    LKS_TRY(lks_attention_describe(spec, &shape));
    LKS_TRY(type == LKS_BF16 ? allow_both<lks_bf16>(&shape) : allow_both<float>(&shape));
    LKS_TRY(LKS_NEW(&state));
    *state = {lks_cuda_of(device), shape,
              static_cast<const lks_attention_attributes *>(spec->attributes)->instance, type};
    *workspace = 2 * (size_t)lks_spec_elements(&spec->inputs[2]) * sizeof(float);
    *out = state;
    return LKS_OK;
}

template <typename T, bool Keys>
void launch_side(cudaStream_t stream, const grad_arguments<T> &with)
{
    grad_choice<T> choice = choose<Keys>(&with.shape, T());
    dim3 grid((unsigned)((with.shape.length + choice.rows - 1) / choice.rows),
              (unsigned)(Keys ? with.shape.kv_heads : with.shape.heads),
              (unsigned)with.shape.samples);
    LKS_LAUNCH(choice.kernel, grid, dim3((unsigned)choice.threads), choice.shared, stream, with);
}

template <typename T> void launch(const grad_state *state, const lks_kernel_run *run)
{
    const lks_attention_shape &shape = state->shape;
    float *scores = static_cast<float *>(run->workspace);
    grad_arguments<T> with = {lks_attention_at(&state->shape, state->instance, run),
                              static_cast<const T *>(run->inputs[0]),
                              static_cast<const T *>(run->inputs[1]),
                              static_cast<const T *>(run->inputs[3]),
                              static_cast<const float *>(run->inputs[2]),
                              scores,
                              scores + shape.samples * (int64_t)shape.length * shape.heads,
                              static_cast<T *>(run->outputs[0]),
                              run->accumulate[0]};
    int bits = 0;
    while ((int)lks_vector<T>::SIZE << bits < shape.width)
        ++bits;
    int queries = DELTA_THREADS >> bits;
    auto delta = attention_delta<T>;
    LKS_LAUNCH(delta,
               dim3((unsigned)((shape.length + queries - 1) / queries), (unsigned)shape.heads,
                    (unsigned)shape.samples),
               dim3(DELTA_THREADS), 0, state->cuda->stream, with, bits);
    launch_side<T, true>(state->cuda->stream, with);
    launch_side<T, false>(state->cuda->stream, with);
}

lks_status attention_grad_run(void *state_, const lks_kernel_run *run)
{
    const grad_state *state = static_cast<const grad_state *>(state_);
    if (state->type == LKS_BF16)
        launch<lks_bf16>(state, run);
    else
        launch<float>(state, run);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

} // namespace

extern "C" const lks_kernel_driver lks_cuda_kernel_attention_grad = {
    "attention_grad", attention_grad_prepare, attention_grad_run, lks_memory_free};
