#include "tests/conformance/test_kernels_b.h"

typedef struct squared_error_loss {
    int rows, width;
    const double *prediction, *target;
} squared_error_loss;

static bool squared_error_masked(const squared_error_loss *l, int row)
{
    for (int i = 0; i < l->width; ++i)
        if (!isfinite(l->target[row * l->width + i]))
            return true;
    return false;
}

static double squared_error_sum(void *user)
{
    const squared_error_loss *l = user;
    double sum = 0;
    for (int e = 0; e < l->rows * l->width; ++e) {
        double difference = l->prediction[e] - l->target[e];
        if (!squared_error_masked(l, e / l->width))
            sum += difference * difference / l->width;
    }
    return sum;
}

static void squared_error_once(lks_device *device, int rows, int width)
{
    pool p = {0};
    lks_shape shape = LKS_SHAPE(rows, width);
    size_t count = (size_t)(rows * width);
    harness_tensor in[] = {harness_random(shape, 1, -3, 3), harness_random_f32(shape, 2, -3, 3)};
    harness_tensor grad_in[] = {harness_random(shape, 1, -3, 3),
                                harness_random_f32(shape, 2, -3, 3)};
    harness_tensor out[] = {harness_output_of(LKS_F64, LKS_SHAPE(3))};
    harness_tensor grad_out[] = {harness_output(shape, false)};
    harness_call call = call_of("squared_error", NULL, in, 2, out, 1);
    harness_call grad = call_of("squared_error_grad", NULL, grad_in, 2, grad_out, 1);
    for (int row = 0; row < rows; row += 3)
        if (rows > 1)
            harness_f32(&in[1])[row * width + row % width] = row % 2 ? NAN : INFINITY;
    memcpy(grad_in[1].data, in[1].data, count * sizeof(float));
    double *x = take_copy(&p, &in[0]), *target = take_copy(&p, &in[1]);
    squared_error_loss loss = {rows, width, x, target};
    double valid = 0, sum = squared_error_sum(&loss);
    for (int row = 0; row < rows; ++row)
        valid += !squared_error_masked(&loss, row);
    harness_run(device, &call);
    const double *stats = out[0].data;
    ck_assert_double_le(fabs(stats[0] - sum), 1e-14 * (double)count * sum);
    ck_assert_double_eq(stats[1], valid);
    ck_assert_double_eq(stats[2], 0.0);

    double *wanted = take(&p, count), *scale = take(&p, count), *differences = take(&p, count);
    for (size_t i = 0; i < count; ++i) {
        bool masked = squared_error_masked(&loss, (int)i / width);
        wanted[i] = masked ? 0 : 2 * (x[i] - target[i]) / width;
        scale[i] = fabs(wanted[i]);
    }
    harness_run(device, &grad);
    harness_check(&grad_out[0], "dprediction", wanted, scale, 3); /* difference, 2, division */
    if (count < 100) {
        harness_differentiate(squared_error_sum, &loss, x, count, 1e-3, differences);
        agree("squared_error", wanted, differences, count);
    }
    harness_release(&call);
    harness_release(&grad);
    drop(&p);
}

START_TEST(test_squared_error)
{
    static const int shapes[][2] = {{1, 1}, {7, 1}, {5, 3}, {40, 19}, {3, 8}};
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(shapes); ++k)
        squared_error_once(device, shapes[k][0], shapes[k][1]);
    lks_device_close(device);
}
END_TEST

TCase *squared_error_cases(void)
{
    TCase *tcase = tcase_create("squared error");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_squared_error);
    return tcase;
}
