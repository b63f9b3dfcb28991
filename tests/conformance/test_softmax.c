#include "tests/conformance/test_kernels_b.h"

static void softmax_row(int n, int width, const double *x, double *y)
{
    double largest = x[0], sum = 0;
    for (int i = 1; i < n; ++i)
        largest = x[i] > largest ? x[i] : largest;
    for (int i = 0; i < n; ++i)
        sum += exp(x[i] - largest);
    for (int i = 0; i < width; ++i)
        y[i] = i < n ? exp(x[i] - largest) / sum : 0;
}

static void softmax_matrix(int rows, int period, int width, const double *x, double *y)
{
    for (int row = 0; row < rows; ++row) {
        int seen = period ? row % period + 1 : width;
        softmax_row(seen < width ? seen : width, width, x + row * width, y + row * width);
    }
}

typedef struct softmax_loss {
    int rows, period, width;
    const double *x, *dy;
    double *y;
} softmax_loss;

static double softmax_sum(void *user)
{
    const softmax_loss *l = user;
    double sum = 0;
    softmax_matrix(l->rows, l->period, l->width, l->x, l->y);
    for (int i = 0; i < l->rows * l->width; ++i)
        sum += l->dy[i] * l->y[i];
    return sum;
}

static void softmax_gradient(int rows, int width, const double *dy, const double *y, double *dx,
                             double *scale)
{
    for (int row = 0; row < rows; ++row, dy += width, y += width, dx += width, scale += width) {
        double dot = 0, size = 0;
        for (int i = 0; i < width; ++i) {
            dot += dy[i] * y[i];
            size += fabs(dy[i] * y[i]);
        }
        for (int i = 0; i < width; ++i) {
            dx[i] = y[i] * (dy[i] - dot);
            scale[i] = y[i] * (fabs(dy[i]) + size);
        }
    }
}

static void softmax_once(lks_device *device, lks_shape shape, bool causal, bool share,
                         bool accumulate)
{
    pool p = {0};
    lks_softmax_attributes attributes = {causal};
    int width = (int)shape.size[shape.axes - 1], rows = (int)lks_shape_elements(&shape) / width;
    int period = causal ? (int)shape.size[shape.axes - 2] : 0;
    size_t count = (size_t)(rows * width);
    harness_tensor in[] = {harness_random(shape, 1, -4, 4)};
    harness_tensor out[] = {share ? harness_shared(in, 0) : harness_output(shape, false)};
    harness_call call = call_of("softmax", &attributes, in, 1, out, 1);
    double *x = take_copy(&p, &in[0]), *y = take(&p, count);
    softmax_matrix(rows, period, width, x, y);
    harness_run(device, &call);
    /* Above and below the line: x - max is off by u |x - max| <= 8 u, exp by 4 u, and a lane's
     * sum and the tree over lanes add width / 16 + 5 to one of them; the division 1. */
    harness_check(&out[0], "softmax y", y, y, width / 16.0 + 2 * (8 + 4) + 6);

    harness_tensor grad_in[] = {harness_random(shape, 2, -1, 1), harness_values(shape)};
    harness_tensor grad_out[] = {share ? harness_shared(grad_in, 0)
                                       : harness_output(shape, accumulate)};
    harness_call grad = call_of("softmax_grad", &attributes, grad_in, 2, grad_out, 1);
    double *dy = take_copy(&p, &grad_in[0]), *dx = take(&p, count), *scale = take(&p, count);
    for (size_t i = 0; i < count; ++i)
        harness_f32(&grad_in[1])[i] = (float)harness_rounded(y[i]);
    double *rounded = take_copy(&p, &grad_in[1]);
    softmax_gradient(rows, width, dy, rounded, dx, scale);
    harness_run(device, &grad);
    /* The dot product width / 16 + 5, a subtraction, a product. */
    harness_check(&grad_out[0], "softmax dx", dx, scale, width / 16.0 + 8);
    if (count < 100) {
        softmax_loss loss = {rows, period, width, x, dy, take(&p, count)};
        double *differences = take(&p, count);
        harness_differentiate(softmax_sum, &loss, x, count, 1e-3, differences);
        softmax_matrix(rows, period, width, x, y);
        softmax_gradient(rows, width, dy, y, dx, scale);
        agree("softmax", dx, differences, count);
    }
    harness_release(&call);
    harness_release(&grad);
    drop(&p);
}

START_TEST(test_softmax)
{
    const lks_shape shapes[] = {LKS_SHAPE(5),        LKS_SHAPE(3, 7),    LKS_SHAPE(2, 5, 5),
                                LKS_SHAPE(9, 16),    LKS_SHAPE(4, 1000), LKS_SHAPE(2, 3, 37, 37),
                                LKS_SHAPE(2, 9, 20), LKS_SHAPE(20, 9),   LKS_SHAPE(6, 1)};
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(shapes); ++k)
        for (int form = 0; form < 6; ++form)
            if (shapes[k].axes > 1 || form < 3)
                softmax_once(device, shapes[k], form / 3, form % 3 == 1, form % 3 == 2);
    lks_device_close(device);
}
END_TEST

TCase *softmax_cases(void)
{
    TCase *tcase = tcase_create("softmax");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_softmax);
    return tcase;
}
