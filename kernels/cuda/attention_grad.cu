/* attention_grad in three kernels: delta = sum(y dy) of each query, then one over blocks of keys for dK and dV, one over
 * blocks of queries for dQ. Each computes the probabilities again from lse; what one block of threads owns it
 * alone adds up, in one order.
 *
 * The two are one body. With (own0, own1) = (K, V), (other0, other1) = (Q, dY) for keys, the other way round for
 * queries, scores are own0 other0^T and the probabilities' gradients own1 other1^T; with P' the dropped probabilities
 * and S = P (f dP - delta): dV = P' other1, and dK, dQ = scale S other0.
 */
#include "kernels/cuda/attention.cuh"

namespace
{

template <typename T> struct grad_arguments {
    lks_attention_shape shape;
    const T *qkv, *y, *dy;
    const float *lse;
    float *delta; /* [samples, heads, length] */
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

/* A group of lanes, 16 bytes each, to the longest vector of a head. */
template <typename T> struct delta_group {
    enum { LANES = (int)LKS_ATTENTION_WIDTH_MAX / (int)lks_vector<T>::SIZE };
};

template <typename T>
static __global__ void __launch_bounds__(DELTA_THREADS) attention_delta(grad_arguments<T> with)
{
    constexpr int LANES = delta_group<T>::LANES, SIZE = lks_vector<T>::SIZE;
    const lks_attention_shape &shape = with.shape;
    int64_t item = ((int64_t)blockIdx.x * DELTA_THREADS + threadIdx.x) / LANES; /* token, head */
    int column = (int)threadIdx.x % LANES * SIZE;
    bool inside = item < (int64_t)shape.samples * shape.length * shape.heads;
    float sum = 0;
    if (inside && column < shape.width) {
        int64_t at = item * shape.width + column;
        lks_vector<T> y = lks_vector<T>::load(with.y + at), dy = lks_vector<T>::load(with.dy + at);
#pragma unroll
        for (int i = 0; i < SIZE; ++i)
            sum += y[i] * dy[i];
    }
    for (int offset = LANES / 2; offset > 0; offset /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    int64_t token = item / shape.heads, head = item % shape.heads;
    int64_t sample = token / shape.length;
    if (inside && column == 0)
        with.delta[(sample * shape.heads + head) * shape.length + token % shape.length] = sum;
}

/* --- What a block owns, and what it goes over --------------------------------------------- */

/* Blocks: x: of rows; y: query head, or key-value head; z: sample. */
template <typename T, bool Keys> struct grad_sides {
    const T *own0, *own1;
    int64_t own_step0, own_step1;
};

template <typename T, bool Keys>
static __device__ __forceinline__ grad_sides<T, Keys> own_sides(const grad_arguments<T> &with)
{
    const lks_attention_shape &shape = with.shape;
    int sample = (int)blockIdx.z, head = (int)blockIdx.y;
    if (Keys) {
        const T *keys = with.qkv + lks_key_at(shape, sample, head);
        return {keys, keys + shape.kv_heads * shape.width, shape.stride, shape.stride};
    }
    return {with.qkv + lks_query_at(shape, sample, head),
            with.dy + lks_result_at(shape, sample, head), shape.stride,
            (int64_t)shape.heads * shape.width};
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
        return {keys, keys + shape.kv_heads * shape.width, shape.stride, shape.stride};
    }
    return {with.qkv + lks_query_at(shape, sample, step.head),
            with.dy + lks_result_at(shape, sample, step.head), shape.stride,
            (int64_t)shape.heads * shape.width};
}

/* What the sums of a query's products begin with: -lse / scale, so that probabilities are their exponentials, and
 * -delta. A query that is not there has no probabilities. */
struct grad_query {
    float score, slope;
};

template <typename T>
static __device__ __forceinline__ grad_query query_of(const grad_arguments<T> &with, int head,
                                                      int query)
{
    if (query >= with.shape.length)
        return {-INFINITY, 0};
    int64_t at = ((int64_t)blockIdx.z * with.shape.heads + head) * with.shape.length + query;
    return {-with.lse[at] / with.shape.scale, -with.delta[at]};
}

/* --- bf16 ------------------------------------------------------------------------------ */

/* A warp owns 16 TILES rows; a stage of other rows is taken in parts of COLUMNS: as many as the registers hold. */
template <int Width, bool Keys, bool Drop> struct grad_plan {
    static constexpr int WIDTH = Width, KEYS = Keys, DROP = Drop, STEP = lks_tile<Width>::STEP;
    static constexpr int TILES = Width <= 64 ? 2 : 1, ROWS = 64 * TILES;
    static constexpr int STAGE = Width <= 64 ? 64 : 32, COLUMNS = Keys && Drop ? 16 : 32;
    static constexpr int TILE_BYTES = (2 * ROWS + 4 * STAGE) * STEP * (int)sizeof(lks_bf16);
    static constexpr int SHARED_BYTES = TILE_BYTES + (Keys ? 4 * STAGE * (int)sizeof(float) : 0);
};

/* A warp's sums, and (for queries) what it knows of its rows. */
template <typename P> struct grad_warp {
    int first, head;
    float d0[P::TILES][P::WIDTH / 8][4];                             /* dK / scale or dQ / scale */
    float d1[P::KEYS ? P::TILES : 1][P::KEYS ? P::WIDTH / 8 : 1][4]; /* dV */
    grad_query query[P::KEYS ? 1 : P::TILES][2];
};

/* Of one part: shared memory of the other side. */
struct grad_part {
    const lks_bf16 *other0, *other1;
    const float *scores, *slopes; /* grad_query of its queries, for keys */
    int first;
};

/* Whether the causal mask or the end of the keys cuts into the part. */
template <typename P>
static __device__ __forceinline__ bool is_whole(const lks_attention_shape &shape, int own_first,
                                                int other_first)
{
    if (P::KEYS)
        return !shape.causal || other_first >= own_first + 16 * P::TILES - 1;
    return other_first + P::COLUMNS <= shape.length &&
           !(shape.causal && other_first + P::COLUMNS - 1 > own_first);
}

template <typename P>
static __device__ __forceinline__ grad_query query_at(const grad_warp<P> &warp,
                                                      const grad_part &part, int t, int half,
                                                      int column)
{
    if constexpr (P::KEYS)
        return {part.scores[column], part.slopes[column]};
    else
        return warp.query[t][half];
}

/* The element's place in the block of rows and the part of columns. */
static __device__ __forceinline__ int row_of(int t, int e)
{
    return t * 16 + e / 2 * 8 + (int)threadIdx.x % 32 / 4;
}
static __device__ __forceinline__ int column_of(int n, int e)
{
    return n * 8 + (int)threadIdx.x % 4 * 2 + e % 2;
}

/* What the products begin with. */
template <typename P>
static __device__ __forceinline__ void begin(const grad_warp<P> &warp, const grad_part &part,
                                             float (&p)[P::TILES][P::COLUMNS / 8][4], bool scores)
{
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int n = 0; n < P::COLUMNS / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                grad_query query = query_at<P>(warp, part, t, e / 2, column_of(n, e));
                p[t][n][e] = scores ? query.score : query.slope;
            }
}

/* Scores to probabilities. */
template <typename P>
static __device__ __forceinline__ void probabilities(const lks_attention_shape &shape,
                                                     int own_first, int other_first,
                                                     float (&p)[P::TILES][P::COLUMNS / 8][4])
{
    float factor = shape.scale * LKS_LOG2_E;
    /* A key is masked when it is further on than its query; keys beyond the end are masked for queries, and not
     * stored for keys. */
    bool whole = is_whole<P>(shape, own_first, other_first);
    int ahead = (P::KEYS ? own_first - other_first : other_first - own_first) +
                (P::KEYS ? 1 : -1) * (row_of(0, 0) - column_of(0, 0));
    int most = shape.causal ? 0 : INT32_MAX, left = shape.length - other_first - column_of(0, 0);
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int n = 0; n < P::COLUMNS / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int row = t * 16 + e / 2 * 8, column = n * 8 + e % 2;
                bool masked = ahead + (P::KEYS ? row - column : column - row) > most ||
                              (!P::KEYS && column >= left);
                p[t][n][e] = lks_exp2(p[t][n][e] * factor);
                if (!whole && masked)
                    p[t][n][e] = 0;
            }
}

/* dP - delta to S = P (dP - delta). */
template <typename P>
static __device__ __forceinline__ void slopes(const float (&p)[P::TILES][P::COLUMNS / 8][4],
                                              float (&s)[P::TILES][P::COLUMNS / 8][4])
{
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int n = 0; n < P::COLUMNS / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e)
                s[t][n][e] *= p[t][n][e];
}

/* With dropout: dP to S = P (f dP - delta), and P to P' = f P. */
template <typename P>
static __device__ __forceinline__ void
dropped_slopes(const lks_attention_shape &shape, const grad_warp<P> &warp, const grad_part &part,
               float (&p)[P::TILES][P::COLUMNS / 8][4], float (&s)[P::TILES][P::COLUMNS / 8][4])
{
    uint64_t position = shape.positions[blockIdx.z];
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int n = 0; n < P::COLUMNS / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int own = warp.first + row_of(t, e), other = part.first + column_of(n, e);
                float factor = lks_attention_factor(shape, position, warp.head,
                                                    P::KEYS ? other : own, P::KEYS ? own : other);
                float minus_delta = query_at<P>(warp, part, t, e / 2, column_of(n, e)).slope;
                s[t][n][e] = p[t][n][e] * (factor * s[t][n][e] + minus_delta);
                p[t][n][e] *= factor;
            }
}

/* dV += P'^T dY. */
template <typename P>
static __device__ __forceinline__ void add_values(const float (&p)[P::TILES][P::COLUMNS / 8][4],
                                                  const grad_part &part, grad_warp<P> &warp)
{
    uint32_t left[P::TILES][P::COLUMNS / 16][4];
    lks_tile_pack(p, left);
    lks_tile_multiply<P::WIDTH>(warp.d1, left, part.other1);
}

template <typename P>
static __device__ __forceinline__ void part_run(const lks_attention_shape &shape,
                                                const lks_bf16 *own0, const lks_bf16 *own1,
                                                const grad_part &part, grad_warp<P> &warp)
{
    float p[P::TILES][P::COLUMNS / 8][4], s[P::TILES][P::COLUMNS / 8][4] = {};
    uint32_t left[P::TILES][P::COLUMNS / 16][4];
    begin<P>(warp, part, p, true);
    lks_tile_product<P::WIDTH>(p, own0, part.other0);
    probabilities<P>(shape, warp.first, part.first, p);
    if constexpr (P::KEYS && !P::DROP)
        add_values<P>(p, part, warp);
    if constexpr (!P::DROP)
        begin<P>(warp, part, s, false);
    lks_tile_product<P::WIDTH>(s, own1, part.other1);
    if constexpr (P::DROP)
        dropped_slopes<P>(shape, warp, part, p, s);
    else
        slopes<P>(p, s);
    if constexpr (P::KEYS && P::DROP)
        add_values<P>(p, part, warp);
    lks_tile_pack(s, left);
    lks_tile_multiply<P::WIDTH>(warp.d0, left, part.other0);
}

/* Whether no key of the part is seen by a query of the part. */
template <typename P>
static __device__ __forceinline__ bool is_masked(const lks_attention_shape &shape, int own_first,
                                                 int other_first)
{
    if (!shape.causal)
        return false;
    return P::KEYS ? other_first + P::COLUMNS - 1 < own_first
                   : other_first > own_first + 16 * P::TILES - 1;
}

template <typename P> struct grad_shared {
    lks_bf16 *own0, *own1, *other0, *other1; /* others: two stages each */
    float *scores, *slopes;                  /* two stages each */
};

template <typename P> static __device__ __forceinline__ grad_shared<P> shared_of(lks_bf16 *shared)
{
    lks_bf16 *other = shared + 2 * P::ROWS * P::STEP;
    float *queries = reinterpret_cast<float *>(other + 4 * P::STAGE * P::STEP);
    return {shared,  shared + P::ROWS * P::STEP, other, other + 2 * P::STAGE * P::STEP,
            queries, queries + 2 * P::STAGE};
}

/* Starts the copy of a step's rows into one of the two stages. */
template <typename P>
static __device__ __forceinline__ void load_step(const grad_arguments<lks_bf16> &with,
                                                 const grad_shared<P> &shared,
                                                 const grad_step &step, int turn)
{
    const lks_attention_shape &shape = with.shape;
    grad_sides<lks_bf16, P::KEYS> other = other_sides<lks_bf16, P::KEYS>(with, step);
    int at = turn * P::STAGE * P::STEP;
    lks_tile_load<P::WIDTH, P::STAGE>(shared.other0 + at, other.own0, other.own_step0, step.first,
                                      shape.length, shape.width);
    lks_tile_load<P::WIDTH, P::STAGE>(shared.other1 + at, other.own1, other.own_step1, step.first,
                                      shape.length, shape.width);
    lks_copy_commit();
    if (P::KEYS && threadIdx.x < P::STAGE) {
        grad_query query = query_of(with, step.head, step.first + (int)threadIdx.x);
        shared.scores[turn * P::STAGE + threadIdx.x] = query.score;
        shared.slopes[turn * P::STAGE + threadIdx.x] = query.slope;
    }
}

template <typename P>
static __device__ __forceinline__ void step_run(const lks_attention_shape &shape,
                                                const grad_shared<P> &shared, int row, int turn,
                                                int first, grad_warp<P> &warp)
{
#pragma unroll 1
    for (int column = 0; column < P::STAGE; column += P::COLUMNS) {
        int at = turn * P::STAGE + column;
        if (first + column >= shape.length || is_masked<P>(shape, warp.first, first + column))
            continue;
        grad_part part = {shared.other0 + at * P::STEP, shared.other1 + at * P::STEP,
                          shared.scores + at, shared.slopes + at, first + column};
        part_run<P>(shape, shared.own0 + row * P::STEP, shared.own1 + row * P::STEP, part, warp);
    }
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

/* The blocks with the most to do come first: low keys, high queries. */
template <typename P>
static __global__ void __launch_bounds__(LKS_ATTENTION_THREADS)
    attention_grad_tiles(grad_arguments<lks_bf16> with)
{
    LKS_DYNAMIC_SHARED(lks_bf16, memory);
    const lks_attention_shape &shape = with.shape;
    grad_shared<P> shared = shared_of<P>(memory);
    int first = (int)(P::KEYS ? blockIdx.x : gridDim.x - 1 - blockIdx.x) * P::ROWS;
    int row = (int)threadIdx.x / 32 * 16 * P::TILES, lane = (int)threadIdx.x % 32;
    grad_walk walk = walk_of<P::KEYS>(shape, first, P::ROWS, P::STAGE);
    grad_sides<lks_bf16, P::KEYS> own = own_sides<lks_bf16, P::KEYS>(with);
    lks_tile_load<P::WIDTH, P::ROWS>(shared.own0, own.own0, own.own_step0, first, shape.length,
                                     shape.width);
    lks_tile_load<P::WIDTH, P::ROWS>(shared.own1, own.own1, own.own_step1, first, shape.length,
                                     shape.width);
    grad_step step = first_step<P::KEYS>(shape, walk);
    load_step<P>(with, shared, step, 0);
    grad_warp<P> warp = {};
    warp.first = first + row;
    if constexpr (!P::KEYS)
#pragma unroll
        for (int t = 0; t < P::TILES; ++t)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                warp.query[t][half] =
                    query_of(with, (int)blockIdx.y, warp.first + t * 16 + half * 8 + lane / 4);
    bool more = true;
    for (int turn = 0; more; turn ^= 1) {
        int from = step.first;
        warp.head = step.head;
        lks_copy_wait<0>();
        __syncthreads();
        more = next_step(walk, P::STAGE, step);
        if (more)
            load_step<P>(with, shared, step, turn ^ 1);
        step_run<P>(shape, shared, row, turn, from, warp);
    }
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
                slope = probability * (factor * s[i][j] - with.delta[at]);
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
    const lks_kernel_tensor *in = spec->inputs;
    LKS_TRY(lks_cuda_expect_types(spec, "ttft", "t", &type));
    LKS_TRY(lks_cuda_expect_elements(spec, "dy", &in[3], lks_cuda_elements(&in[1])));
    LKS_TRY(lks_cuda_expect_elements(spec, "dqkv", &spec->outputs[0], lks_cuda_elements(&in[0])));
    LKS_TRY(lks_attention_describe(spec, &in[1], &in[2], &shape));
    LKS_TRY(type == LKS_BF16 ? allow_both<lks_bf16>(&shape) : allow_both<float>(&shape));
    LKS_TRY(LKS_NEW(&state));
    *state = {lks_cuda_of(device), shape,
              static_cast<const lks_attention_attributes *>(spec->attributes)->instance, type};
    *workspace = (size_t)lks_cuda_elements(&in[2]) * sizeof(float);
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
    grad_arguments<T> with = {lks_attention_at(&state->shape, state->instance, run),
                              static_cast<const T *>(run->inputs[0]),
                              static_cast<const T *>(run->inputs[1]),
                              static_cast<const T *>(run->inputs[3]),
                              static_cast<const float *>(run->inputs[2]),
                              static_cast<float *>(run->workspace),
                              static_cast<T *>(run->outputs[0]),
                              run->accumulate[0]};
    const lks_attention_shape &shape = with.shape;
    constexpr int ITEMS = (int)DELTA_THREADS / (int)delta_group<T>::LANES;
    int64_t items = (int64_t)shape.samples * shape.length * shape.heads;
    auto delta = attention_delta<T>;
    LKS_LAUNCH(delta, dim3((unsigned)((items + ITEMS - 1) / ITEMS)), dim3(DELTA_THREADS), 0,
               state->cuda->stream, with);
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
