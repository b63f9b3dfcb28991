/* "conv2d" and its two gradients: products of matrices whose elements are read from the images as they lie. Tiles go
 * through shared memory, two at a time; bf16 is multiplied by tensor cores, f32 by ordinary ones. Every
 * sum runs over k in order; a gradient of weights in splits whose number follows from the shape. */
#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/conv2d.cuh"

enum {
    CONV_TILE = 64, /* rows and columns of a block's part of the result */
    CONV_THREADS = 128,
    CONV_TILE_BYTES = 64, /* of k's */
    CONV_BLOCKS = 512,    /* that a gradient of weights is split for */
    CONV_SPLIT_MOST = 4096,
};

typedef struct conv_state {
    lks_cuda_device *cuda;
    lks_conv2d_pass pass;
    conv_view view;
    conv_sizes size;
    lks_dtype type;
    bool wide; /* channels come in whole 16 bytes */
    bool bias;
    int64_t weights, pixels; /* elements of w; pixels of y */
    size_t partial_bytes;    /* of the splits' sums, at the beginning of the workspace */
} conv_state;

/* --- Preparing ------------------------------------------------------------------------- */

static conv_view conv_look(const lks_conv2d_tensors *t, const lks_conv2d_attributes *a)
{
    const int64_t *x = t->x->shape.size, *w = t->w->shape.size, *y = t->y->shape.size;
    return {(int)x[1], (int)x[2], (int)y[1], (int)y[2],
            (int)x[3], (int)w[0], (int)w[3], (int)(w[0] / a->groups),
            (int)w[1], (int)w[2], a->stride, a->padding,
            a->groups};
}

static int64_t conv_tiles(int64_t n)
{
    return (n + CONV_TILE - 1) / CONV_TILE;
}

/* As many splits as fill a large device, and no more than CONV_SPLIT_MOST k's in one. */
static void conv_split(conv_sizes *size, int groups)
{
    const int64_t tiles = conv_tiles(size->rows) * conv_tiles(size->columns) * groups;
    const int64_t depth = size->depth, least = (depth + CONV_SPLIT_MOST - 1) / CONV_SPLIT_MOST;
    int64_t splits = tiles < CONV_BLOCKS ? CONV_BLOCKS / tiles : 1;
    const int64_t most = (depth + 255) / 256;
    splits = splits < most ? splits : most;
    splits = splits > least ? splits : least;
    size->split_length = (int)lks_round_up((size_t)((depth + splits - 1) / splits), 32);
    size->splits = (int)((depth + size->split_length - 1) / size->split_length);
}

/* rows, columns, depth of one group's product. */
static lks_status conv_measure(conv_state *s, const lks_kernel_spec *spec,
                               const lks_conv2d_tensors *t)
{
    const conv_view *v = &s->view;
    const int64_t in_pixels = t->x->shape.size[0] * v->height * v->width;
    const int64_t filter = (int64_t)v->filter_h * v->filter_w;
    int64_t rows = s->pixels, columns = v->group_outputs, depth = filter * v->group_inputs;
    if (s->pass == LKS_CONV2D_GRAD_INPUT)
        rows = in_pixels, columns = v->group_inputs, depth = filter * v->group_outputs;
    if (s->pass == LKS_CONV2D_GRAD_WEIGHT)
        rows = v->group_outputs, columns = filter * v->group_inputs, depth = s->pixels;
    s->size = {(int)rows, (int)columns, (int)depth, 1, (int)depth};
    if (s->pass == LKS_CONV2D_GRAD_WEIGHT && depth < INT32_MAX - CONV_SPLIT_MOST)
        conv_split(&s->size, v->groups);
    const int64_t blocks = conv_tiles(rows) * conv_tiles(columns) * v->groups * s->size.splits;
    const int64_t most = INT32_MAX - CONV_SPLIT_MOST;
    if (rows > most || columns > most || depth > most || blocks > most)
        return lks_spec_refuse(spec, "%lld x %lld x %lld is too large a product in one call",
                               (long long)rows, (long long)columns, (long long)depth);
    return LKS_OK;
}

static size_t conv_workspace(conv_state *s)
{
    if (s->pass != LKS_CONV2D_GRAD_WEIGHT)
        return 0;
    if (s->size.splits > 1)
        s->partial_bytes =
            lks_round_up((size_t)s->size.splits * s->weights * sizeof(float), LKS_ALIGNMENT);
    if (!s->bias)
        return s->partial_bytes;
    const int64_t sums = s->type == LKS_F32
                             ? lks_columns_workspace<float>(s->pixels, s->view.outputs)
                             : lks_columns_workspace<lks_bf16>(s->pixels, s->view.outputs);
    return s->partial_bytes + (size_t)sums * sizeof(float);
}

static lks_status conv_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                               size_t *workspace, lks_conv2d_pass pass)
{
    lks_conv2d_tensors t;
    lks_dtype type;
    LKS_TRY(lks_shapes_expect_conv2d(spec, pass, &t, &type));
    conv_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->pass = pass;
    s->type = type;
    s->view = conv_look(&t, (const lks_conv2d_attributes *)spec->attributes);
    const int vector = (int)(16 / lks_dtype_bytes(type));
    s->wide = s->view.group_inputs % vector == 0 && s->view.group_outputs % vector == 0;
    s->bias = lks_spec_present(t.b);
    s->weights = lks_spec_elements(t.w);
    s->pixels = lks_spec_rows(t.y);
    lks_status status = conv_measure(s, spec, &t);
    if (status != LKS_OK) {
        lks_memory_free(s);
        return status;
    }
    *workspace = conv_workspace(s);
    *state = s;
    return LKS_OK;
}

static lks_status conv_forward_prepare(void **state, lks_device *device,
                                       const lks_kernel_spec *spec, size_t *workspace)
{
    return conv_prepare(state, device, spec, workspace, LKS_CONV2D_FORWARD);
}

static lks_status conv_input_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                     size_t *workspace)
{
    return conv_prepare(state, device, spec, workspace, LKS_CONV2D_GRAD_INPUT);
}

static lks_status conv_weight_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                      size_t *workspace)
{
    return conv_prepare(state, device, spec, workspace, LKS_CONV2D_GRAD_WEIGHT);
}

/* --- Tiles in shared memory -------------------------------------------------------------- */

/* A tile of 64 rows (or columns) by DEPTH k's, laid out along k ([64][DEPTH]) or not ([DEPTH][64]), with 16 bytes between
 * lines. Thread t brings Vector elements at a time: `slot` says which. */
template <typename T, bool AlongK, int Vector> struct conv_tile {
    static constexpr int DEPTH = CONV_TILE_BYTES / (int)sizeof(T);
    static constexpr int PITCH = (AlongK ? DEPTH : (int)CONV_TILE) + 16 / (int)sizeof(T);
    static constexpr int ELEMENTS = PITCH * (AlongK ? (int)CONV_TILE : DEPTH);
    static constexpr int SLOTS = CONV_TILE * DEPTH / Vector / CONV_THREADS;
    static constexpr int PLACES = AlongK && Vector > 1 ? SLOTS : 1; /* different rows */

    static __device__ __forceinline__ int at(int i, int k)
    {
        return AlongK ? i * PITCH + k : k * PITCH + i;
    }
    static __device__ __forceinline__ int slot_i(int slot)
    {
        const int t = (int)threadIdx.x;
        if (Vector == 1)
            return t % CONV_TILE;
        if (AlongK)
            return t / (DEPTH / Vector) + slot * (CONV_THREADS * Vector / DEPTH);
        return t % (CONV_TILE / Vector) * Vector;
    }
    static __device__ __forceinline__ int slot_k(int slot)
    {
        const int t = (int)threadIdx.x;
        if (Vector == 1)
            return t / CONV_TILE + slot * (CONV_THREADS / CONV_TILE);
        if (AlongK)
            return t % (DEPTH / Vector) * Vector;
        return t / (CONV_TILE / Vector) + slot * (CONV_THREADS * Vector / CONV_TILE);
    }
};

/* One slot's elements, zeros where `from` is NULL. */
template <int Vector, typename T>
static __device__ __forceinline__ void conv_bring(T *to, const T *from, const T *anywhere)
{
    if (Vector > 1)
        lks_copy16(to, from ? from : anywhere, from != NULL);
    else if (from)
        *to = *from;
    else
        lks_store(to, 0, 0.0f);
}

/* --- Multiplying ------------------------------------------------------------------------- */

/* f32: thread t has rows 8 (t / 16) and on, columns t mod 16 and every 16th after. */
template <bool LeftAlongK, bool RightAlongK> struct conv_product_f32 {
    float sum[8][4];

    __device__ __forceinline__ void multiply(const float *left, const float *right)
    {
        using L = conv_tile<float, LeftAlongK, 1>;
        using R = conv_tile<float, RightAlongK, 1>;
        const int row = (int)threadIdx.x / 16 * 8, column = (int)threadIdx.x % 16;
#pragma unroll
        for (int k = 0; k < L::DEPTH; ++k) {
            float a[8], b[4];
#pragma unroll
            for (int i = 0; i < 8; ++i)
                a[i] = left[L::at(row + i, k)];
#pragma unroll
            for (int j = 0; j < 4; ++j)
                b[j] = right[R::at(column + 16 * j, k)];
#pragma unroll
            for (int i = 0; i < 8; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    sum[i][j] = __fmaf_rn(a[i], b[j], sum[i][j]);
        }
    }
    template <typename Store> __device__ __forceinline__ void store(Store store) const
    {
        const int row = (int)threadIdx.x / 16 * 8, column = (int)threadIdx.x % 16;
#pragma unroll
        for (int i = 0; i < 8; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
                store(row + i, column + 16 * j, sum[i][j]);
    }
};

/* bf16: four warps, two by two, each with 32 x 32 of the result: 2 x 4 of lks_mma_bf16's. */
template <bool LeftAlongK, bool RightAlongK> struct conv_product_bf16 {
    float sum[2][4][4];

    /* The 16 x 16 of the left factor at (row, k). Lane i gives line i mod 8 of matrix i / 8. */
    static __device__ __forceinline__ void load_left(uint32_t a[4], const lks_bf16 *tile, int row,
                                                     int k)
    {
        using L = conv_tile<lks_bf16, LeftAlongK, 1>;
        const int lane = (int)threadIdx.x % 32, matrix = lane / 8, line = lane % 8;
        row += matrix % 2 * 8, k += matrix / 2 * 8;
        if (LeftAlongK)
            lks_load_matrices(a, &tile[L::at(row + line, k)]);
        else
            lks_load_matrices_transposed(a, &tile[L::at(row, k + line)]);
    }
    /* Two 16 x 8 of the right factor at (k, column): b[0], b[1] and b[2], b[3]. */
    static __device__ __forceinline__ void load_right(uint32_t b[4], const lks_bf16 *tile,
                                                      int column, int k)
    {
        using R = conv_tile<lks_bf16, RightAlongK, 1>;
        const int lane = (int)threadIdx.x % 32, matrix = lane / 8, line = lane % 8;
        column += matrix / 2 * 8, k += matrix % 2 * 8;
        if (RightAlongK)
            lks_load_matrices(b, &tile[R::at(column + line, k)]);
        else
            lks_load_matrices_transposed(b, &tile[R::at(column, k + line)]);
    }
    __device__ __forceinline__ void multiply(const lks_bf16 *left, const lks_bf16 *right)
    {
        const int warp = (int)threadIdx.x / 32, row = warp / 2 * 32, column = warp % 2 * 32;
#pragma unroll
        for (int k = 0; k < conv_tile<lks_bf16, true, 1>::DEPTH; k += 16) {
            uint32_t a[2][4], b[2][4];
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                load_left(a[i], left, row + 16 * i, k);
                load_right(b[i], right, column + 16 * i, k);
            }
#pragma unroll
            for (int i = 0; i < 2; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j)
                    lks_mma_bf16(sum[i][j], a[i], &b[j / 2][j % 2 * 2]);
        }
    }
    template <typename Store> __device__ __forceinline__ void store(Store store) const
    {
        const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
        const int row = warp / 2 * 32 + lane / 4, column = warp % 2 * 32 + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < 2; ++i)
#pragma unroll
            for (int j = 0; j < 4; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    store(row + 16 * i + e / 2 * 8, column + 8 * j + e % 2, sum[i][j][e]);
    }
};

template <typename T, bool LeftAlongK, bool RightAlongK> struct conv_product;
template <bool L, bool R> struct conv_product<float, L, R> : conv_product_f32<L, R> {
};
template <bool L, bool R> struct conv_product<lks_bf16, L, R> : conv_product_bf16<L, R> {
};

/* --- The kernel -------------------------------------------------------------------------- */

template <typename T, int Vector, typename Pass>
static __global__ void __launch_bounds__(CONV_THREADS) conv_kernel(Pass pass)
{
    using Left = conv_tile<T, Pass::left_along_k, Vector>;
    using Right = conv_tile<T, Pass::right_along_k, Vector>;
    LKS_DYNAMIC_SHARED(T, tiles); /* two of each: one is multiplied while the other is brought */
    T *left = tiles, *right = tiles + 2 * Left::ELEMENTS;
    const int down = (pass.size.rows + CONV_TILE - 1) / CONV_TILE;
    const int across = (pass.size.columns + CONV_TILE - 1) / CONV_TILE;
    int index = (int)blockIdx.x;
    const int first_column = index % across * CONV_TILE;
    index /= across;
    const int first_row = index % down * CONV_TILE;
    index /= down;
    const int group = index % pass.v.groups, split = index / pass.v.groups;
    const int begin = split * pass.size.split_length;
    const int end = min(begin + pass.size.split_length, pass.size.depth);

    conv_place left_places[Left::PLACES], right_places[Right::PLACES];
#pragma unroll
    for (int i = 0; i < Left::PLACES; ++i)
        left_places[i] = pass.left_place(group, first_row + Left::slot_i(i));
#pragma unroll
    for (int i = 0; i < Right::PLACES; ++i)
        right_places[i] = pass.right_place(group, first_column + Right::slot_i(i));

    auto bring = [&](int stage, int first_k) {
#pragma unroll 2
        for (int slot = 0; slot < Left::SLOTS; ++slot) {
            const int i = Left::slot_i(slot), k = Left::slot_k(slot);
            const conv_place &place = left_places[Left::PLACES > 1 ? slot : 0];
            const T *from = NULL;
            if (place.valid && first_k + k < end)
                from = pass.left(place, group, first_k + k);
            conv_bring<Vector>(&left[stage * Left::ELEMENTS + Left::at(i, k)], from,
                               pass.left_memory());
        }
#pragma unroll 2
        for (int slot = 0; slot < Right::SLOTS; ++slot) {
            const int i = Right::slot_i(slot), k = Right::slot_k(slot);
            const conv_place &place = right_places[Right::PLACES > 1 ? slot : 0];
            const T *from = NULL;
            if (place.valid && first_k + k < end)
                from = pass.right(place, group, first_k + k);
            conv_bring<Vector>(&right[stage * Right::ELEMENTS + Right::at(i, k)], from,
                               pass.right_memory());
        }
        lks_copy_commit();
    };

    conv_product<T, Pass::left_along_k, Pass::right_along_k> product = {};
    bring(0, begin);
    for (int k = begin, stage = 0; k < end; k += Left::DEPTH, stage ^= 1) {
        bring(stage ^ 1, k + Left::DEPTH);
        lks_copy_wait<1>();
        __syncthreads();
        product.multiply(left + stage * Left::ELEMENTS, right + stage * Right::ELEMENTS);
        __syncthreads();
    }
    lks_copy_wait<0>(); /* the last stage's, which nobody reads: none may outlive the block */
    product.store([&](int row, int column, float sum) {
        if (first_row + row < pass.size.rows && first_column + column < pass.size.columns)
            pass.store(group, split, first_row + row, first_column + column, sum);
    });
}

/* dw[i] (+)= the sums of the splits, in order. */
static __global__ void conv_finish_kernel(int64_t n, int splits, const float *sums, float *dw,
                                          bool add)
{
    lks_each(n, [=](int64_t at, auto count) {
        constexpr int N = decltype(count)::value;
        lks_values<N> total = {}, before = {};
        if (add)
            before = lks_load_values<N>(dw, at);
        for (int split = 0; split < splits; ++split)
#pragma unroll
            for (int i = 0; i < N; ++i)
                total.x[i] += sums[split * n + at + i];
#pragma unroll
        for (int i = 0; i < N; ++i)
            total.x[i] += before.x[i];
        lks_store_values<N>(dw, at, total);
    });
}

template <typename T, typename Pass>
static lks_status conv_launch(const conv_state *s, const Pass &pass)
{
    constexpr int VECTOR = 16 / (int)sizeof(T);
    constexpr int ELEMENTS = conv_tile<T, Pass::left_along_k, VECTOR>::ELEMENTS +
                             conv_tile<T, Pass::right_along_k, VECTOR>::ELEMENTS;
    constexpr size_t SHARED_BYTES = 2 * ELEMENTS * sizeof(T);
    const unsigned blocks = (unsigned)(conv_tiles(s->size.rows) * conv_tiles(s->size.columns) *
                                       s->view.groups * s->size.splits);
    if (s->wide)
        LKS_LAUNCH((conv_kernel<T, VECTOR, Pass>), blocks, CONV_THREADS, SHARED_BYTES,
                   s->cuda->stream, pass);
    else
        LKS_LAUNCH((conv_kernel<T, 1, Pass>), blocks, CONV_THREADS, SHARED_BYTES, s->cuda->stream,
                   pass);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

template <typename T>
static lks_status conv_forward_start(const conv_state *s, const lks_kernel_run *run)
{
    const conv_forward<T> pass = {s->view,
                                  s->size,
                                  (const T *)run->inputs[0],
                                  (const T *)run->inputs[1],
                                  (const T *)run->inputs[2],
                                  (T *)run->outputs[0]};
    return conv_launch<T>(s, pass);
}

template <typename T>
static lks_status conv_input_start(const conv_state *s, const lks_kernel_run *run)
{
    const conv_input<T> pass = {s->view,
                                s->size,
                                (const T *)run->inputs[0],
                                (const T *)run->inputs[1],
                                (T *)run->outputs[0],
                                run->accumulate[0]};
    return conv_launch<T>(s, pass);
}

template <typename T>
static lks_status conv_weight_start(const conv_state *s, const lks_kernel_run *run)
{
    const bool split = s->size.splits > 1;
    const T *dy = (const T *)run->inputs[0];
    float *dw = (float *)run->outputs[0], *sums = (float *)run->workspace;
    const conv_weight<T> pass = {s->view,
                                 s->size,
                                 dy,
                                 (const T *)run->inputs[1],
                                 split ? sums : dw,
                                 !split && run->accumulate[0]};
    LKS_TRY(conv_launch<T>(s, pass));
    if (split) {
        LKS_LAUNCH(conv_finish_kernel, lks_cuda_blocks(s->cuda, s->weights / 4, 256), 256, 0,
                   s->cuda->stream, s->weights, s->size.splits, sums, dw, run->accumulate[0]);
        LKS_CUDA_LAUNCHED();
    }
    if (s->bias) {
        float *columns = (float *)((char *)run->workspace + s->partial_bytes);
        lks_columns_sum<T>(s->cuda, dy, s->pixels, s->view.outputs, columns,
                           (float *)run->outputs[1], run->accumulate[1]);
        LKS_CUDA_LAUNCHED();
    }
    return LKS_OK;
}

static lks_status conv_forward_run(void *state, const lks_kernel_run *run)
{
    const conv_state *s = (const conv_state *)state;
    return LKS_BY_TYPE(s->type, conv_forward_start)(s, run);
}

static lks_status conv_input_run(void *state, const lks_kernel_run *run)
{
    const conv_state *s = (const conv_state *)state;
    return LKS_BY_TYPE(s->type, conv_input_start)(s, run);
}

static lks_status conv_weight_run(void *state, const lks_kernel_run *run)
{
    const conv_state *s = (const conv_state *)state;
    return LKS_BY_TYPE(s->type, conv_weight_start)(s, run);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_conv2d = {"conv2d", conv_forward_prepare,
                                                             conv_forward_run, lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_conv2d_grad_input = {
    "conv2d_grad_input", conv_input_prepare, conv_input_run, lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_conv2d_grad_weight = {
    "conv2d_grad_weight", conv_weight_prepare, conv_weight_run, lks_memory_free};
