/* embedding and its gradient. The gradient sorts the rows of the micro-batch by token (stable, least significant digit
 * first), so that a row of the table finds its tokens side by side and in order, and adds them one after the other.
 */
#include "kernels/cuda/cuda.cuh"

namespace
{

enum { THREADS = 256, WARPS = THREADS / 32 };
enum { DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS, ROUNDS = 4, TILE = THREADS * ROUNDS };

struct embedding_state {
    lks_cuda_device *cuda;
    int64_t rows, period, vocabulary, width; /* period: T */
    lks_dtype type;
};

lks_status embedding_make(void **out, lks_device *device, const lks_kernel_spec *spec,
                          lks_dtype type, const lks_kernel_tensor *rows,
                          const lks_kernel_tensor *table, const lks_kernel_tensor *place)
{
    const lks_kernel_tensor *ids = &spec->inputs[0];
    int64_t width = lks_cuda_columns(table);
    if (table->shape.axes != 2 || ids->shape.axes < 1)
        return lks_cuda_refuse(spec, "the table needs two axes and the ids one or more");
    int64_t period = ids->shape.size[ids->shape.axes - 1], count = lks_cuda_elements(ids);
    if (count > INT32_MAX || table->shape.size[0] > INT32_MAX)
        return lks_cuda_refuse(spec, "at most %d ids and rows of the table", INT32_MAX);
    LKS_TRY(lks_cuda_expect_elements(spec, "y", rows, count * width));
    LKS_TRY(lks_cuda_expect_elements(spec, "place", place, period * width));
    embedding_state *state;
    LKS_TRY(LKS_NEW(&state));
    *state = {lks_cuda_of(device), count, period, table->shape.size[0], width, type};
    *out = state;
    return LKS_OK;
}

unsigned blocks_of(int64_t items)
{
    return (unsigned)((items + THREADS - 1) / THREADS);
}

/* --- embedding --------------------------------------------------------------------------- */

template <typename T> struct embedding_arguments {
    const int32_t *ids;
    const T *table, *place;
    T *y;
    int64_t rows, period, vocabulary, width;
    lks_cuda_fault *fault;
};

/* A thread to 16 bytes where `Wide` (the width is a whole number of them), else to an element. */
template <typename T, bool Wide>
static __global__ void __launch_bounds__(THREADS) embed(embedding_arguments<T> with)
{
    constexpr int SIZE = Wide ? (int)lks_vector<T>::SIZE : 1;
    int64_t each = with.width / SIZE, item = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    int64_t row = item / each, column = item % each * SIZE;
    if (row >= with.rows)
        return;
    int32_t id = with.ids[row];
    if (id < 0 || id >= with.vocabulary) {
        if (column == 0)
            lks_cuda_report(with.fault, LKS_CUDA_FAULT_ID, id, row, with.vocabulary);
        id = 0;
    }
    int64_t from = id * with.width + column, to = row * with.width + column;
    int64_t add = row % with.period * with.width + column;
    if constexpr (Wide) {
        lks_vector<T> y = lks_vector<T>::load(with.table + from);
        if (with.place) {
            lks_vector<T> place = lks_vector<T>::load(with.place + add);
            float sum[SIZE];
#pragma unroll
            for (int i = 0; i < SIZE; ++i)
                sum[i] = y[i] + place[i];
            y = lks_vector<T>::round(sum);
        }
        y.store(with.y + to);
    } else {
        float y = lks_load(with.table, from);
        lks_store(with.y, to, with.place ? y + lks_load(with.place, add) : y);
    }
}

lks_status embedding_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                             size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    LKS_TRY(lks_cuda_expect_types(spec, "itT", "t", &type));
    return embedding_make(out, device, spec, type, &spec->outputs[0], &spec->inputs[1],
                          &spec->inputs[2]);
}

template <typename T> void embedding_launch(const embedding_state *state, const lks_kernel_run *run)
{
    embedding_arguments<T> with = {static_cast<const int32_t *>(run->inputs[0]),
                                   static_cast<const T *>(run->inputs[1]),
                                   static_cast<const T *>(run->inputs[2]),
                                   static_cast<T *>(run->outputs[0]),
                                   state->rows,
                                   state->period,
                                   state->vocabulary,
                                   state->width,
                                   state->cuda->fault};
    bool wide = state->width % lks_vector<T>::SIZE == 0;
    auto kernel = wide ? embed<T, true> : embed<T, false>;
    int64_t items = state->rows * (wide ? state->width / lks_vector<T>::SIZE : state->width);
    LKS_LAUNCH(kernel, dim3(blocks_of(items)), dim3(THREADS), 0, state->cuda->stream, with);
}

lks_status embedding_run(void *state_, const lks_kernel_run *run)
{
    const embedding_state *state = static_cast<const embedding_state *>(state_);
    if (state->type == LKS_BF16)
        embedding_launch<lks_bf16>(state, run);
    else
        embedding_launch<float>(state, run);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

/* --- Sorting ----------------------------------------------------------------------------- */

/* Tokens with the rows where they stand. */
struct token_list {
    int32_t *ids, *rows; /* [rows] */
};

struct sort_arguments {
    token_list from, to;
    int32_t *counts; /* [DIGITS, tiles]: of a digit in a tile; then where the first of them goes */
    int rows, shift;
};

/* An id that is none is sorted behind all others. */
static __global__ void __launch_bounds__(THREADS)
    list_tokens(const int32_t *ids, int64_t rows, int64_t vocabulary, token_list list,
                lks_cuda_fault *fault)
{
    int64_t row = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (row >= rows)
        return;
    int32_t id = ids[row];
    if (id < 0 || id >= vocabulary) {
        lks_cuda_report(fault, LKS_CUDA_FAULT_ID, id, row, vocabulary);
        id = (int32_t)vocabulary;
    }
    list.ids[row] = id;
    list.rows[row] = (int32_t)row;
}

/* The lanes of the warp that have the same digit. */
static __device__ __forceinline__ unsigned same_digit(int digit)
{
    unsigned same = 0xffffffffu;
#pragma unroll
    for (int bit = 0; bit <= DIGIT_BITS; ++bit) { /* the last: lanes without an item */
        unsigned set = __ballot_sync(0xffffffffu, digit >> bit & 1);
        same &= digit >> bit & 1 ? set : ~set;
    }
    return same;
}

/* A tile's items in order: warp, round, lane. `rank`: of an item among those of its digit in its warp. Fills
 * first[warp][digit]: of those in the warps before. */
struct tile_items {
    int digit[ROUNDS], rank[ROUNDS]; /* digit: DIGITS where there is no item */
};

static __device__ __forceinline__ int item_at(int round)
{
    return (int)blockIdx.x * TILE + (int)threadIdx.x / 32 * (32 * ROUNDS) + round * 32 +
           (int)threadIdx.x % 32;
}

static __device__ __forceinline__ tile_items rank_tile(const sort_arguments &with,
                                                       int32_t (&first)[WARPS][DIGITS],
                                                       int32_t *total)
{
    tile_items items;
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    for (int i = lane; i < DIGITS; i += 32)
        first[warp][i] = 0;
    __syncwarp();
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        int at = item_at(round);
        int digit = at < with.rows ? with.from.ids[at] >> with.shift & (DIGITS - 1) : (int)DIGITS;
        unsigned same = same_digit(digit), before = same & ((1u << lane) - 1);
        int count = digit < DIGITS ? first[warp][digit] : 0;
        __syncwarp();
        if (digit < DIGITS && before == 0)
            first[warp][digit] = count + __popc(same);
        __syncwarp();
        items.digit[round] = digit;
        items.rank[round] = count + __popc(before);
    }
    __syncthreads();
    for (int digit = (int)threadIdx.x; digit < DIGITS; digit += THREADS) {
        int32_t sum = 0;
        for (int w = 0; w < WARPS; ++w) {
            int32_t count = first[w][digit];
            first[w][digit] = sum;
            sum += count;
        }
        if (total)
            total[digit * (int)gridDim.x + (int)blockIdx.x] = sum;
    }
    __syncthreads();
    return items;
}

static __global__ void __launch_bounds__(THREADS) count_digits(sort_arguments with)
{
    __shared__ int32_t first[WARPS][DIGITS];
    rank_tile(with, first, with.counts);
}

/* counts[i] becomes the sum of those before it; one block, each thread a run of them. */
static __global__ void __launch_bounds__(THREADS) scan_counts(int32_t *counts, int count)
{
    __shared__ int32_t sums[THREADS];
    int begin = (int)((int64_t)count * threadIdx.x / THREADS);
    int end = (int)((int64_t)count * (threadIdx.x + 1) / THREADS);
    int32_t sum = 0;
    for (int i = begin; i < end; ++i)
        sum += counts[i];
    sums[threadIdx.x] = sum;
    __syncthreads();
    sum = 0;
    for (int i = 0; i < (int)threadIdx.x; ++i)
        sum += sums[i];
    for (int i = begin; i < end; ++i) {
        int32_t own = counts[i];
        counts[i] = sum;
        sum += own;
    }
}

static __global__ void __launch_bounds__(THREADS) scatter_digits(sort_arguments with)
{
    __shared__ int32_t first[WARPS][DIGITS];
    tile_items items = rank_tile(with, first, nullptr);
#pragma unroll
    for (int round = 0; round < ROUNDS; ++round) {
        int digit = items.digit[round], at = item_at(round);
        if (digit >= DIGITS)
            continue;
        int to = with.counts[digit * (int)gridDim.x + (int)blockIdx.x] +
                 first[threadIdx.x / 32][digit] + items.rank[round];
        with.to.ids[to] = with.from.ids[at];
        with.to.rows[to] = with.from.rows[at];
    }
}

/* begin[id]: the first of the sorted tokens that is not below it, for id in [0, vocabulary]. */
static __global__ void __launch_bounds__(THREADS)
    find_segments(const int32_t *sorted, int rows, int64_t vocabulary, int32_t *begin)
{
    int64_t id = (int64_t)blockIdx.x * THREADS + threadIdx.x;
    if (id > vocabulary)
        return;
    int low = 0, high = rows;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (sorted[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    begin[id] = low;
}

/* --- embedding_grad ---------------------------------------------------------------------- */

/* Rows whose loads are under way at once. */
enum { AHEAD = 8 };

template <typename T> struct sum_arguments {
    const T *dy;
    const int32_t *begin, *rows; /* NULL: row number i of place p is i * period + p */
    float *out;
    int64_t width, period, count; /* count: rows of a place */
    bool accumulate;
};

/* Elements [column, column + Size) of a row. */
template <typename T, int Size>
static __device__ __forceinline__ void read_columns(const T *from, float (&x)[Size])
{
    if constexpr (Size == 1) {
        x[0] = lks_load(from, 0);
    } else if constexpr (sizeof(T) == 4) {
        float4 raw = *reinterpret_cast<const float4 *>(from);
        x[0] = raw.x, x[1] = raw.y, x[2] = raw.z, x[3] = raw.w;
    } else {
        uint2 raw = *reinterpret_cast<const uint2 *>(from);
        x[0] = __uint_as_float(raw.x << 16), x[1] = __uint_as_float(raw.x & 0xffff0000u);
        x[2] = __uint_as_float(raw.y << 16), x[3] = __uint_as_float(raw.y & 0xffff0000u);
    }
}

/* out[row] (+)= the sum of its rows of dy, one after the other. Blocks: x: row of out; threads: Size columns each. A
 * row without any is zeroed, or left. */
template <typename T, int Size>
static __global__ void __launch_bounds__(THREADS) sum_rows(sum_arguments<T> with)
{
    int64_t first = with.begin ? with.begin[blockIdx.x] : 0;
    int64_t end = with.begin ? with.begin[blockIdx.x + 1] : with.count;
    if (first == end && with.accumulate)
        return;
    for (int64_t column = (int64_t)threadIdx.x * Size; column < with.width;
         column += (int64_t)blockDim.x * Size) {
        float *out = with.out + (int64_t)blockIdx.x * with.width + column;
        float sum[Size];
#pragma unroll
        for (int i = 0; i < Size; ++i)
            sum[i] = with.accumulate ? out[i] : 0;
        for (int64_t at = first; at < end; at += AHEAD) {
            float x[AHEAD][Size];
#pragma unroll
            for (int j = 0; j < AHEAD; ++j)
                if (at + j < end) {
                    int64_t row =
                        with.rows ? with.rows[at + j] : (at + j) * with.period + blockIdx.x;
                    read_columns(with.dy + row * with.width + column, x[j]);
                }
#pragma unroll
            for (int j = 0; j < AHEAD; ++j)
                if (at + j < end)
#pragma unroll
                    for (int i = 0; i < Size; ++i)
                        sum[i] += x[j][i];
        }
#pragma unroll
        for (int i = 0; i < Size; ++i)
            out[i] = sum[i];
    }
}

struct grad_workspace {
    token_list lists[2];
    int32_t *counts, *begin;
    size_t bytes;
};

int tiles_of(const embedding_state *state)
{
    return (int)((state->rows + TILE - 1) / TILE);
}

/* With NULL only counts. */
grad_workspace cut_workspace(const embedding_state *state, void *memory)
{
    grad_workspace out = {};
    char *base = static_cast<char *>(memory);
    auto take = [&](int64_t count) {
        int32_t *at = reinterpret_cast<int32_t *>(base ? base + out.bytes : nullptr);
        out.bytes += lks_round_up((size_t)count * sizeof(int32_t), LKS_ALIGNMENT);
        return at;
    };
    for (token_list &list : out.lists)
        list = {take(state->rows), take(state->rows)};
    out.counts = take((int64_t)DIGITS * tiles_of(state));
    out.begin = take(state->vocabulary + 1);
    return out;
}

lks_status embedding_grad_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                  size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_cuda_expect_types(spec, "it", "fF", &type));
    LKS_TRY(embedding_make(out, device, spec, type, &spec->inputs[1], &spec->outputs[0],
                           &spec->outputs[1]));
    *workspace = cut_workspace(static_cast<embedding_state *>(*out), nullptr).bytes;
    return LKS_OK;
}

/* Returns the sorted list. */
token_list sort_tokens(const embedding_state *state, const int32_t *ids,
                       const grad_workspace *workspace)
{
    cudaStream_t stream = state->cuda->stream;
    int tiles = tiles_of(state), from = 0;
    LKS_LAUNCH(list_tokens, dim3(blocks_of(state->rows)), dim3(THREADS), 0, stream, ids,
               state->rows, state->vocabulary, workspace->lists[0], state->cuda->fault);
    for (int shift = 0; state->vocabulary >> shift > 0; shift += DIGIT_BITS, from ^= 1) {
        sort_arguments with = {workspace->lists[from], workspace->lists[from ^ 1],
                               workspace->counts, (int)state->rows, shift};
        LKS_LAUNCH(count_digits, dim3((unsigned)tiles), dim3(THREADS), 0, stream, with);
        LKS_LAUNCH(scan_counts, dim3(1), dim3(THREADS), 0, stream, with.counts, DIGITS * tiles);
        LKS_LAUNCH(scatter_digits, dim3((unsigned)tiles), dim3(THREADS), 0, stream, with);
    }
    return workspace->lists[from];
}

template <typename T>
void sum_launch(const embedding_state *state, int64_t rows, const sum_arguments<T> &with)
{
    bool wide = state->width % 4 == 0;
    int64_t threads = (wide ? state->width / 4 : state->width);
    threads = threads < THREADS ? (threads + 31) / 32 * 32 : (int64_t)THREADS;
    auto kernel = wide ? sum_rows<T, 4> : sum_rows<T, 1>;
    LKS_LAUNCH(kernel, dim3((unsigned)rows), dim3((unsigned)threads), 0, state->cuda->stream, with);
}

template <typename T>
void embedding_grad_launch(const embedding_state *state, const lks_kernel_run *run)
{
    const T *dy = static_cast<const T *>(run->inputs[1]);
    grad_workspace workspace = cut_workspace(state, run->workspace);
    token_list sorted =
        sort_tokens(state, static_cast<const int32_t *>(run->inputs[0]), &workspace);
    LKS_LAUNCH(find_segments, dim3(blocks_of(state->vocabulary + 1)), dim3(THREADS), 0,
               state->cuda->stream, sorted.ids, (int)state->rows, state->vocabulary,
               workspace.begin);
    sum_launch<T>(state, state->vocabulary,
                  {dy, workspace.begin, sorted.rows, static_cast<float *>(run->outputs[0]),
                   state->width, 0, 0, run->accumulate[0]});
    if (run->outputs[1])
        sum_launch<T>(state, state->period,
                      {dy, nullptr, nullptr, static_cast<float *>(run->outputs[1]), state->width,
                       state->period, state->rows / state->period, run->accumulate[1]});
}

lks_status embedding_grad_run(void *state_, const lks_kernel_run *run)
{
    const embedding_state *state = static_cast<const embedding_state *>(state_);
    if (state->type == LKS_BF16)
        embedding_grad_launch<lks_bf16>(state, run);
    else
        embedding_grad_launch<float>(state, run);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

} // namespace

extern "C" const lks_kernel_driver lks_cuda_kernel_embedding = {"embedding", embedding_prepare,
                                                                embedding_run, lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_embedding_grad = {
    "embedding_grad", embedding_grad_prepare, embedding_grad_run, lks_memory_free};
