#include "tests/conformance/test_kernels_b.h"

typedef struct conv_case {
    int batch, height, width, inputs, outputs, kernel_h, kernel_w;
    lks_conv2d_attributes a;
} conv_case;

static int conv_out(int size, int kernel, const lks_conv2d_attributes *a)
{
    return (size + 2 * a->padding - kernel) / a->stride + 1;
}

/* Calls `visit` for every product: element of x, of w, of y. */
typedef struct conv_term {
    size_t x, w, y;
} conv_term;

static void conv_each(const conv_case *t, void (*visit)(void *user, const conv_term *), void *user)
{
    int out_h = conv_out(t->height, t->kernel_h, &t->a);
    int out_w = conv_out(t->width, t->kernel_w, &t->a);
    int per_group = t->inputs / t->a.groups, outputs = t->outputs / t->a.groups;
    for (int b = 0; b < t->batch; ++b)
        for (int oy = 0; oy < out_h; ++oy)
            for (int ox = 0; ox < out_w; ++ox)
                for (int ky = 0; ky < t->kernel_h; ++ky)
                    for (int kx = 0; kx < t->kernel_w; ++kx) {
                        int y = oy * t->a.stride - t->a.padding + ky;
                        int x = ox * t->a.stride - t->a.padding + kx;
                        if (y < 0 || y >= t->height || x < 0 || x >= t->width)
                            continue;
                        for (int o = 0; o < t->outputs; ++o)
                            for (int i = 0; i < per_group; ++i) {
                                int input = o / outputs * per_group + i;
                                conv_term term = {
                                    (size_t)(((b * t->height + y) * t->width + x) * t->inputs +
                                             input),
                                    (size_t)(((o * t->kernel_h + ky) * t->kernel_w + kx) *
                                                 per_group +
                                             i),
                                    (size_t)(((b * out_h + oy) * out_w + ox) * t->outputs + o)};
                                visit(user, &term);
                            }
                    }
}

typedef struct conv_sums {
    const double *x, *w, *dy;
    double *y, *y_size, *dx, *dx_size, *dw, *dw_size;
} conv_sums;

static void conv_add(void *user, const conv_term *at)
{
    const conv_sums *s = user;
    double forward = s->x[at->x] * s->w[at->w];
    double to_x = s->dy[at->y] * s->w[at->w], to_w = s->dy[at->y] * s->x[at->x];
    s->y[at->y] += forward;
    s->y_size[at->y] += fabs(forward);
    s->dx[at->x] += to_x;
    s->dx_size[at->x] += fabs(to_x);
    s->dw[at->w] += to_w;
    s->dw_size[at->w] += fabs(to_w);
}

typedef struct conv_shapes {
    lks_shape x, w, b, y;
} conv_shapes;

static conv_shapes conv_shapes_of(const conv_case *t)
{
    return (conv_shapes){LKS_SHAPE(t->batch, t->height, t->width, t->inputs),
                         LKS_SHAPE(t->outputs, t->kernel_h, t->kernel_w, t->inputs / t->a.groups),
                         LKS_SHAPE(t->outputs),
                         LKS_SHAPE(t->batch, conv_out(t->height, t->kernel_h, &t->a),
                                   conv_out(t->width, t->kernel_w, &t->a), t->outputs)};
}

typedef struct conv_data {
    harness_tensor x, w, b, dy;
} conv_data;

static void conv_forward(lks_device *device, const conv_case *t, const conv_shapes *s,
                         const conv_sums *sums, bool bias)
{
    harness_tensor in[] = {harness_random(s->x, 1, -1, 1), harness_random(s->w, 2, -1, 1),
                           bias ? harness_random(s->b, 3, -1, 1) : harness_absent()};
    harness_tensor out[] = {harness_output(s->y, false)};
    harness_call call = call_of("conv2d", &t->a, in, 3, out, 1);
    size_t count = harness_count(&out[0]);
    double *wanted = harness_f64(count), *scale = harness_f64(count);
    for (size_t i = 0; i < count; ++i) {
        double b = bias ? (double)harness_f32(&in[2])[i % (size_t)t->outputs] : 0;
        wanted[i] = sums->y[i] + b;
        scale[i] = sums->y_size[i] + fabs(b);
    }
    harness_run(device, &call);
    harness_check(&out[0], "conv2d y", wanted, scale,
                  t->kernel_h * t->kernel_w * t->inputs / t->a.groups + 1);
    free(wanted);
    free(scale);
    harness_release(&call);
}

static void conv_backward_input(lks_device *device, const conv_case *t, const conv_shapes *s,
                                const conv_sums *sums, bool accumulate)
{
    harness_tensor in[] = {harness_random(s->y, 4, -1, 1), harness_random(s->w, 2, -1, 1)};
    harness_tensor out[] = {harness_output(s->x, accumulate)};
    harness_call call = call_of("conv2d_grad_input", &t->a, in, 2, out, 1);
    harness_run(device, &call);
    harness_check(&out[0], "conv2d dx", sums->dx, sums->dx_size,
                  t->kernel_h * t->kernel_w * t->outputs / t->a.groups + 1);
    harness_release(&call);
}

static void conv_backward_weight(lks_device *device, const conv_case *t, const conv_shapes *s,
                                 const conv_sums *sums, bool bias, bool accumulate)
{
    harness_tensor in[] = {harness_random(s->y, 4, -1, 1), harness_random(s->x, 1, -1, 1)};
    harness_tensor out[] = {harness_output_f32(s->w, accumulate),
                            bias ? harness_output_f32(s->b, accumulate) : harness_absent()};
    harness_call call = call_of("conv2d_grad_weight", &t->a, in, 2, out, 2);
    size_t channels = (size_t)t->outputs, pixels = harness_count(&in[0]) / channels;
    double *sum = harness_f64(channels), *size = harness_f64(channels);
    for (size_t i = 0; i < pixels * channels; ++i) {
        sum[i % channels] += sums->dy[i];
        size[i % channels] += fabs(sums->dy[i]);
    }
    harness_run(device, &call);
    harness_check(&out[0], "conv2d dw", sums->dw, sums->dw_size, (double)pixels + 1);
    if (bias)
        harness_check(&out[1], "conv2d db", sum, size, (double)pixels + 1);
    free(sum);
    free(size);
    harness_release(&call);
}

typedef struct conv_loss {
    const conv_case *t;
    conv_sums sums;
    size_t y_count;
} conv_loss;

static double conv_sum(void *user)
{
    conv_loss *l = user;
    double sum = 0;
    memset(l->sums.y, 0, l->y_count * sizeof(double));
    conv_each(l->t, conv_add, &l->sums);
    for (size_t i = 0; i < l->y_count; ++i)
        sum += l->sums.dy[i] * l->sums.y[i];
    return sum;
}

static void conv_differentiate(const conv_case *t, conv_sums sums, double *x, double *w,
                               size_t x_count, size_t w_count, size_t y_count)
{
    pool p = {0};
    conv_loss loss = {t, sums, y_count};
    double *analytic_x = sums.dx, *analytic_w = sums.dw;
    double *differences = take(&p, x_count > w_count ? x_count : w_count);
    loss.sums.y = take(&p, y_count), loss.sums.y_size = take(&p, y_count);
    loss.sums.dx = take(&p, x_count), loss.sums.dx_size = take(&p, x_count);
    loss.sums.dw = take(&p, w_count), loss.sums.dw_size = take(&p, w_count);
    harness_differentiate(conv_sum, &loss, x, x_count, 0.1, differences);
    agree("conv2d dx", analytic_x, differences, x_count);
    harness_differentiate(conv_sum, &loss, w, w_count, 0.1, differences);
    agree("conv2d dw", analytic_w, differences, w_count);
    drop(&p);
}

static void conv_once(lks_device *device, const conv_case *t, bool differentiate)
{
    pool p = {0};
    conv_shapes s = conv_shapes_of(t);
    harness_tensor x = harness_random(s.x, 1, -1, 1), w = harness_random(s.w, 2, -1, 1);
    harness_tensor dy = harness_random(s.y, 4, -1, 1);
    size_t x_count = harness_count(&x), w_count = harness_count(&w), y_count = harness_count(&dy);
    double *x64 = take_copy(&p, &x), *w64 = take_copy(&p, &w);
    conv_sums sums = {.x = x64, .w = w64, .dy = take_copy(&p, &dy)};
    sums.y = take(&p, y_count), sums.y_size = take(&p, y_count);
    sums.dx = take(&p, x_count), sums.dx_size = take(&p, x_count);
    sums.dw = take(&p, w_count), sums.dw_size = take(&p, w_count);
    conv_each(t, conv_add, &sums);
    for (int form = 0; form < 2; ++form) {
        conv_forward(device, t, &s, &sums, form);
        conv_backward_input(device, t, &s, &sums, form);
        conv_backward_weight(device, t, &s, &sums, true, form);
    }
    conv_backward_weight(device, t, &s, &sums, false, false);
    if (differentiate)
        conv_differentiate(t, sums, x64, w64, x_count, w_count, y_count);
    harness_call data = {.inputs = (harness_tensor[]){x, w, dy}, .input_count = 3};
    harness_release(&data);
    drop(&p);
}

START_TEST(test_conv2d)
{
    static const conv_case cases[] = {
        {2, 28, 28, 1, 32, 3, 3, {1, 1, 1}},   {2, 28, 28, 1, 32, 3, 3, {2, 1, 1}},
        {1, 14, 14, 32, 64, 3, 3, {2, 1, 1}},  {2, 7, 7, 64, 64, 3, 3, {1, 1, 1}},
        {2, 12, 12, 3, 16, 5, 5, {1, 2, 1}},   {2, 9, 11, 16, 24, 1, 1, {2, 0, 1}},
        {3, 8, 8, 16, 32, 1, 1, {1, 0, 1}},    {2, 9, 9, 6, 6, 3, 3, {2, 1, 6}},
        {1, 10, 10, 16, 16, 3, 3, {1, 1, 16}}, {2, 9, 9, 12, 12, 3, 3, {2, 1, 3}},
        {2, 10, 7, 32, 32, 3, 3, {1, 1, 2}},   {2, 11, 6, 5, 7, 3, 2, {3, 1, 1}},
        {1, 5, 5, 3, 1, 5, 5, {1, 0, 1}},      {1, 1, 1, 4, 4, 1, 1, {1, 0, 1}},
        {1, 6, 5, 2, 3, 2, 2, {2, 0, 1}},      {2, 8, 8, 3, 17, 7, 7, {2, 3, 1}},
    };
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(cases); ++k)
        if (!harness_skips(k))
            conv_once(device, &cases[k], false);
    for (uint64_t seed = 1; seed <= 10; ++seed) {
        if (harness_skips(COUNT(cases) + (int)seed))
            continue;
        int groups = pick(seed, 0, 1, 4);
        int kernel_h = pick(seed, 1, 1, 4), kernel_w = pick(seed, 2, 1, 4);
        conv_case t = {pick(seed, 3, 1, 4),
                       pick(seed, 4, kernel_h, 13),
                       pick(seed, 5, kernel_w, 13),
                       groups * pick(seed, 6, 1, 20),
                       groups * pick(seed, 7, 1, 20),
                       kernel_h,
                       kernel_w,
                       {pick(seed, 8, 1, 4), pick(seed, 9, 0, 2), groups}};
        conv_once(device, &t, false);
    }
    lks_device_close(device);
}
END_TEST

START_TEST(test_conv2d_differences)
{
    static const conv_case cases[] = {{1, 4, 5, 2, 3, 3, 2, {1, 1, 1}},
                                      {2, 5, 4, 4, 4, 2, 2, {2, 0, 2}}};
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(cases); ++k)
        conv_once(device, &cases[k], true);
    lks_device_close(device);
}
END_TEST

TCase *conv2d_cases(void)
{
    TCase *tcase = tcase_create("conv2d");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_conv2d);
    HARNESS_ADD(tcase, test_conv2d_differences);
    return tcase;
}
