/* attention: a block of queries goes over the keys that it may see, with a running maximum and a running sum
 * (Milakov and Gimelshein 2018); key blocks beyond the diagonal are left out. */
#include "kernels/cuda/attention.cuh"

#include <type_traits>

lks_status lks_attention_describe(const lks_kernel_spec *spec, lks_attention_shape *out)
{
    const lks_attention_attributes *with =
        static_cast<const lks_attention_attributes *>(spec->attributes);
    const lks_shape *shape = &spec->inputs[0].shape;
    if (with->width < 8 || with->width % 8 != 0 || with->width > LKS_ATTENTION_WIDTH_MAX)
        return lks_spec_refuse(spec, "heads are %d wide; a multiple of 8 up to %d is wanted",
                               with->width, (int)LKS_ATTENTION_WIDTH_MAX);
    if (shape->size[1] > INT32_MAX / 2)
        return lks_spec_refuse(spec, "at most %d tokens", INT32_MAX / 2);
    if (shape->size[0] > 65535 || with->heads > 65535)
        return lks_spec_refuse(spec, "at most 65535 samples and heads");
    *out = {};
    out->samples = (int)shape->size[0];
    out->length = (int)shape->size[1];
    out->heads = with->heads;
    out->kv_heads = with->kv_heads;
    out->width = with->width;
    out->stride = shape->size[2];
    out->scale = with->scale;
    out->exponent = with->scale * LKS_LOG2_E;
    out->causal = with->causal;
    out->rate = with->dropout;
    out->kept = 1.0f / (1.0f - with->dropout);
    out->dropped = (uint32_t)ceilf(with->dropout * 0x1p24f) << 8;
    return LKS_OK;
}

namespace
{

template <typename T> struct attention_arguments {
    lks_attention_shape shape;
    const T *qkv;
    T *y;
    float *lse; /* or NULL */
};

struct attention_state {
    lks_cuda_device *cuda;
    lks_attention_shape shape;
    uint32_t instance;
    lks_dtype type;
};

/* --- bf16 ------------------------------------------------------------------------------ */

/* As many queries to a warp (16 TILES) and keys to a stage as the registers hold; the queries too where they do. */
template <int Width, bool Drop> struct attention_plan {
    static constexpr int WIDTH = Width, DROP = Drop, STEP = lks_tile<Width>::STEP;
    static constexpr int TILES = Width <= 96 || !Drop ? 2 : 1, ROWS = 64 * TILES;
    static constexpr int KEYS = Width <= 64 && !Drop ? 64 : 32;
    static constexpr bool HOLD = Width <= 64;
    static constexpr int SHARED_BYTES = (ROWS + 4 * KEYS) * STEP * (int)sizeof(lks_bf16);
};

/* What a warp knows of its queries: thread's rows are lane / 4 and that + 8 of each tile. */
template <typename P> struct attention_warp {
    int first; /* query */
    float largest[P::TILES][2], sum[P::TILES][2];
    float y[P::TILES][P::WIDTH / 8][4];
};

/* Whether neither the causal mask nor the end of the keys cuts into a stage. */
template <typename P>
static __device__ __forceinline__ bool is_whole(const lks_attention_shape &shape, int first_query,
                                                int first_key)
{
    return first_key + P::KEYS <= shape.length &&
           !(shape.causal && first_key + P::KEYS - 1 > first_query);
}

template <typename P>
static __device__ __forceinline__ void mask_scores(const lks_attention_shape &shape,
                                                   int first_query, int first_key,
                                                   float (&s)[P::TILES][P::KEYS / 8][4])
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int n = 0; n < P::KEYS / 8; ++n)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                int key = first_key + n * 8 + lane % 4 * 2 + e % 2;
                int query = first_query + t * 16 + e / 2 * 8 + lane / 4;
                if (key >= shape.length || (shape.causal && key > query))
                    s[t][n][e] = -INFINITY;
            }
}

/* Scores to exponentials; what was summed so far is brought to the new maximum. */
template <typename P>
static __device__ __forceinline__ void online_softmax(float factor, attention_warp<P> &warp,
                                                      float (&s)[P::TILES][P::KEYS / 8][4])
{
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float largest = warp.largest[t][half];
#pragma unroll
            for (int n = 0; n < P::KEYS / 8; ++n)
                largest = fmaxf(largest, fmaxf(s[t][n][2 * half], s[t][n][2 * half + 1]));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
            largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
            float shift = largest * factor, sum = 0;
            /* Rounded as shift is: 1 where the maximum stays. */
            float correction = lks_exp2(__fmul_rn(warp.largest[t][half], factor) - shift);
            warp.largest[t][half] = largest;
#pragma unroll
            for (int n = 0; n < P::KEYS / 8; ++n)
#pragma unroll
                for (int e = 2 * half; e < 2 * half + 2; ++e) {
                    s[t][n][e] = lks_exp2(s[t][n][e] * factor - shift);
                    sum += s[t][n][e];
                }
            warp.sum[t][half] = warp.sum[t][half] * correction + sum;
#pragma unroll
            for (int n = 0; n < P::WIDTH / 8; ++n) {
                warp.y[t][n][2 * half] *= correction;
                warp.y[t][n][2 * half + 1] *= correction;
            }
        }
}

template <typename P>
static __device__ __forceinline__ void drop_scores(const lks_attention_shape &shape,
                                                   int first_query, int first_key,
                                                   float (&s)[P::TILES][P::KEYS / 8][4])
{
    uint64_t position = shape.positions[blockIdx.z];
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int n = 0; n < P::KEYS / 8; ++n) {
            float factor[4];
            lks_attention_factors<false>(shape, position, (int)blockIdx.y, first_query + t * 16,
                                         first_key + n * 8, factor);
#pragma unroll
            for (int e = 0; e < 4; ++e)
                s[t][n][e] *= factor[e];
        }
}

template <typename P>
using attention_queries = std::conditional_t<P::HOLD, lks_tile_held<P::WIDTH, P::TILES>,
                                             lks_tile_lying<P::WIDTH, P::TILES>>;

template <typename P, bool Whole>
static __device__ __forceinline__ void
attend(const lks_attention_shape &shape, int first_key, const attention_queries<P> &queries,
       const lks_bf16 *keys, const lks_bf16 *values, attention_warp<P> &warp)
{
    int lane = lks_lane();
    float s[P::TILES][P::KEYS / 8][4] = {};
    uint32_t p[P::TILES][P::KEYS / 16][4];
    lks_tile_product<P::WIDTH>(s, queries, keys, lane);
    if constexpr (!Whole)
        mask_scores<P>(shape, warp.first, first_key, s);
    online_softmax<P>(shape.exponent, warp, s);
    if constexpr (P::DROP)
        drop_scores<P>(shape, warp.first, first_key, s);
    lks_tile_pack(s, p);
    lks_tile_multiply<P::WIDTH>(warp.y, p, values, lane);
}

/* The sums over a query's four threads; y's factors, and lse. */
template <typename P>
static __device__ __forceinline__ void finish(const attention_arguments<lks_bf16> &with,
                                              attention_warp<P> &warp, float (&factor)[P::TILES][2])
{
    int lane = (int)threadIdx.x % 32;
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = warp.sum[t][half];
            sum += __shfl_xor_sync(0xffffffffu, sum, 1);
            sum += __shfl_xor_sync(0xffffffffu, sum, 2);
            factor[t][half] = 1.0f / sum;
            int query = warp.first + t * 16 + half * 8 + lane / 4;
            if (with.lse && lane % 4 == 0 && query < with.shape.length)
                with.lse[((int64_t)blockIdx.z * with.shape.heads + blockIdx.y) * with.shape.length +
                         query] = warp.largest[t][half] * with.shape.scale + logf(sum);
        }
}

/* Blocks: x: of queries, the last (which see the most keys) first; y: head; z: sample. */
template <typename P>
static __global__ void __launch_bounds__(LKS_ATTENTION_THREADS, 2)
    attention_tiles(attention_arguments<lks_bf16> with)
{
    constexpr int STEP = P::STEP;
    LKS_DYNAMIC_SHARED(lks_bf16, shared);
    const lks_attention_shape &shape = with.shape;
    int head = (int)blockIdx.y, sample = (int)blockIdx.z;
    int first = (int)(gridDim.x - 1 - blockIdx.x) * P::ROWS;
    int end = shape.causal ? min(shape.length, first + P::ROWS) : shape.length;
    int step = (int)shape.stride;
    const lks_bf16 *keys = lks_tile_place<P::WIDTH>(
        with.qkv + lks_key_at(shape, sample, head / (shape.heads / shape.kv_heads)), step, 0);
    const lks_bf16 *values = keys + shape.kv_heads * shape.width;
    lks_bf16 *query_tile = shared, *key_tiles = shared + P::ROWS * STEP;
    lks_bf16 *value_tiles = key_tiles + 2 * P::KEYS * STEP;
    lks_tile_load<P::WIDTH, P::ROWS>(
        query_tile,
        lks_tile_place<P::WIDTH>(with.qkv + lks_query_at(shape, sample, head), step, first), step,
        shape.length - first, shape.width);
    lks_tile_load<P::WIDTH, P::KEYS>(key_tiles, keys, step, shape.length, shape.width);
    lks_tile_load<P::WIDTH, P::KEYS>(value_tiles, values, step, shape.length, shape.width);
    lks_copy_commit();
    attention_warp<P> warp;
    int row = (int)threadIdx.x / 32 * 16 * P::TILES;
    warp.first = first + row;
#pragma unroll
    for (int t = 0; t < P::TILES; ++t)
#pragma unroll
        for (int i = 0; i < 2 + P::WIDTH / 8 * 4; ++i)
            if (i < 2) {
                warp.largest[t][i] = -INFINITY;
                warp.sum[t][i] = 0;
            } else {
                warp.y[t][(i - 2) / 4][(i - 2) % 4] = 0;
            }
    lks_copy_wait<0>();
    __syncthreads();
    const attention_queries<P> queries(query_tile + row * STEP);
    for (int key = 0, turn = 0; key < end; key += P::KEYS, turn ^= 1) {
        lks_copy_wait<0>();
        __syncthreads();
        if (key + P::KEYS < end) {
            int next = (turn ^ 1) * P::KEYS * STEP, left = shape.length - key - P::KEYS;
            keys += (int64_t)P::KEYS * step;
            values += (int64_t)P::KEYS * step;
            lks_tile_load<P::WIDTH, P::KEYS>(key_tiles + next, keys, step, left, shape.width);
            lks_tile_load<P::WIDTH, P::KEYS>(value_tiles + next, values, step, left, shape.width);
            lks_copy_commit();
        }
        const lks_bf16 *key_tile = key_tiles + turn * P::KEYS * STEP;
        const lks_bf16 *value_tile = value_tiles + turn * P::KEYS * STEP;
        if (!P::DROP && is_whole<P>(shape, warp.first, key))
            attend<P, true>(shape, key, queries, key_tile, value_tile, warp);
        else if (!shape.causal || key <= warp.first + 16 * P::TILES - 1)
            attend<P, false>(shape, key, queries, key_tile, value_tile, warp);
    }
    float factor[P::TILES][2];
    finish<P>(with, warp, factor);
    lks_tile_store<P::WIDTH>(warp.y, factor, query_tile + row * STEP,
                             {with.y + lks_result_at(shape, sample, head),
                              (int64_t)shape.heads * shape.width, warp.first, shape.length,
                              shape.width},
                             false);
}

/* --- f32 --------------------------------------------------------------------------------
 * 16 x 16 threads; thread (x, y) has rows y + 16 i and columns x + 16 j, so a row belongs to a half warp. */

enum { FLAT_ROWS = 64, FLAT_KEYS = 32, SIDE = 16 };

template <int Width> constexpr size_t flat_bytes()
{
    return (size_t)((FLAT_ROWS + 2 * FLAT_KEYS) * (Width + 1) + FLAT_ROWS * (FLAT_KEYS + 1)) *
           sizeof(float);
}

static __device__ __forceinline__ float row_max(float x)
{
    for (int offset = SIDE / 2; offset > 0; offset /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, offset));
    return x;
}
static __device__ __forceinline__ float row_sum(float x)
{
    for (int offset = SIDE / 2; offset > 0; offset /= 2)
        x += __shfl_xor_sync(0xffffffffu, x, offset);
    return x;
}

template <int Width>
static __device__ void flat_load(float *tile, const float *from, int64_t step, int first, int rows,
                                 int length, int width)
{
    for (int i = (int)threadIdx.x; i < rows * Width; i += SIDE * SIDE) {
        int row = i / Width, column = i % Width;
        bool valid = first + row < length && column < width;
        tile[row * (Width + 1) + column] = valid ? from[(first + row) * step + column] : 0;
    }
}

/* One thread's part of a block of queries. */
template <int Width> struct flat_part {
    float largest[FLAT_ROWS / SIDE], sum[FLAT_ROWS / SIDE];
    float y[FLAT_ROWS / SIDE][Width / SIDE];
};

template <int Width>
static __device__ __forceinline__ void flat_scores(const float *queries, const float *keys,
                                                   float (&s)[FLAT_ROWS / SIDE][FLAT_KEYS / SIDE])
{
    int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
#pragma unroll 4
    for (int d = 0; d < Width; ++d)
#pragma unroll
        for (int i = 0; i < FLAT_ROWS / SIDE; ++i)
#pragma unroll
            for (int j = 0; j < FLAT_KEYS / SIDE; ++j)
                s[i][j] += queries[(y + SIDE * i) * (Width + 1) + d] *
                           keys[(x + SIDE * j) * (Width + 1) + d];
}

template <int Width>
static __device__ __forceinline__ void
flat_softmax(const lks_attention_shape &shape, int first, int key,
             float (&s)[FLAT_ROWS / SIDE][FLAT_KEYS / SIDE], flat_part<Width> &part, float *p)
{
    int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
#pragma unroll
    for (int i = 0; i < FLAT_ROWS / SIDE; ++i) {
        int query = first + y + SIDE * i;
        float largest = part.largest[i], sum = 0;
#pragma unroll
        for (int j = 0; j < FLAT_KEYS / SIDE; ++j) {
            int at = key + x + SIDE * j;
            if (at >= shape.length || (shape.causal && at > query))
                s[i][j] = -INFINITY;
            largest = fmaxf(largest, s[i][j]);
        }
        largest = row_max(largest);
        float correction = expf((part.largest[i] - largest) * shape.scale);
        part.largest[i] = largest;
#pragma unroll
        for (int j = 0; j < FLAT_KEYS / SIDE; ++j) {
            float e = expf((s[i][j] - largest) * shape.scale);
            sum += e;
            if (shape.rate > 0)
                e *= lks_attention_factor(shape, shape.positions[blockIdx.z], (int)blockIdx.y,
                                          query, key + x + SIDE * j);
            p[(y + SIDE * i) * (FLAT_KEYS + 1) + x + SIDE * j] = e;
        }
        part.sum[i] = part.sum[i] * correction + row_sum(sum);
#pragma unroll
        for (int j = 0; j < Width / SIDE; ++j)
            part.y[i][j] *= correction;
    }
}

template <int Width>
static __device__ __forceinline__ void flat_add(const float *p, const float *values,
                                                flat_part<Width> &part)
{
    int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
#pragma unroll 4
    for (int key = 0; key < FLAT_KEYS; ++key)
#pragma unroll
        for (int i = 0; i < FLAT_ROWS / SIDE; ++i)
#pragma unroll
            for (int j = 0; j < Width / SIDE; ++j)
                part.y[i][j] += p[(y + SIDE * i) * (FLAT_KEYS + 1) + key] *
                                values[key * (Width + 1) + x + SIDE * j];
}

template <int Width>
static __device__ __forceinline__ void flat_store(const attention_arguments<float> &with, int first,
                                                  const flat_part<Width> &part)
{
    const lks_attention_shape &shape = with.shape;
    int x = (int)threadIdx.x % SIDE, y = (int)threadIdx.x / SIDE;
    int head = (int)blockIdx.y, sample = (int)blockIdx.z;
    float *to = with.y + lks_result_at(shape, sample, head);
#pragma unroll
    for (int i = 0; i < FLAT_ROWS / SIDE; ++i) {
        int query = first + y + SIDE * i;
        if (query >= shape.length)
            continue;
        float inverse = 1.0f / part.sum[i];
#pragma unroll
        for (int j = 0; j < Width / SIDE; ++j)
            if (x + SIDE * j < shape.width)
                to[(int64_t)query * shape.heads * shape.width + x + SIDE * j] =
                    part.y[i][j] * inverse;
        if (with.lse && x == 0)
            with.lse[((int64_t)sample * shape.heads + head) * shape.length + query] =
                part.largest[i] * shape.scale + logf(part.sum[i]);
    }
}

template <int Width>
static __global__ void __launch_bounds__(SIDE *SIDE, 2)
    attention_flat(attention_arguments<float> with)
{
    LKS_DYNAMIC_SHARED(float, shared);
    const lks_attention_shape &shape = with.shape;
    int head = (int)blockIdx.y, sample = (int)blockIdx.z;
    int first = (int)(gridDim.x - 1 - blockIdx.x) * FLAT_ROWS;
    int end = shape.causal ? min(shape.length, first + FLAT_ROWS) : shape.length;
    const float *keys = with.qkv + lks_key_at(shape, sample, head / (shape.heads / shape.kv_heads));
    float *query_tile = shared, *key_tile = query_tile + FLAT_ROWS * (Width + 1);
    float *value_tile = key_tile + FLAT_KEYS * (Width + 1);
    float *p = value_tile + FLAT_KEYS * (Width + 1);
    flat_load<Width>(query_tile, with.qkv + lks_query_at(shape, sample, head), shape.stride, first,
                     FLAT_ROWS, shape.length, shape.width);
    flat_part<Width> part = {};
    for (int i = 0; i < FLAT_ROWS / SIDE; ++i)
        part.largest[i] = -INFINITY;
    for (int key = 0; key < end; key += FLAT_KEYS) {
        float s[FLAT_ROWS / SIDE][FLAT_KEYS / SIDE] = {};
        __syncthreads();
        flat_load<Width>(key_tile, keys, shape.stride, key, FLAT_KEYS, shape.length, shape.width);
        flat_load<Width>(value_tile, keys + shape.kv_heads * shape.width, shape.stride, key,
                         FLAT_KEYS, shape.length, shape.width);
        __syncthreads();
        flat_scores<Width>(query_tile, key_tile, s);
        flat_softmax<Width>(shape, first, key, s, part, p);
        __syncthreads();
        flat_add<Width>(p, value_tile, part);
    }
    flat_store<Width>(with, first, part);
}

/* --- Choice by width ---------------------------------------------------------------------- */

template <typename T> struct attention_choice {
    void (*kernel)(attention_arguments<T>);
    size_t shared;
    int rows, threads;
};

template <int Width> attention_choice<lks_bf16> tiles(bool drop)
{
    typedef attention_plan<Width, true> dropping;
    typedef attention_plan<Width, false> plain;
    if (drop)
        return {attention_tiles<dropping>, dropping::SHARED_BYTES, dropping::ROWS,
                LKS_ATTENTION_THREADS};
    return {attention_tiles<plain>, plain::SHARED_BYTES, plain::ROWS, LKS_ATTENTION_THREADS};
}

attention_choice<lks_bf16> choose(const lks_attention_shape *shape, lks_bf16)
{
    bool drop = shape->rate > 0;
    switch (lks_attention_padded(shape->width)) {
    case 32:
        return tiles<32>(drop);
    case 64:
        return tiles<64>(drop);
    case 96:
        return tiles<96>(drop);
    default:
        return tiles<128>(drop);
    }
}

attention_choice<float> choose(const lks_attention_shape *shape, float)
{
    switch (lks_attention_padded(shape->width)) {
    case 32:
        return {attention_flat<32>, flat_bytes<32>(), FLAT_ROWS, SIDE * SIDE};
    case 64:
        return {attention_flat<64>, flat_bytes<64>(), FLAT_ROWS, SIDE * SIDE};
    default:
        return {attention_flat<128>, flat_bytes<128>(), FLAT_ROWS, SIDE * SIDE};
    }
}

template <typename T> lks_status allow(const lks_attention_shape *shape)
{
    attention_choice<T> choice = choose(shape, T());
    return lks_cuda_allow_shared(choice.kernel, choice.shared);
}

lks_status attention_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                             size_t *workspace)
{
    lks_dtype type;
    lks_attention_shape shape;
    attention_state *state;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_attention(spec, &type));
    LKS_TRY(lks_attention_describe(spec, &shape));
    LKS_TRY(type == LKS_BF16 ? allow<lks_bf16>(&shape) : allow<float>(&shape));
    LKS_TRY(LKS_NEW(&state));
    *state = {lks_cuda_of(device), shape,
              static_cast<const lks_attention_attributes *>(spec->attributes)->instance, type};
    *out = state;
    return LKS_OK;
}

template <typename T> void launch(const attention_state *state, const lks_kernel_run *run)
{
    attention_choice<T> choice = choose(&state->shape, T());
    attention_arguments<T> with = {lks_attention_at(&state->shape, state->instance, run),
                                   static_cast<const T *>(run->inputs[0]),
                                   static_cast<T *>(run->outputs[0]),
                                   static_cast<float *>(run->outputs[1])};
    dim3 grid((unsigned)((with.shape.length + choice.rows - 1) / choice.rows),
              (unsigned)with.shape.heads, (unsigned)with.shape.samples);
    LKS_LAUNCH(choice.kernel, grid, dim3((unsigned)choice.threads), choice.shared,
               state->cuda->stream, with);
}

lks_status attention_run(void *state_, const lks_kernel_run *run)
{
    const attention_state *state = static_cast<const attention_state *>(state_);
    if (state->type == LKS_BF16)
        launch<lks_bf16>(state, run);
    else
        launch<float>(state, run);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

} // namespace

extern "C" const lks_kernel_driver lks_cuda_kernel_attention = {"attention", attention_prepare,
                                                                attention_run, lks_memory_free};
