/* Flat arrays: the lane tree, addition, rounding, optimizer updates.
 *
 * Every operation is spelled with its rounding, so that the compiler contracts nothing: an element's bits do not depend
 * on where in a call it stands, and are those of the cpu device's f32 where that has fused multiply-add.
 */
#include "kernels/cuda/flat.h"
#include "kernels/cuda/sums.cuh"

#define LKS_TOTALS_QUALIFIER __host__ __device__
#include "kernels/totals.h"

enum {
    FLAT_THREADS = 256,
    SUM_THREADS = 512,
    SUM_FEW = 16, /* partial sums whose tree is kept in registers four elements wide */
    SUM_FEW_DEPTH = 6,
    SUM_MANY = 2048,
    SUM_DEPTH = 32,
    TOTAL_CHUNK = 1024, /* numbers brought to shared memory at a time */
    UPDATE_PARTS = 4,   /* blocks of threads that share a block of the layout */
};

/* --- The lane tree ---------------------------------------------------------------- */

/* The tree as a program for a stack: push leaf i, then add the topmost two merges[i] times. Fits in
 * a launch's 32,764 bytes of arguments. */
template <int Leaves> struct sum_program {
    uintptr_t leaf[Leaves]; /* where element 0 of the flat array would be */
    uint8_t merges[Leaves];
    int leaves;
};

typedef struct sum_walk {
    const lks_partial *next;
    int leaves, depth, deepest;
    uint8_t *merges;
} sum_walk;

static void sum_write(sum_walk *walk, int first, int end)
{
    if (walk->next->first_lane == first && walk->next->end_lane == end) {
        ++walk->next;
        walk->merges[walk->leaves++] = 0;
        if (++walk->depth > walk->deepest)
            walk->deepest = walk->depth;
        return;
    }
    int middle = lks_tree_split(first, end);
    sum_write(walk, first, middle);
    sum_write(walk, middle, end);
    ++walk->merges[walk->leaves - 1];
    --walk->depth;
}

/* The deepest that its stack becomes. */
template <int Leaves> static int sum_plan(sum_program<Leaves> *program, const lks_sum *sum)
{
    sum_walk walk = {sum->partials, 0, 0, 0, program->merges};
    sum_write(&walk, 0, sum->lanes);
    for (int i = 0; i < sum->partial_count; ++i)
        program->leaf[i] =
            (uintptr_t)sum->partials[i].data - sum->partials[i].origin * sizeof(float);
    program->leaves = sum->partial_count;
    return walk.deepest;
}

/* Elements [at, at + Width) of the sum. The stack is in registers: a constant index in each unrolled
 * line, of which one is taken. */
template <int Width, int Depth, int Leaves>
static __device__ __forceinline__ lks_values<Width> sum_evaluate(const sum_program<Leaves> &program,
                                                                 int64_t at)
{
    lks_values<Width> stack[Depth];
    int height = 0;
    for (int leaf = 0; leaf < program.leaves; ++leaf) {
        lks_values<Width> top =
            lks_load_values<Width>(reinterpret_cast<const float *>(program.leaf[leaf]), at);
        for (int merge = program.merges[leaf]; merge > 0; --merge) {
            --height;
#pragma unroll
            for (int d = 0; d < Depth; ++d)
#pragma unroll
                for (int i = 0; i < Width; ++i)
                    if (d == height)
                        top.x[i] = __fadd_rn(stack[d].x[i], top.x[i]);
        }
#pragma unroll
        for (int d = 0; d < Depth; ++d)
            if (d == height)
                stack[d] = top;
        ++height;
    }
    return stack[0];
}

/* One block of threads per block of the layout. Thread t has elements 4 (t + SUM_THREADS j) and the three after, and adds
 * their squares in that order whatever Width is: the partial sums differ with the number of
 * ranks, the norm may not. */
template <int Width, int Depth, int Leaves>
static __global__ void __launch_bounds__(SUM_THREADS)
    sum_kernel(sum_program<Leaves> program, const lks_layout_block *blocks, float *out,
               double *square_sums)
{
    const bool in_place = program.leaves == 1 && program.leaf[0] == (uintptr_t)out;
    LKS_DYNAMIC_SHARED(double, parts); /* [SUM_THREADS / 32] */
    const int64_t first = (int64_t)blocks[blockIdx.x].offset;
    const int64_t end = first + blocks[blockIdx.x].elements;
    double squares = 0;
    for (int64_t four = first + 4 * (int64_t)threadIdx.x; four < end; four += 4 * SUM_THREADS) {
        if (Width == 4 && four + 4 <= end) {
            const lks_values<4> v = sum_evaluate<4, Depth>(program, four);
            if (!in_place)
                lks_store_values<4>(out, four, v);
            for (int i = 0; i < 4; ++i)
                squares = __fma_rn((double)v.x[i], (double)v.x[i], squares);
            continue;
        }
        for (int64_t one = four; one < four + 4 && one < end; ++one) {
            const float v = sum_evaluate<1, Depth>(program, one).x[0];
            out[one] = v;
            squares = __fma_rn((double)v, (double)v, squares);
        }
    }
    squares = lks_block_sum<SUM_THREADS>(squares, parts);
    if (square_sums && threadIdx.x == 0)
        square_sums[blockIdx.x] = squares;
}

template <int Width, int Depth, int Leaves>
static lks_status sum_start(lks_cuda_device *cuda, const sum_program<Leaves> &program,
                            const lks_sum *sum)
{
    LKS_LAUNCH((sum_kernel<Width, Depth, Leaves>), sum->count, SUM_THREADS,
               SUM_THREADS / 32 * sizeof(double), cuda->stream, program, sum->blocks, sum->out,
               sum->square_sums);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

/* Whether four elements at a time may be read of all partial sums and written. */
static bool sum_is_aligned(const lks_sum *sum)
{
    uintptr_t bits = (uintptr_t)sum->out;
    for (int i = 0; i < sum->partial_count; ++i)
        bits |= (uintptr_t)sum->partials[i].data - sum->partials[i].origin * sizeof(float);
    for (uint32_t i = 0; i < sum->count; ++i)
        bits |= (uintptr_t)(sum->host_blocks[i].offset * sizeof(float));
    return bits % (4 * sizeof(float)) == 0;
}

lks_status lks_cuda_sum_blocks(void *instance, const lks_sum *sum)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    if (!sum->count)
        return LKS_OK;
    if (sum->partial_count > SUM_MANY)
        return LKS_FAIL(LKS_ERR_INTERNAL, "cuda: %d partial sums of one block, at most %d",
                        sum->partial_count, (int)SUM_MANY);
    if (sum->partial_count <= SUM_FEW && sum_is_aligned(sum)) {
        sum_program<SUM_FEW> few = {};
        if (sum_plan(&few, sum) <= SUM_FEW_DEPTH)
            return sum_start<4, SUM_FEW_DEPTH>(cuda, few, sum);
    }
    sum_program<SUM_MANY> many = {};
    (void)sum_plan(&many, sum);
    return sum_start<1, SUM_DEPTH>(cuda, many, sum);
}

/* --- Elementwise ------------------------------------------------------------------- */

/* Addresses may be those of any element, so fours need not be aligned: a launch of ones then. */
static bool flat_is_aligned(const void *a, const void *b, const void *c, const void *d)
{
    return (((uintptr_t)a | (uintptr_t)b | (uintptr_t)c | (uintptr_t)d) % (4 * sizeof(float))) == 0;
}

template <typename Body>
static __device__ __forceinline__ void flat_each(int64_t n, bool aligned, Body body)
{
    if (aligned) {
        lks_each(n, body);
        return;
    }
    const int64_t threads = (int64_t)gridDim.x * blockDim.x;
    for (int64_t one = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; one < n; one += threads)
        body(one, lks_count<1>());
}

static __global__ void add_kernel(int64_t n, bool aligned, const float *from, float *into)
{
    flat_each(n, aligned, [=](int64_t at, auto count) {
        constexpr int N = decltype(count)::value;
        const lks_values<N> more = lks_load_values<N>(from, at);
        lks_values<N> sum = lks_load_values<N>(into, at);
#pragma unroll
        for (int i = 0; i < N; ++i)
            sum.x[i] = __fadd_rn(sum.x[i], more.x[i]);
        lks_store_values<N>(into, at, sum);
    });
}

lks_status lks_cuda_add(void *instance, uint64_t elements, const float *from, float *into)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    const int64_t n = (int64_t)elements;
    if (!n)
        return LKS_OK;
    LKS_LAUNCH(add_kernel, lks_cuda_blocks(cuda, n / 4, FLAT_THREADS), FLAT_THREADS, 0,
               cuda->stream, n, flat_is_aligned(from, into, NULL, NULL), from, into);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static __global__ void round_kernel(int64_t n, bool aligned, const float *from, lks_bf16 *to)
{
    flat_each(n, aligned, [=](int64_t at, auto count) {
        constexpr int N = decltype(count)::value;
        lks_store_values<N>(to, at, lks_load_values<N>(from, at));
    });
}

lks_status lks_cuda_round(void *instance, uint64_t elements, const float *from, uint16_t *to)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    const int64_t n = (int64_t)elements;
    const bool aligned = flat_is_aligned(from, NULL, NULL, NULL) && (uintptr_t)to % 8 == 0;
    if (!n)
        return LKS_OK;
    LKS_LAUNCH(round_kernel, lks_cuda_blocks(cuda, n / 4, FLAT_THREADS), FLAT_THREADS, 0,
               cuda->stream, n, aligned, from, (lks_bf16 *)to);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

/* --- Updates ----------------------------------------------------------------------- */

/* What is the same for all elements; the names are those of kernels/cpu/cpu_flat.c. */
typedef struct update_terms {
    float scale, decay, lr, momentum, kept;
    bool nesterov;
    float b1, b2, coupled, shrink, rest1, rest2, step, correction2, epsilon;
} update_terms;

static update_terms update_prepare(const lks_update *u)
{
    update_terms t = {};
    t.scale = u->gradient_scale;
    t.decay = u->weight_decay;
    t.lr = u->lr;
    t.momentum = u->momentum;
    t.kept = u->first_step ? 0.0f : u->momentum;
    t.nesterov = u->nesterov;
    t.b1 = (float)u->beta1;
    t.b2 = (float)u->beta2;
    t.coupled = u->decoupled ? 0.0f : u->weight_decay;
    t.shrink = u->decoupled ? -(u->lr * u->weight_decay) : 0.0f;
    t.rest1 = (float)(1 - u->beta1);
    t.rest2 = (float)(1 - u->beta2);
    t.step = -(u->lr / u->correction1);
    t.correction2 = u->correction2;
    t.epsilon = u->epsilon;
    if (u->rule == LKS_UPDATE_AVERAGE)
        t.kept = 1.0f - u->momentum;
    return t;
}

/* Arrays from element 0, of states from element `origin`. */
typedef struct update_memory {
    const float *gradient;
    float *parameter, *state0, *state1;
    int64_t origin;
    const lks_totals *totals;
    bool aligned;
} update_memory;

typedef struct update_element {
    float g, p, state0, state1;
} update_element;

struct update_sgd {
    static constexpr int states = 0;
    static constexpr bool own_scale = false;
    static __device__ __forceinline__ void apply(const update_terms &t, update_element *e)
    {
        float g = __fmaf_rn(t.decay, e->p, __fmul_rn(t.scale, e->g));
        e->p = __fmaf_rn(-t.lr, g, e->p);
    }
};

struct update_momentum {
    static constexpr int states = 1;
    static constexpr bool own_scale = false;
    static __device__ __forceinline__ void apply(const update_terms &t, update_element *e)
    {
        float g = __fmaf_rn(t.decay, e->p, __fmul_rn(t.scale, e->g));
        float s = __fmaf_rn(t.kept, e->state0, g);
        float step = t.nesterov ? __fmaf_rn(t.momentum, s, g) : s;
        e->state0 = s;
        e->p = __fmaf_rn(-t.lr, step, e->p);
    }
};

struct update_adam {
    static constexpr int states = 2;
    static constexpr bool own_scale = false;
    static __device__ __forceinline__ void apply(const update_terms &t, update_element *e)
    {
        float g = __fmaf_rn(t.coupled, e->p, __fmul_rn(t.scale, e->g));
        float first = __fmaf_rn(t.b1, e->state0, __fmul_rn(t.rest1, g));
        float second = __fmaf_rn(t.b2, e->state1, __fmul_rn(__fmul_rn(t.rest2, g), g));
        float root = __fadd_rn(__fsqrt_rn(__fdiv_rn(second, t.correction2)), t.epsilon);
        e->state0 = first;
        e->state1 = second;
        e->p = __fmaf_rn(t.step, __fdiv_rn(first, root), __fmaf_rn(t.shrink, e->p, e->p));
    }
};

struct update_average {
    static constexpr int states = 0;
    static constexpr bool own_scale = true;
    static __device__ __forceinline__ void apply(const update_terms &t, update_element *e)
    {
        e->p = __fmaf_rn(t.kept, e->p, __fmul_rn(t.momentum, __fmul_rn(t.scale, e->g)));
    }
};

/* The N elements from `at`. */
template <typename Rule, int N>
static __device__ __forceinline__ void update_at(const update_terms &t, const update_memory &m,
                                                 int64_t at)
{
    const lks_values<N> g = lks_load_values<N>(m.gradient, at);
    lks_values<N> p = lks_load_values<N>(m.parameter, at), s0 = {}, s1 = {};
    if (Rule::states > 0)
        s0 = lks_load_values<N>(m.state0, at - m.origin);
    if (Rule::states > 1)
        s1 = lks_load_values<N>(m.state1, at - m.origin);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        update_element e = {g.x[i], p.x[i], s0.x[i], s1.x[i]};
        Rule::apply(t, &e);
        p.x[i] = e.p, s0.x[i] = e.state0, s1.x[i] = e.state1;
    }
    lks_store_values<N>(m.parameter, at, p);
    if (Rule::states > 0)
        lks_store_values<N>(m.state0, at - m.origin, s0);
    if (Rule::states > 1)
        lks_store_values<N>(m.state1, at - m.origin, s1);
}

/* Blocks of threads (b, 0..UPDATE_PARTS) share out the fours of block b. */
template <typename Rule>
static __global__ void __launch_bounds__(FLAT_THREADS)
    update_kernel(update_terms t, update_memory m, const lks_layout_block *blocks)
{
    if (m.totals) {
        if (!lks_totals_are_finite(m.totals))
            return;
        if (!Rule::own_scale)
            t.scale = m.totals->gradient_scale;
    }
    const int64_t first = (int64_t)blocks[blockIdx.x].offset;
    const int64_t end = first + blocks[blockIdx.x].elements;
    const int64_t thread = (int64_t)blockIdx.y * FLAT_THREADS + threadIdx.x;
    for (int64_t four = first + 4 * thread; four < end; four += 4 * UPDATE_PARTS * FLAT_THREADS) {
        if (m.aligned && four + 4 <= end) {
            update_at<Rule, 4>(t, m, four);
            continue;
        }
        for (int64_t one = four; one < four + 4 && one < end; ++one)
            update_at<Rule, 1>(t, m, one);
    }
}

/* Whether every block's fours are aligned in all arrays. */
static bool update_is_aligned(const lks_update_blocks *what)
{
    uintptr_t elements = (uintptr_t)what->origin;
    for (uint32_t i = 0; i < what->count; ++i)
        elements |= (uintptr_t)what->host_blocks[i].offset;
    return elements % 4 == 0 &&
           flat_is_aligned(what->gradient, what->parameter, what->states[0], what->states[1]);
}

template <typename Rule>
static lks_status update_start(lks_cuda_device *cuda, const lks_update *update,
                               const lks_update_blocks *what)
{
    const update_memory memory = {what->gradient,         what->parameter,       what->states[0],
                                  what->states[1],        (int64_t)what->origin, update->totals,
                                  update_is_aligned(what)};
    LKS_LAUNCH(update_kernel<Rule>, dim3(what->count, UPDATE_PARTS), FLAT_THREADS, 0, cuda->stream,
               update_prepare(update), memory, what->blocks);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

lks_status lks_cuda_update(void *instance, const lks_update *update, const lks_update_blocks *what)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    switch (update->rule) {
    case LKS_UPDATE_SGD:
        if (update->momentum == 0.0f)
            return update_start<update_sgd>(cuda, update, what);
        return update_start<update_momentum>(cuda, update, what);
    case LKS_UPDATE_ADAM:
        return update_start<update_adam>(cuda, update, what);
    case LKS_UPDATE_AVERAGE:
        return update_start<update_average>(cuda, update, what);
    }
    return LKS_FAIL(LKS_ERR_INTERNAL, "update rule %d is unknown", (int)update->rule);
}

/* --- The numbers of a step ----------------------------------------------------------- */

static __global__ void sum_stats_kernel(uint32_t numbers, uint32_t micro_batches,
                                        const double *stats, double *sums)
{
    const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < numbers)
        sums[i] = lks_totals_stat(stats, micro_batches, i / LKS_STATS, i % LKS_STATS);
}

lks_status lks_cuda_sum_stats(void *instance, uint32_t lanes, uint32_t micro_batches,
                              const double *stats, double *sums)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    const uint32_t numbers = lanes * LKS_STATS;
    if (!numbers)
        return LKS_OK;
    LKS_LAUNCH(sum_stats_kernel, (numbers + FLAT_THREADS - 1) / FLAT_THREADS, FLAT_THREADS, 0,
               cuda->stream, numbers, micro_batches, stats, sums);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

/* All threads bring [at, at + TOTAL_CHUNK) of `count` numbers to shared memory, 0 where they do not count. */
static __device__ __forceinline__ void total_fetch(const double *from, const uint8_t *counted,
                                                   uint32_t at, uint32_t count, double *chunk)
{
    __syncthreads(); /* the chunk before is added up */
    for (uint32_t i = threadIdx.x; i < TOTAL_CHUNK && at + i < count; i += blockDim.x)
        chunk[i] = !counted || counted[at + i] ? from[at + i] : 0;
    __syncthreads();
}

/* One block of threads: the first adds, in order, what all bring. */
static __global__ void __launch_bounds__(FLAT_THREADS)
    total_kernel(lks_totals_spec spec, lks_totals *out)
{
    LKS_DYNAMIC_SHARED(double, chunk); /* [TOTAL_CHUNK] */
    lks_totals totals = lks_totals_none();
    for (uint32_t lane = 0; threadIdx.x == 0 && lane < spec.lanes; ++lane)
        lks_totals_add_lane(&totals, spec.lane_sums + (size_t)lane * LKS_STATS, lane);
    for (uint32_t at = 0; at < spec.blocks; at += TOTAL_CHUNK) {
        total_fetch(spec.square_sums, spec.counted, at, spec.blocks, chunk);
        for (uint32_t i = 0; threadIdx.x == 0 && i < TOTAL_CHUNK && at + i < spec.blocks; ++i)
            lks_totals_add_block(&totals, chunk[i], at + i);
    }
    if (threadIdx.x == 0) {
        lks_totals_finish(&totals, spec.clip_norm);
        *out = totals;
    }
}

lks_status lks_cuda_total(void *instance, const lks_totals_spec *spec, lks_totals *out)
{
    lks_cuda_device *cuda = (lks_cuda_device *)instance;
    LKS_LAUNCH(total_kernel, 1, FLAT_THREADS, TOTAL_CHUNK * sizeof(double), cuda->stream, *spec,
               out);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}
