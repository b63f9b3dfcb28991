/* "pool2d" and its gradient, vectorised over channels. */
#include "kernels/cpu/cpu.h"

#include <string.h>

enum { POOL_TILE = 64 };

typedef struct pool_state {
    lks_pool2d_attributes attributes;
    int64_t batch, height, width, channels, out_height, out_width;
} pool_state;

static lks_status pool_create(void **state, const lks_kernel_spec *spec, const lks_kernel_tensor *x,
                              const lks_kernel_tensor *y)
{
    const int64_t *in = x->shape.size, *out = y->shape.size;
    pool_state *s;
    LKS_TRY(LKS_NEW(&s));
    *s = (pool_state){.attributes = *(const lks_pool2d_attributes *)spec->attributes,
                      .batch = in[0],
                      .height = in[1],
                      .width = in[2],
                      .channels = in[3],
                      .out_height = out[1],
                      .out_width = out[2]};
    *state = s;
    return LKS_OK;
}

static lks_status pool_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                               size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_pool2d(spec, NULL));
    return pool_create(state, spec, &spec->inputs[0], &spec->outputs[0]);
}

static lks_status pool_grad_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                    size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_pool2d_grad(spec, NULL));
    return pool_create(state, spec, &spec->inputs[0], &spec->inputs[1]);
}

/* The pixels of one window: rows [top, bottom), columns [left, right). */
typedef struct pool_window {
    int64_t top, bottom, left, right;
} pool_window;

static void pool_clip(int64_t index, int64_t stride, int64_t padding, int64_t size, int64_t limit,
                      int64_t *first, int64_t *end)
{
    int64_t from = index * stride - padding, to = from + size;
    *first = from > 0 ? from : 0;
    *end = to < limit ? to : limit;
}

static pool_window pool_place(const pool_state *s, int64_t row, int64_t column)
{
    const lks_pool2d_attributes *a = &s->attributes;
    pool_window w;
    pool_clip(row, a->stride, a->padding, a->size_h, s->height, &w.top, &w.bottom);
    pool_clip(column, a->stride, a->padding, a->size_w, s->width, &w.left, &w.right);
    return w;
}

static float pool_count(const pool_window *w)
{
    return (float)((w->bottom - w->top) * (w->right - w->left));
}

/* `image` is one sample; y[channels] is one pixel of the output. */
static void pool_largest(const pool_state *s, const pool_window *w, const float *image, float *y)
{
    memcpy(y, image + (w->top * s->width + w->left) * s->channels, (size_t)s->channels * sizeof *y);
    for (int64_t row = w->top; row < w->bottom; ++row)
        for (int64_t column = w->left; column < w->right; ++column) {
            const float *x = image + (row * s->width + column) * s->channels;
#pragma omp simd
            for (int64_t c = 0; c < s->channels; ++c)
                y[c] = x[c] > y[c] || x[c] != x[c] ? x[c] : y[c];
        }
}

static void pool_mean(const pool_state *s, const pool_window *w, const float *image, float *y)
{
    const float count = pool_count(w);
    memset(y, 0, (size_t)s->channels * sizeof *y);
    for (int64_t row = w->top; row < w->bottom; ++row)
        for (int64_t column = w->left; column < w->right; ++column) {
            const float *x = image + (row * s->width + column) * s->channels;
#pragma omp simd
            for (int64_t c = 0; c < s->channels; ++c)
                y[c] += x[c];
        }
    for (int64_t c = 0; c < s->channels; ++c)
        y[c] /= count;
}

static lks_status pool_run(void *state, const lks_kernel_run *run)
{
    const pool_state *s = state;
    const float *image = run->inputs[0];
    float *y = run->outputs[0];
    for (int64_t b = 0; b < s->batch; ++b, image += s->height * s->width * s->channels)
        for (int64_t row = 0; row < s->out_height; ++row)
            for (int64_t column = 0; column < s->out_width; ++column, y += s->channels) {
                pool_window w = pool_place(s, row, column);
                if (s->attributes.kind == LKS_POOL_MAX)
                    pool_largest(s, &w, image, y);
                else
                    pool_mean(s, &w, image, y);
            }
    return LKS_OK;
}

/* What is left of dy goes to the first pixel that holds the maximum. */
static void pool_largest_grad(const pool_state *s, const pool_window *w, const float *image,
                              const float *y, const float *dy, float *dimage)
{
    float left[POOL_TILE];
    for (int64_t first = 0; first < s->channels; first += POOL_TILE) {
        int64_t n = s->channels - first < POOL_TILE ? s->channels - first : POOL_TILE;
        memcpy(left, dy + first, (size_t)n * sizeof *left);
        for (int64_t row = w->top; row < w->bottom; ++row)
            for (int64_t column = w->left; column < w->right; ++column) {
                int64_t at = (row * s->width + column) * s->channels + first;
                const float *x = image + at;
                float *dx = dimage + at;
#pragma omp simd
                for (int64_t c = 0; c < n; ++c) {
                    bool hit = x[c] == y[first + c];
                    dx[c] += hit ? left[c] : 0.0f;
                    left[c] = hit ? 0.0f : left[c];
                }
            }
    }
}

static void pool_mean_grad(const pool_state *s, const pool_window *w, const float *dy,
                           float *dimage)
{
    const float count = pool_count(w);
    for (int64_t row = w->top; row < w->bottom; ++row)
        for (int64_t column = w->left; column < w->right; ++column) {
            float *dx = dimage + (row * s->width + column) * s->channels;
#pragma omp simd
            for (int64_t c = 0; c < s->channels; ++c)
                dx[c] += dy[c] / count;
        }
}

static lks_status pool_grad_run(void *state, const lks_kernel_run *run)
{
    const pool_state *s = state;
    const float *image = run->inputs[0], *y = run->inputs[1], *dy = run->inputs[2];
    float *dimage = run->outputs[0];
    const int64_t pixels = s->height * s->width * s->channels;
    if (!run->accumulate[0])
        memset(dimage, 0, (size_t)(s->batch * pixels) * sizeof *dimage);
    for (int64_t b = 0; b < s->batch; ++b, image += pixels, dimage += pixels)
        for (int64_t row = 0; row < s->out_height; ++row)
            for (int64_t column = 0; column < s->out_width; ++column) {
                pool_window w = pool_place(s, row, column);
                if (s->attributes.kind == LKS_POOL_MAX)
                    pool_largest_grad(s, &w, image, y, dy, dimage);
                else
                    pool_mean_grad(s, &w, dy, dimage);
                y += s->channels, dy += s->channels;
            }
    return LKS_OK;
}

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_pool2d) = {
    .name = "pool2d",
    .prepare = pool_prepare,
    .run = pool_run,
    .release = lks_memory_free,
};

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_pool2d_grad) = {
    .name = "pool2d_grad",
    .prepare = pool_grad_prepare,
    .run = pool_grad_run,
    .release = lks_memory_free,
};
