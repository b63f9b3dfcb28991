/* embedding and its gradient. The gradient sorts the rows of the micro-batch by token (stable, least significant digit
 * first), so that the rows of a token stand side by side and in order, and cuts the sorted list into windows of equal length:
 * within a window they are added one after the other, and what a token has in several windows in order of these.
 */
#include "kernels/cuda/cuda.cuh"

namespace
{

enum { THREADS = 256, WARPS = THREADS / 32 };
enum { DIGIT_BITS = 8, DIGITS = 1 << DIGIT_BITS, ROUNDS = 4, TILE = THREADS * ROUNDS };
enum { SCAN_THREADS = 1024, SCAN_WARPS = SCAN_THREADS / 32 };

struct embedding_state {
    lks_cuda_device *cuda;
    int64_t rows, period, vocabulary, width; /* period: T */
    lks_dtype type;
};

lks_status embedding_make(void **out, lks_device *device, const lks_kernel_spec *spec,
                          lks_dtype type, const lks_kernel_tensor *table)
{
    const lks_kernel_tensor *ids = &spec->inputs[0];
    int64_t count = lks_spec_elements(ids), vocabulary = table->shape.size[0];
    if (count > INT32_MAX || vocabulary > INT32_MAX)
        return lks_spec_refuse(spec, "at most %d ids and rows of the table", INT32_MAX);
    embedding_state *state;
    LKS_TRY(LKS_NEW(&state));
    *state = {lks_cuda_of(device),     count, lks_spec_columns(ids), vocabulary,
              lks_spec_columns(table), type};
    *out = state;
    return LKS_OK;
}

/* --- embedding --------------------------------------------------------------------------- */

template <typename T> struct embedding_arguments {
    const int32_t *ids;
    const T *table, *place;
    T *y;
    int64_t rows, period, vocabulary, width;
    lks_cuda_fault *fault;
};

/* A thread to 16 bytes where `Wide` (the width is a whole number of them), else to an element. Blocks: x: rows, y: columns. */
template <typename T, bool Wide>
static __global__ void __launch_bounds__(THREADS) embed(embedding_arguments<T> with)
{
    constexpr int SIZE = Wide ? (int)lks_vector<T>::SIZE : 1;
    int64_t row = (int64_t)blockIdx.x * blockDim.y + threadIdx.y;
    int64_t column = ((int64_t)blockIdx.y * blockDim.x + threadIdx.x) * SIZE;
    if (row >= with.rows || column >= with.width)
        return;
    int32_t id = with.ids[row];
    if (id < 0 || id >= with.vocabulary) {
        if (column == 0)
            lks_cuda_report(with.fault, LKS_CUDA_FAULT_ID, id, row, with.vocabulary);
        id = 0;
    }
    int64_t from = id * with.width + column, to = row * with.width + column;
    int64_t add = (uint32_t)row % (uint32_t)with.period * with.width + column;
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
    LKS_TRY(lks_shapes_expect_embedding(spec, &type));
    return embedding_make(out, device, spec, type, &spec->inputs[1]);
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
    int64_t each = wide ? state->width / lks_vector<T>::SIZE : state->width;
    int64_t columns = each < THREADS ? (each + 31) / 32 * 32 : (int64_t)THREADS;
    int64_t rows = THREADS / columns;
    LKS_LAUNCH(kernel,
               dim3((unsigned)((state->rows + rows - 1) / rows),
                    (unsigned)((each + columns - 1) / columns)),
               dim3((unsigned)columns, (unsigned)rows), 0, state->cuda->stream, with);
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
    token_list from, to; /* from.rows NULL: as the micro-batch has them */
    int32_t *counts; /* [DIGITS, tiles]: of a digit in a tile; then where the first of them goes */
    int rows, shift, vocabulary;
    lks_cuda_fault *fault;
};

/* An id that is none is sorted behind all others. */
static __device__ __forceinline__ int32_t token_at(const sort_arguments &with, int at, bool report)
{
    int32_t id = with.from.ids[at];
    if (with.from.rows || (id >= 0 && id < with.vocabulary))
        return id;
    if (report)
        lks_cuda_report(with.fault, LKS_CUDA_FAULT_ID, id, at, with.vocabulary);
    return with.vocabulary;
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
        int digit = (int)DIGITS;
        if (at < with.rows)
            digit = token_at(with, at, total != nullptr) >> with.shift & (DIGITS - 1);
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

/* The sum of the lanes' up to this one. */
static __device__ __forceinline__ int32_t warp_scan(int32_t x)
{
    for (int offset = 1; offset < 32; offset *= 2) {
        int32_t before = __shfl_up_sync(0xffffffffu, x, offset);
        x += (int)threadIdx.x % 32 >= offset ? before : 0;
    }
    return x;
}

/* counts[i] becomes the sum of those before it; one block, each thread a run of them. */
static __global__ void __launch_bounds__(SCAN_THREADS) scan_counts(int32_t *counts, int count)
{
    __shared__ int32_t sums[32];
    int begin = (int)((int64_t)count * threadIdx.x / SCAN_THREADS);
    int end = (int)((int64_t)count * (threadIdx.x + 1) / SCAN_THREADS);
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    int32_t run = 0;
#pragma unroll 8
    for (int i = begin; i < end; ++i)
        run += counts[i];
    int32_t sum = warp_scan(run);
    if (lane == 31)
        sums[warp] = sum;
    __syncthreads();
    if (warp == 0)
        sums[lane] = warp_scan(lane < SCAN_WARPS ? sums[lane] : 0);
    __syncthreads();
    sum += (warp > 0 ? sums[warp - 1] : 0) - run;
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
        with.to.ids[to] = token_at(with, at, false);
        with.to.rows[to] = with.from.rows ? with.from.rows[at] : at;
    }
}

/* --- embedding_grad ---------------------------------------------------------------------- */

constexpr int SUM_THREADS = 192, WINDOW = 64,
              AHEAD = 8; /* AHEAD: rows whose loads are under way at once */

template <typename T> struct sum_arguments {
    const T *dy;
    token_list sorted;
    float *out;
    float *
        edges; /* [windows, 2, width]: sum of the token that the window before has too; of one that only the next has too */
    int rows, vocabulary;
    int64_t width, period;
    bool accumulate;
};

/* Size elements, as they lie in memory. */
template <typename T, int Size>
static __device__ __forceinline__ lks_pack<T, Size> load_pack(const T *from)
{
    return *reinterpret_cast<const lks_pack<T, Size> *>(from);
}

/* A window's tokens with one neighbour on each side (-1: none), and its rows. */
struct token_window {
    int32_t ids[WINDOW + 2], rows[WINDOW];
    int count;

    __device__ __forceinline__ int32_t id(int at) const { return ids[at + 1]; }
    __device__ __forceinline__ bool is_last(int at) const { return id(at) != id(at + 1); }
    /* No other window has the token. */
    __device__ __forceinline__ bool is_whole(int at) const
    {
        return id(at) != id(-1) && id(at) != id(count);
    }
};

static __device__ __forceinline__ void load_window(const token_list &sorted, int rows,
                                                   token_window &window)
{
    int first = (int)blockIdx.x * WINDOW, count = min(WINDOW, rows - first);
    for (int i = (int)threadIdx.x; i < count + 2; i += (int)blockDim.x) {
        int at = first + i - 1;
        window.ids[i] = at >= 0 && at < rows ? sorted.ids[at] : -1;
        if (i < count)
            window.rows[i] = sorted.rows[first + i];
    }
    if (threadIdx.x == 0)
        window.count = count;
    __syncthreads();
}

/* Stores what a token has in this window, whose last row is `at`, to where it belongs. */
template <typename T, int Size>
static __device__ __forceinline__ void
store_token(const sum_arguments<T> &with, const token_window &window, int at, int64_t column,
            const lks_values<Size> &before, lks_values<Size> sum)
{
    float *edges = with.edges + (int64_t)blockIdx.x * 2 * with.width;
    if (!window.is_whole(at)) {
        int64_t part = window.id(at) == window.id(-1) ? 0 : with.width;
        lks_store_values<Size>(edges, part + column, sum);
        return;
    }
#pragma unroll
    for (int i = 0; i < Size; ++i)
        sum.x[i] += before.x[i];
    if (window.id(at) < with.vocabulary)
        lks_store_values<Size>(with.out, window.id(at) * with.width + column, sum);
}

/* A block to a window, Size columns to a thread. */
template <typename T, int Size>
static __global__ void __launch_bounds__(SUM_THREADS, 3) sum_windows(sum_arguments<T> with)
{
    __shared__ token_window window;
    load_window(with.sorted, with.rows, window);
    const int count = window.count;
    for (int64_t column = (int64_t)threadIdx.x * Size; column < with.width;
         column += (int64_t)blockDim.x * Size) {
        lks_values<Size> sum = {};
        for (int first = 0; first < count; first += AHEAD) {
            lks_pack<T, Size> x[AHEAD];
            lks_values<Size> before[AHEAD] = {};
#pragma unroll
            for (int j = 0; j < AHEAD; ++j) {
                int at = first + j;
                if (at >= count)
                    continue;
                x[j] = load_pack<T, Size>(with.dy + window.rows[at] * with.width + column);
                if (with.accumulate && window.is_last(at) && window.is_whole(at) &&
                    window.id(at) < with.vocabulary)
                    before[j] =
                        lks_load_values<Size>(with.out, window.id(at) * with.width + column);
            }
#pragma unroll
            for (int j = 0; j < AHEAD; ++j) {
                int at = first + j;
                if (at >= count)
                    continue;
#pragma unroll
                for (int i = 0; i < Size; ++i)
                    sum.x[i] += lks_load(x[j].x, i);
                if (window.is_last(at) || at + 1 == count) {
                    store_token(with, window, at, column, before[j], sum);
                    sum = {};
                }
            }
        }
    }
}

/* How many windows from `window` on begin with token `id`; the same in all lanes of the warp. */
static __device__ __forceinline__ int count_windows(const token_list &sorted, int rows, int window,
                                                    int32_t id)
{
    for (int count = 0;; count += 32) {
        int64_t at = (int64_t)(window + count + (int)threadIdx.x % 32) * WINDOW;
        unsigned others = __ballot_sync(0xffffffffu, at >= rows || sorted.ids[at] != id);
        if (others)
            return count + __popc((others - 1) & ~others);
    }
}

/* A block to a window: the token that begins in it and goes on in the next. */
template <int Size>
static __global__ void __launch_bounds__(SUM_THREADS)
    join_windows(token_list sorted, int rows, int vocabulary, const float *edges, int64_t width,
                 float *out, bool accumulate)
{
    int first = (int)blockIdx.x * WINDOW, end = first + WINDOW;
    if (end >= rows)
        return;
    int32_t id = sorted.ids[end];
    if (id != sorted.ids[end - 1] || id >= vocabulary || (first > 0 && id == sorted.ids[first - 1]))
        return;
    int more = count_windows(sorted, rows, (int)blockIdx.x + 1, id);
    for (int64_t column = (int64_t)threadIdx.x * Size; column < width;
         column += (int64_t)blockDim.x * Size) {
        const float *next = edges + ((int64_t)blockIdx.x + 1) * 2 * width + column;
        lks_values<Size> sum = lks_load_values<Size>(next - width, 0), before = {};
        if (accumulate)
            before = lks_load_values<Size>(out, id * width + column);
#pragma unroll 8
        for (int i = 0; i < more; ++i) {
            lks_values<Size> x = lks_load_values<Size>(next, i * 2 * width);
#pragma unroll
            for (int k = 0; k < Size; ++k)
                sum.x[k] += x.x[k];
        }
#pragma unroll
        for (int k = 0; k < Size; ++k)
            sum.x[k] += before.x[k];
        lks_store_values<Size>(out, id * width + column, sum);
    }
}

/* out[p] (+)= the sum of rows p, p + period, ..., one after the other. */
template <typename T, int Size>
static __global__ void __launch_bounds__(SUM_THREADS) sum_places(sum_arguments<T> with)
{
    for (int64_t column = (int64_t)threadIdx.x * Size; column < with.width;
         column += (int64_t)blockDim.x * Size) {
        int64_t to = blockIdx.x * with.width + column;
        lks_values<Size> sum = {};
        if (with.accumulate)
            sum = lks_load_values<Size>(with.out, to);
        const int64_t step = AHEAD * with.period;
        for (int64_t first = blockIdx.x; first < with.rows; first += step) {
            lks_pack<T, Size> x[AHEAD];
#pragma unroll
            for (int j = 0; j < AHEAD; ++j)
                if (first + j * with.period < with.rows)
                    x[j] = load_pack<T, Size>(with.dy + (first + j * with.period) * with.width +
                                              column);
#pragma unroll
            for (int j = 0; j < AHEAD; ++j)
                if (first + j * with.period < with.rows)
#pragma unroll
                    for (int i = 0; i < Size; ++i)
                        sum.x[i] += lks_load(x[j].x, i);
        }
        lks_store_values<Size>(with.out, to, sum);
    }
}

struct grad_workspace {
    token_list lists[2];
    int32_t *counts;
    float *edges;
    size_t bytes;
};

int tiles_of(const embedding_state *state)
{
    return (int)((state->rows + TILE - 1) / TILE);
}

int windows_of(const embedding_state *state)
{
    return (int)((state->rows + WINDOW - 1) / WINDOW);
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
    out.edges = reinterpret_cast<float *>(take((int64_t)windows_of(state) * 2 * state->width));
    return out;
}

lks_status embedding_grad_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                  size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_shapes_expect_embedding_grad(spec, &type));
    LKS_TRY(embedding_make(out, device, spec, type, &spec->outputs[0]));
    *workspace = cut_workspace(static_cast<embedding_state *>(*out), nullptr).bytes;
    return LKS_OK;
}

/* Returns the sorted list. */
token_list sort_tokens(const embedding_state *state, const int32_t *ids,
                       const grad_workspace *workspace)
{
    cudaStream_t stream = state->cuda->stream;
    int tiles = tiles_of(state), to = 0;
    token_list from = {const_cast<int32_t *>(ids), nullptr};
    for (int shift = 0; state->vocabulary >> shift > 0; shift += DIGIT_BITS, to ^= 1) {
        sort_arguments with = {from,  workspace->lists[to],   workspace->counts, (int)state->rows,
                               shift, (int)state->vocabulary, state->cuda->fault};
        LKS_LAUNCH(count_digits, dim3((unsigned)tiles), dim3(THREADS), 0, stream, with);
        LKS_LAUNCH(scan_counts, dim3(1), dim3(SCAN_THREADS), 0, stream, with.counts,
                   DIGITS * tiles);
        LKS_LAUNCH(scatter_digits, dim3((unsigned)tiles), dim3(THREADS), 0, stream, with);
        from = with.to;
    }
    return from;
}

/* Threads of a block that has Size columns to a thread. */
template <int Size> dim3 threads_of(const embedding_state *state)
{
    int64_t threads = (state->width / Size + 31) / 32 * 32;
    return dim3((unsigned)(threads < SUM_THREADS ? threads : (int64_t)SUM_THREADS));
}

template <typename T, int Size>
void sum_launch(const embedding_state *state, const lks_kernel_run *run,
                const grad_workspace &workspace, sum_arguments<T> with)
{
    cudaStream_t stream = state->cuda->stream;
    dim3 threads = threads_of<Size>(state), windows((unsigned)windows_of(state));
    auto sum = sum_windows<T, Size>;
    auto places = sum_places<T, Size>;
    LKS_LAUNCH(sum, windows, threads, 0, stream, with);
    LKS_LAUNCH(join_windows<Size>, windows, threads, 0, stream, with.sorted, with.rows,
               with.vocabulary, workspace.edges, with.width, with.out, with.accumulate);
    if (!run->outputs[1])
        return;
    with.out = static_cast<float *>(run->outputs[1]);
    with.accumulate = run->accumulate[1];
    LKS_LAUNCH(places, dim3((unsigned)state->period), threads, 0, stream, with);
}

template <typename T>
lks_status embedding_grad_launch(const embedding_state *state, const lks_kernel_run *run)
{
    grad_workspace workspace = cut_workspace(state, run->workspace);
    sum_arguments<T> with = {
        static_cast<const T *>(run->inputs[1]),
        sort_tokens(state, static_cast<const int32_t *>(run->inputs[0]), &workspace),
        static_cast<float *>(run->outputs[0]),
        workspace.edges,
        (int)state->rows,
        (int)state->vocabulary,
        state->width,
        state->period,
        run->accumulate[0]};
    if (!with.accumulate) /* tokens that do not occur */
        LKS_CUDA(cudaMemsetAsync(with.out, 0,
                                 (size_t)(state->vocabulary * state->width) * sizeof(float),
                                 state->cuda->stream));
    if (state->width % 4 == 0)
        sum_launch<T, 4>(state, run, workspace, with);
    else
        sum_launch<T, 1>(state, run, workspace, with);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

lks_status embedding_grad_run(void *state_, const lks_kernel_run *run)
{
    const embedding_state *state = static_cast<const embedding_state *>(state_);
    return LKS_BY_TYPE(state->type, embedding_grad_launch)(state, run);
}

} // namespace

extern "C" const lks_kernel_driver lks_cuda_kernel_embedding = {"embedding", embedding_prepare,
                                                                embedding_run, lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_embedding_grad = {
    "embedding_grad", embedding_grad_prepare, embedding_grad_run, lks_memory_free};
