#include "tests/conformance/test_kernels_b.h"

typedef struct pool_case {
    int batch, height, width, channels;
    lks_pool2d_attributes a;
} pool_case;

static int pool_out(int size, int window, const lks_pool2d_attributes *a)
{
    return (size + 2 * a->padding - window) / a->stride + 1;
}

/* y, and what dx gets from dy (dx NULL: not wanted). */
static void pool_reference(const pool_case *t, const double *x, double *y, const double *dy,
                           double *dx, double *dx_size)
{
    int out_h = pool_out(t->height, t->a.size_h, &t->a);
    int out_w = pool_out(t->width, t->a.size_w, &t->a);
    for (int e = 0; e < t->batch * out_h * out_w * t->channels; ++e) {
        int c = e % t->channels, pixel = e / t->channels;
        int left = pixel % out_w * t->a.stride - t->a.padding;
        int top = pixel / out_w % out_h * t->a.stride - t->a.padding;
        int count = 0, best = -1;
        double sum = 0;
        for (int pass = 0; pass < (dx ? 2 : 1); ++pass)
            for (int k = 0; k < t->a.size_h * t->a.size_w; ++k) {
                int row = top + k / t->a.size_w, column = left + k % t->a.size_w;
                if (row < 0 || row >= t->height || column < 0 || column >= t->width)
                    continue;
                int at = ((pixel / (out_w * out_h) * t->height + row) * t->width + column) *
                             t->channels +
                         c;
                if (pass == 0) {
                    sum += x[at];
                    ++count;
                    best = best < 0 || x[at] > x[best] ? at : best;
                    continue;
                }
                double g = t->a.kind == LKS_POOL_MEAN ? dy[e] / count : at == best ? dy[e] : 0;
                dx[at] += g;
                dx_size[at] += fabs(g);
            }
        y[e] = t->a.kind == LKS_POOL_MEAN ? sum / count : x[best];
    }
}

typedef struct pool_loss {
    const pool_case *t;
    const double *x, *dy;
    double *y;
    size_t count;
} pool_loss;

static double pool_sum(void *user)
{
    const pool_loss *l = user;
    double sum = 0;
    pool_reference(l->t, l->x, l->y, NULL, NULL, NULL);
    for (size_t i = 0; i < l->count; ++i)
        sum += l->dy[i] * l->y[i];
    return sum;
}

static void pool_once(lks_device *device, const pool_case *t, bool ties, bool accumulate)
{
    pool p = {0};
    lks_shape x_shape = LKS_SHAPE(t->batch, t->height, t->width, t->channels);
    lks_shape y_shape = LKS_SHAPE(t->batch, pool_out(t->height, t->a.size_h, &t->a),
                                  pool_out(t->width, t->a.size_w, &t->a), t->channels);
    harness_tensor in[] = {harness_random(x_shape, 1, -2, 2)};
    harness_tensor out[] = {harness_output(y_shape, false)};
    harness_call call = call_of("pool2d", &t->a, in, 1, out, 1);
    size_t x_count = harness_count(&in[0]), y_count = harness_count(&out[0]);
    for (size_t i = 0; i < x_count && ties; ++i)
        harness_f32(&in[0])[i] = roundf(harness_f32(&in[0])[i]);
    harness_tensor grad_in[] = {harness_random(x_shape, 1, -2, 2), harness_values(y_shape),
                                harness_random(y_shape, 2, -1, 1)};
    harness_tensor grad_out[] = {harness_output(x_shape, accumulate)};
    harness_call grad = call_of("pool2d_grad", &t->a, grad_in, 3, grad_out, 1);
    double *x = take_copy(&p, &in[0]), *dy = take_copy(&p, &grad_in[2]), *y = take(&p, y_count);
    double *dx = take(&p, x_count), *dx_size = take(&p, x_count), *y_size = take(&p, y_count);
    pool_reference(t, x, y, dy, dx, dx_size);
    for (size_t i = 0; i < y_count; ++i) {
        harness_f32(&grad_in[1])[i] = (float)harness_rounded(y[i]);
        y_size[i] = 2; /* the largest |x| */
    }
    memcpy(grad_in[0].data, in[0].data, x_count * sizeof(float));
    harness_run(device, &call);
    for (size_t i = 0; i < x_count && accumulate; ++i)
        dx_size[i] += fabs((double)harness_f32(&grad_out[0])[i]);
    bool mean = t->a.kind == LKS_POOL_MEAN;
    /* A sum over the window and a division; the largest is exact. */
    harness_check(&out[0], "pool2d y", y, y_size, mean ? t->a.size_h * t->a.size_w + 1 : 0);
    harness_run(device, &grad);
    /* A division, and a sum over the windows that hold the pixel, on top of what was there. */
    harness_check(&grad_out[0], "pool2d dx", dx, dx_size, t->a.size_h * t->a.size_w + 1);
    if (!ties && x_count < 100) {
        pool_loss loss = {t, x, dy, take(&p, y_count), y_count};
        double *differences = take(&p, x_count);
        harness_differentiate(pool_sum, &loss, x, x_count, 1e-5, differences);
        agree("pool2d", dx, differences, x_count);
    }
    harness_release(&call);
    harness_release(&grad);
    drop(&p);
}

START_TEST(test_pool2d)
{
    static const pool_case cases[] = {
        {2, 4, 4, 2, {LKS_POOL_MAX, 2, 2, 2, 0}},   {1, 5, 6, 3, {LKS_POOL_MAX, 3, 3, 2, 1}},
        {2, 7, 9, 65, {LKS_POOL_MAX, 3, 2, 1, 1}},  {2, 8, 8, 130, {LKS_POOL_MAX, 2, 2, 2, 0}},
        {1, 4, 5, 2, {LKS_POOL_MEAN, 2, 3, 1, 1}},  {2, 7, 7, 64, {LKS_POOL_MEAN, 7, 7, 1, 0}},
        {3, 6, 5, 17, {LKS_POOL_MEAN, 3, 3, 2, 1}}, {1, 1, 1, 1, {LKS_POOL_MAX, 1, 1, 1, 0}},
        {1, 10, 3, 1, {LKS_POOL_MEAN, 4, 2, 3, 0}}, {2, 5, 5, 16, {LKS_POOL_MAX, 5, 5, 1, 2}},
    };
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(cases); ++k)
        for (int form = 0; form < 4; ++form)
            if (!harness_skips(4 * k + form))
                pool_once(device, &cases[k], form % 2, form / 2);
    lks_device_close(device);
}
END_TEST

START_TEST(test_pool2d_nan)
{
    lks_device *device = harness_open(_i);
    lks_pool2d_attributes a = {LKS_POOL_MAX, 2, 2, 2, 0};
    harness_tensor in[] = {harness_random(LKS_SHAPE(1, 4, 4, 20), 1, -1, 1)};
    harness_tensor out[] = {harness_output(LKS_SHAPE(1, 2, 2, 20), false)};
    harness_call call = call_of("pool2d", &a, in, 1, out, 1);
    harness_f32(&in[0])[3] = NAN;                /* the first of its window */
    harness_f32(&in[0])[(4 + 3) * 20 + 4] = NAN; /* the last of its window */
    harness_run(device, &call);
    for (int i = 0; i < 80; ++i)
        ck_assert_msg(!isnan(harness_f32(&out[0])[i]) == (i != 3 && i != 24), "element %d", i);
    harness_release(&call);
    lks_device_close(device);
}
END_TEST

TCase *pool2d_cases(void)
{
    TCase *tcase = tcase_create("pool2d");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_pool2d);
    HARNESS_ADD(tcase, test_pool2d_nan);
    return tcase;
}
