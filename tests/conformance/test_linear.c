/* linear and its gradients. A product of k terms summed in any order errs by at
 * most (k + 1) u sum|a b|: one rounding per product and k - 1 additions, and one for the
 * bias or a factor. In bf16 f is taken of pre as rounded, and dz w is rounded before it is multiplied by f', but on the cpu. */
#include "tests/conformance/test_kernels_a.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct linear_shape {
    int64_t m, n, k;
} linear_shape;

static const linear_shape shapes[] = {{1, 1, 1},      {3, 5, 7},  {17, 33, 19}, {64, 128, 32},
                                      {130, 67, 251}, {5, 1, 40}, {1, 70, 300}, {128, 384, 129}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static double gelu_argument(double x)
{
    return 2 * sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x);
}

static double activate(lks_activation activation, double z)
{
    if (activation == LKS_RELU)
        return z > 0 ? z : 0;
    if (activation == LKS_GELU)
        return z / (1 + exp(-gelu_argument(z)));
    return z;
}

static double activation_slope(lks_activation activation, double z)
{
    if (activation == LKS_RELU)
        return z > 0;
    if (activation == LKS_IDENTITY)
        return 1;
    double s = 1 / (1 + exp(-gelu_argument(z)));
    return s + z * s * (1 - s) * 2 * sqrt(2 / acos(-1)) * (1 + 3 * 0.044715 * z * z);
}

/* out[i, j] = sum over k of a(i, k) b(k, j), and the sum of absolute values. */
static void multiply(int64_t m, int64_t n, int64_t k, const float *a, int64_t a_row, int64_t a_k,
                     const float *b, int64_t b_k, int64_t b_column, double *out, double *scale)
{
    for (int64_t i = 0; i < m; ++i)
        for (int64_t j = 0; j < n; ++j) {
            double sum = 0, size = 0;
            for (int64_t l = 0; l < k; ++l) {
                double term = (double)a[i * a_row + l * a_k] * b[l * b_k + j * b_column];
                sum += term;
                size += fabs(term);
            }
            out[i * n + j] = sum;
            scale[i * n + j] = size;
        }
}

static void run_linear(lks_device *device, const linear_shape *s, lks_activation activation,
                       bool bias, bool pre)
{
    size_t count = (size_t)(s->m * s->n);
    lks_linear_attributes attributes = {activation};
    harness_tensor in[3] = {harness_random(LKS_SHAPE(s->m, s->k), 1, -2, 2),
                            harness_random(LKS_SHAPE(s->n, s->k), 2, -1, 1),
                            bias ? harness_random(LKS_SHAPE(s->n), 3, -1, 1) : harness_absent()};
    harness_tensor out[2] = {harness_output(LKS_SHAPE(s->m, s->n), false),
                             pre ? harness_output(LKS_SHAPE(s->m, s->n), false) : harness_absent()};
    harness_call call = {"linear", &attributes, in, 3, out, 2, NULL};
    harness_run(device, &call);
    double *z = harness_f64(count), *z_scale = harness_f64(count);
    double *y = harness_f64(count), *y_scale = harness_f64(count), *inner = harness_f64(count);
    multiply(s->m, s->n, s->k, harness_f32(&in[0]), s->k, 1, harness_f32(&in[1]), 1, s->k, z,
             z_scale);
    double c = (double)s->k + 1;
    for (size_t i = 0; i < count; ++i) {
        double b = bias ? harness_f32(&in[2])[i % (size_t)s->n] : 0;
        z[i] += b;
        z_scale[i] += fabs(b);
        y[i] = activate(activation, z[i]);
        /* |gelu'| <= 1.13, and gelu's own error as vector_math.h states it. */
        y_scale[i] = activation == LKS_GELU
                         ? 1.2 * z_scale[i] + (12 + 10 * fabs(gelu_argument(z[i]))) / c * fabs(y[i])
                         : z_scale[i];
        inner[i] = activation == LKS_GELU && !harness_on_cpu() ? 1.2 * fabs(z[i]) : 0;
    }
    harness_check_inner(&out[0], "y", y, y_scale, c, inner);
    if (pre)
        harness_check(&out[1], "pre", z, z_scale, c);
    free(z), free(z_scale), free(y), free(y_scale), free(inner);
    harness_release(&call);
}

START_TEST(test_linear)
{
    lks_device *device = harness_open(_i);
    for (int i = 0; i < SHAPES; ++i)
        for (int bias = 0; bias < 2; ++bias) {
            run_linear(device, &shapes[i], LKS_IDENTITY, bias, false);
            run_linear(device, &shapes[i], LKS_RELU, bias, false);
            run_linear(device, &shapes[i], LKS_GELU, bias, false);
            run_linear(device, &shapes[i], LKS_GELU, bias, true);
        }
    lks_device_close(device);
}
END_TEST

static void run_activation_grad(lks_device *device, lks_activation activation, bool shared)
{
    enum { COUNT = 777 };
    lks_linear_attributes attributes = {activation};
    harness_tensor in[2] = {harness_random(LKS_SHAPE(COUNT), 4, -1, 1),
                            harness_random(LKS_SHAPE(COUNT), 5, -6, 6)};
    harness_tensor out[1] = {shared ? harness_shared(in, 0)
                                    : harness_output(LKS_SHAPE(COUNT), false)};
    harness_call call = {"activation_grad", &attributes, in, 2, out, 1, NULL};
    harness_run(device, &call);
    double dz[COUNT], scale[COUNT];
    for (int i = 0; i < COUNT; ++i) {
        double dy = harness_f32(&in[0])[i], z = harness_f32(&in[1])[i];
        dz[i] = dy * activation_slope(activation, z);
        /* As gelu's own bound, on the two summands of the derivative (at most 1.13 + 2 * 0.13). */
        scale[i] = activation == LKS_GELU ? fabs(dy) * 1.4 * (12 + 10 * fabs(gelu_argument(z)))
                                          : fabs(dz[i]);
    }
    harness_check(&out[0], "dz", dz, scale, 1);
    harness_release(&call);
}

START_TEST(test_activation_grad)
{
    lks_device *device = harness_open(_i);
    for (int activation = LKS_IDENTITY; activation <= LKS_GELU; ++activation)
        for (int shared = 0; shared < 2; ++shared)
            run_activation_grad(device, (lks_activation)activation, shared);
    lks_device_close(device);
}
END_TEST

/* What gelu's derivative (1 + t)/2 + z (1 - t^2) a / 2, a = argument'(z) / 2, errs by where the library takes its tanh t, as on
 * a GPU in bf16: that is within 2^-11 (PTX ISA, tanh.approx.f32). In units of 2^-8. */
static double library_slope_error(double z)
{
    double a = sqrt(2 / acos(-1)) * (1 + 3 * 0.044715 * z * z);
    return 0x1p-3 * (0.5 + fabs(z) * a * (1 + 0x1p-12));
}

/* The gradient behind the activation whose value is x: that of its argument. */
static void turn_through(lks_activation activation, const harness_tensor *saved, double c,
                         double *dx, double *scale, double *inner)
{
    for (size_t i = 0; i < harness_count(saved); ++i) {
        double z = harness_f32(saved)[i], slope = activation_slope(activation, z);
        inner[i] = harness_on_cpu() ? 0 : fabs(dx[i] * slope);
        scale[i] *= fabs(slope);
        if (activation == LKS_GELU) { /* as in run_activation_grad */
            scale[i] += fabs(dx[i]) * 1.4 * (12 + 10 * fabs(gelu_argument(z))) / c;
            inner[i] += harness_on_cpu() ? 0 : fabs(dx[i]) * library_slope_error(z);
        }
        dx[i] *= slope;
    }
}

/* LKS_IDENTITY: nothing is saved. */
static void run_grad_input(lks_device *device, const linear_shape *s, lks_activation activation,
                           bool accumulate)
{
    size_t count = (size_t)(s->m * s->k);
    double c = (double)s->n + 2;
    lks_linear_attributes attributes = {activation};
    bool through = activation != LKS_IDENTITY;
    harness_tensor in[3] = {harness_random(LKS_SHAPE(s->m, s->n), 6, -1, 1),
                            harness_random(LKS_SHAPE(s->n, s->k), 7, -1, 1),
                            through ? harness_random(LKS_SHAPE(s->m, s->k), 10, -6, 6)
                                    : harness_absent()};
    harness_tensor out[1] = {harness_output(LKS_SHAPE(s->m, s->k), accumulate)};
    harness_call call = {"linear_grad_input", through ? &attributes : NULL, in, 3, out, 1, NULL};
    harness_run(device, &call);
    double *dx = harness_f64(count), *scale = harness_f64(count), *inner = harness_f64(count);
    multiply(s->m, s->k, s->n, harness_f32(&in[0]), s->n, 1, harness_f32(&in[1]), s->k, 1, dx,
             scale);
    if (through)
        turn_through(activation, &in[2], c, dx, scale, inner);
    harness_check_inner(&out[0], "dx", dx, scale, c, inner);
    free(dx), free(scale), free(inner);
    harness_release(&call);
}

static void run_grad_weight(lks_device *device, const linear_shape *s, bool accumulate, bool bias)
{
    size_t count = (size_t)(s->n * s->k);
    harness_tensor in[2] = {harness_random(LKS_SHAPE(s->m, s->n), 8, -1, 1),
                            harness_random(LKS_SHAPE(s->m, s->k), 9, -1, 1)};
    harness_tensor out[2] = {harness_output_f32(LKS_SHAPE(s->n, s->k), accumulate),
                             bias ? harness_output_f32(LKS_SHAPE(s->n), accumulate)
                                  : harness_absent()};
    harness_call call = {"linear_grad_weight", NULL, in, 2, out, 2, NULL};
    harness_run(device, &call);
    double *dw = harness_f64(count), *scale = harness_f64(count);
    multiply(s->n, s->k, s->m, harness_f32(&in[0]), 1, s->n, harness_f32(&in[1]), s->k, 1, dw,
             scale);
    harness_check(&out[0], "dw", dw, scale, (double)s->m + 1);
    if (bias) {
        static const float one = 1;
        multiply(1, s->n, s->m, &one, 0, 0, harness_f32(&in[0]), s->n, 1, dw, scale);
        harness_check(&out[1], "db", dw, scale, 32 + (double)s->m / 32 + 1);
    }
    free(dw), free(scale);
    harness_release(&call);
}

START_TEST(test_gradients)
{
    lks_device *device = harness_open(_i);
    for (int i = 0; i < SHAPES; ++i)
        for (int accumulate = 0; accumulate < 2; ++accumulate) {
            run_grad_input(device, &shapes[i], LKS_IDENTITY, accumulate);
            run_grad_weight(device, &shapes[i], accumulate, false);
            run_grad_weight(device, &shapes[i], accumulate, true);
        }
    for (int i = 0; i < SHAPES; ++i) {
        run_grad_input(device, &shapes[i], LKS_RELU, false);
        run_grad_input(device, &shapes[i], LKS_GELU, false);
    }
    lks_device_close(device);
}
END_TEST

/* The slopes that the other tests compare with are the derivatives. */
static double activation_loss(void *user)
{
    double *z = user; /* z, activation */
    return activate((lks_activation)z[1], z[0]);
}

START_TEST(test_slopes)
{
    for (int activation = LKS_IDENTITY; activation <= LKS_GELU; ++activation)
        for (double z = -5.95; z < 6; z += 0.1) {
            double point[2] = {z, activation}, slope;
            harness_differentiate(activation_loss, point, point, 1, 1e-3, &slope);
            ck_assert_double_eq_tol(slope, activation_slope((lks_activation)activation, z), 1e-9);
        }
}
END_TEST

START_TEST(test_refusals)
{
    lks_device *device = harness_open(_i);
    lks_linear_attributes attributes = {LKS_RELU};
    harness_tensor in[3] = {harness_random(LKS_SHAPE(4, 6), 1, -1, 1),
                            harness_random(LKS_SHAPE(5, 7), 1, -1, 1), harness_absent()};
    harness_tensor out[2] = {harness_output(LKS_SHAPE(4, 5), false), harness_absent()};
    harness_call call = {"linear", &attributes, in, 3, out, 2, NULL};
    ck_assert_int_eq(harness_try(device, &call), LKS_ERR_INTERNAL);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "w is 5 x 7, 5 x 6 wanted"));
    call.kernel = "liner";
    ck_assert_int_eq(harness_try(device, &call), LKS_ERR_INTERNAL);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "no kernel \"liner\""));
    call.kernel = "linear";
    in[1].spec.shape = LKS_SHAPE(5, 6);
    call.attributes = NULL;
    ck_assert_int_eq(harness_try(device, &call), LKS_ERR_INTERNAL);
    call.attributes = &attributes;
    ck_assert_int_eq(harness_try(device, &call), LKS_OK);
    in[0].spec.dtype = LKS_I32;
    ck_assert_int_eq(harness_try(device, &call), LKS_ERR_INTERNAL);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "input 0 cannot be i32"));
    harness_release(&call);
    lks_device_close(device);
}
END_TEST

START_TEST(test_refused_gradients)
{
    lks_device *device = harness_open(_i);
    lks_linear_attributes attributes = {LKS_GELU};
    harness_tensor in[3] = {harness_random(LKS_SHAPE(4, 5), 1, -1, 1),
                            harness_random(LKS_SHAPE(5, 6), 1, -1, 1),
                            harness_random(LKS_SHAPE(4, 7), 1, -1, 1)};
    harness_tensor out[1] = {harness_output(LKS_SHAPE(4, 6), false)};
    harness_call call = {"linear_grad_input", &attributes, in, 3, out, 1, NULL};
    ck_assert_int_eq(harness_try(device, &call), LKS_ERR_INTERNAL);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "saved has 28 elements, 24 wanted"));
    in[2].spec.shape = LKS_SHAPE(4, 6);
    ck_assert_int_eq(harness_try(device, &call), LKS_OK);
    call.attributes = NULL;
    ck_assert_int_eq(harness_try(device, &call), LKS_ERR_INTERNAL);
    harness_release(&call);
    lks_device_close(device);
}
END_TEST

TCase *linear_cases(void)
{
    TCase *tcase = tcase_create("linear");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_linear);
    HARNESS_ADD(tcase, test_activation_grad);
    HARNESS_ADD(tcase, test_gradients);
    HARNESS_ADD(tcase, test_refusals);
    HARNESS_ADD(tcase, test_refused_gradients);
    tcase_add_test(tcase, test_slopes);
    return tcase;
}
