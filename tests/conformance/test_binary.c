#include "tests/conformance/test_kernels_b.h"

static double binary_value(lks_binary_function function, double a, double b)
{
    switch (function) {
    case LKS_BINARY_ADD:
        return a + b;
    case LKS_BINARY_SUBTRACT:
        return a - b;
    case LKS_BINARY_MULTIPLY:
        return a * b;
    default:
        return a / b;
    }
}

static void binary_once(lks_device *device, lks_binary_function function, lks_shape a_shape,
                        lks_shape b_shape, bool share, bool accumulate)
{
    pool p = {0};
    lks_binary_attributes attributes = {function};
    harness_tensor in[] = {harness_random(a_shape, 1, -2, 2), harness_random(b_shape, 2, .5, 2)};
    harness_tensor out[] = {share ? harness_shared(in, 0) : harness_output(a_shape, accumulate)};
    harness_call call = call_of("binary", &attributes, in, 2, out, 1);
    size_t count = harness_count(&in[0]), inner = harness_count(&in[1]);
    double *wanted = take(&p, count), *scale = take(&p, count);
    for (size_t i = 0; i < count; ++i) {
        wanted[i] = binary_value(function, (double)harness_f32(&in[0])[i],
                                 (double)harness_f32(&in[1])[i % inner]);
        scale[i] = fabs(wanted[i]);
    }
    harness_run(device, &call);
    harness_check(&out[0], "binary y", wanted, scale, 1); /* one rounding */
    harness_release(&call);
    drop(&p);
}

START_TEST(test_binary)
{
    const lks_shape a[] = {LKS_SHAPE(3, 4, 5), LKS_SHAPE(3, 4, 5), LKS_SHAPE(7, 33),
                           LKS_SHAPE(3, 4, 5), LKS_SHAPE(1001),    LKS_SHAPE(1001),
                           LKS_SCALAR,         LKS_SHAPE(40, 1)};
    const lks_shape b[] = {LKS_SHAPE(3, 4, 5), LKS_SHAPE(4, 5), LKS_SHAPE(33), LKS_SCALAR,
                           LKS_SHAPE(1001),    LKS_SCALAR,      LKS_SCALAR,    LKS_SHAPE(1)};
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(a); ++k)
        for (int f = LKS_BINARY_ADD; f <= LKS_BINARY_DIVIDE; ++f) {
            binary_once(device, (lks_binary_function)f, a[k], b[k], false, false);
            binary_once(device, (lks_binary_function)f, a[k], b[k], false, true);
            binary_once(device, (lks_binary_function)f, a[k], b[k], true, false);
        }
    lks_device_close(device);
}
END_TEST

TCase *binary_cases(void)
{
    TCase *tcase = tcase_create("binary");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_binary);
    return tcase;
}
