/* "pool2d" and its gradient: a thread per element, channels side by side. A pixel's gradient is gathered from
 * the windows that hold it, in their order. */
#include "kernels/cuda/cuda.cuh"

enum { POOL_THREADS = 256 };

typedef struct pool_view {
    lks_pool2d_attributes attributes;
    int64_t batch, channels;
    int height, width, out_height, out_width;
} pool_view;

typedef struct pool_state {
    lks_cuda_device *cuda;
    pool_view view;
    lks_dtype type, result;
} pool_state;

static pool_view pool_look(const lks_shape *x, const lks_shape *y,
                           const lks_pool2d_attributes *attributes)
{
    return {*attributes,     x->size[0],      x->size[3],     (int)x->size[1],
            (int)x->size[2], (int)y->size[1], (int)y->size[2]};
}

static lks_status pool_create(void **state, lks_device *device, const lks_kernel_spec *spec,
                              const lks_kernel_tensor *x, const lks_kernel_tensor *y,
                              lks_dtype type)
{
    pool_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->view = pool_look(&x->shape, &y->shape, (const lks_pool2d_attributes *)spec->attributes);
    s->type = type;
    s->result = spec->outputs[0].dtype;
    *state = s;
    return LKS_OK;
}

static lks_status pool_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                               size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_pool2d(spec, &type));
    return pool_create(state, device, spec, &spec->inputs[0], &spec->outputs[0], type);
}

static lks_status pool_grad_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                    size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_pool2d_grad(spec, &type));
    return pool_create(state, device, spec, &spec->inputs[0], &spec->inputs[1], type);
}

/* The pixels of one window: rows [top, bottom), columns [left, right). */
typedef struct pool_window {
    int top, bottom, left, right;
} pool_window;

static __device__ __forceinline__ pool_window pool_place(const pool_view &v, int row, int column)
{
    const lks_pool2d_attributes &a = v.attributes;
    const int top = row * a.stride - a.padding, left = column * a.stride - a.padding;
    return {max(top, 0), min(top + a.size_h, v.height), max(left, 0),
            min(left + a.size_w, v.width)};
}

static __device__ __forceinline__ float pool_count(const pool_window &w)
{
    return (float)((w.bottom - w.top) * (w.right - w.left));
}

/* `image` is one channel of one sample; its pixels are `channels` apart. */
template <typename T>
static __device__ __forceinline__ float pool_value(const pool_view &v, const pool_window &w,
                                                   const T *image)
{
    const bool largest = v.attributes.kind == LKS_POOL_MAX;
    float y = largest ? lks_load(image, (w.top * (int64_t)v.width + w.left) * v.channels) : 0.0f;
    for (int row = w.top; row < w.bottom; ++row)
        for (int column = w.left; column < w.right; ++column) {
            const float x = lks_load(image, (row * (int64_t)v.width + column) * v.channels);
            y = !largest ? y + x : x > y || x != x ? x : y;
        }
    return largest ? y : y / pool_count(w);
}

template <typename T>
static __global__ void __launch_bounds__(POOL_THREADS)
    pool_kernel(pool_view v, int64_t n, const T *x, T *y)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t pixel = i / v.channels, sample = pixel / v.out_width / v.out_height;
        const pool_window w =
            pool_place(v, (int)(pixel / v.out_width % v.out_height), (int)(pixel % v.out_width));
        const T *image = x + sample * v.height * v.width * v.channels + i % v.channels;
        lks_store(y, i, pool_value(v, w, image));
    }
}

/* Whether no pixel of the window before (row, column) holds `largest`. */
template <typename T>
static __device__ __forceinline__ bool pool_is_first(const pool_view &v, const pool_window &w,
                                                     const T *image, int row, int column,
                                                     float largest)
{
    for (int r = w.top; r <= row; ++r)
        for (int c = w.left; c < (r < row ? w.right : column); ++c)
            if (lks_load(image, (r * (int64_t)v.width + c) * v.channels) == largest)
                return false;
    return true;
}

/* Windows [*first, *end) of an axis that hold pixel `at`. */
static __device__ __forceinline__ void pool_windows(int at, int size, int stride, int padding,
                                                    int count, int *first, int *end)
{
    const int last = at + padding; /* window i begins at i stride - padding */
    *first = last < size ? 0 : (last - size) / stride + 1;
    *end = min(last / stride + 1, count);
}

template <typename T>
static __device__ __forceinline__ float pool_gradient(const pool_view &v, int row, int column,
                                                      const T *image, const T *y, const T *dy)
{
    const lks_pool2d_attributes &a = v.attributes;
    int top, bottom, left, right;
    float sum = 0;
    pool_windows(row, a.size_h, a.stride, a.padding, v.out_height, &top, &bottom);
    pool_windows(column, a.size_w, a.stride, a.padding, v.out_width, &left, &right);
    const float own = lks_load(image, (row * (int64_t)v.width + column) * v.channels);
    for (int r = top; r < bottom; ++r)
        for (int c = left; c < right; ++c) {
            const int64_t at = (r * (int64_t)v.out_width + c) * v.channels;
            const pool_window w = pool_place(v, r, c);
            if (a.kind == LKS_POOL_MEAN)
                sum += lks_load(dy, at) / pool_count(w);
            else if (own == lks_load(y, at) && pool_is_first(v, w, image, row, column, own))
                sum += lks_load(dy, at);
        }
    return sum;
}

template <typename T, typename O>
static __global__ void __launch_bounds__(POOL_THREADS)
    pool_grad_kernel(pool_view v, int64_t n, const T *x, const T *y, const T *dy, O *dx, bool add)
{
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n;
         i += (int64_t)gridDim.x * blockDim.x) {
        const int64_t pixel = i / v.channels, channel = i % v.channels;
        const int64_t sample = pixel / v.width / v.height;
        const int64_t in = sample * v.height * v.width * v.channels + channel;
        const int64_t out = sample * v.out_height * v.out_width * v.channels + channel;
        const float g = pool_gradient(v, (int)(pixel / v.width % v.height), (int)(pixel % v.width),
                                      x + in, y + out, dy + out);
        lks_store(dx, i, add ? lks_load(dx, i) + g : g);
    }
}

template <typename T> static lks_status pool_start(const pool_state *s, const lks_kernel_run *run)
{
    const pool_view *v = &s->view;
    const int64_t n = v->batch * v->out_height * v->out_width * v->channels;
    LKS_LAUNCH(pool_kernel<T>, lks_cuda_blocks(s->cuda, n, POOL_THREADS), POOL_THREADS, 0,
               s->cuda->stream, *v, n, (const T *)run->inputs[0], (T *)run->outputs[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

template <typename T, typename O>
static lks_status pool_grad_start(const pool_state *s, const lks_kernel_run *run)
{
    const pool_view *v = &s->view;
    const int64_t n = v->batch * v->height * v->width * v->channels;
    LKS_LAUNCH((pool_grad_kernel<T, O>), lks_cuda_blocks(s->cuda, n, POOL_THREADS), POOL_THREADS, 0,
               s->cuda->stream, *v, n, (const T *)run->inputs[0], (const T *)run->inputs[1],
               (const T *)run->inputs[2], (O *)run->outputs[0], run->accumulate[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status pool_run(void *state, const lks_kernel_run *run)
{
    const pool_state *s = (const pool_state *)state;
    return LKS_BY_TYPE(s->type, pool_start)(s, run);
}

static lks_status pool_grad_run(void *state, const lks_kernel_run *run)
{
    const pool_state *s = (const pool_state *)state;
    return LKS_BY_TYPES(s->type, s->result, pool_grad_start)(s, run);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_pool2d = {"pool2d", pool_prepare, pool_run,
                                                             lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_pool2d_grad = {"pool2d_grad", pool_grad_prepare,
                                                                  pool_grad_run, lks_memory_free};
