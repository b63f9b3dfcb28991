#include "tests/conformance/test_kernels_b.h"

static double gelu_argument(double x)
{
    return 2 * sqrt(2 / M_PI) * (x + 0.044715 * x * x * x);
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double unary_value(const lks_unary_attributes *a, double x)
{
    switch (a->function) {
    case LKS_UNARY_RELU:
        return x > 0 ? x : 0;
    case LKS_UNARY_GELU:
        return x * sigmoid(gelu_argument(x));
    case LKS_UNARY_SILU:
        return x * sigmoid(x);
    case LKS_UNARY_TANH:
        return tanh(x);
    case LKS_UNARY_SIGMOID:
        return sigmoid(x);
    case LKS_UNARY_EXP:
        return exp(x);
    case LKS_UNARY_LOG:
        return log(x);
    case LKS_UNARY_SQRT:
        return sqrt(x);
    case LKS_UNARY_SQUARE:
        return x * x;
    case LKS_UNARY_RECIPROCAL:
        return 1 / x;
    default:
        return (double)a->alpha * x + (double)a->beta;
    }
}

/* vector_math.h states the errors of exp (4 u), tanh and sigmoid (8 u), gelu (12 + 10 |t|, t
 * its argument); a product adds 1; log is within 3 u (unary.c); the rest rounds once. */
static double unary_error(const lks_unary_attributes *a, double x)
{
    double y = fabs(unary_value(a, x));
    switch (a->function) {
    case LKS_UNARY_GELU:
        return y * (12 + 10 * fabs(gelu_argument(x)));
    case LKS_UNARY_SILU:
        return y * 9;
    case LKS_UNARY_TANH:
    case LKS_UNARY_SIGMOID:
        return y * 8;
    case LKS_UNARY_EXP:
        return y * 4;
    case LKS_UNARY_LOG:
        return y * 3;
    case LKS_UNARY_AFFINE:
        return 2 * (fabs((double)a->alpha * x) + fabs((double)a->beta));
    default:
        return y;
    }
}

static double unary_slope(const lks_unary_attributes *a, double x)
{
    double s;
    switch (a->function) {
    case LKS_UNARY_RELU:
        return x > 0;
    case LKS_UNARY_GELU:
        s = sigmoid(gelu_argument(x));
        return s + x * 2 * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x) * s * (1 - s);
    case LKS_UNARY_SILU:
        s = sigmoid(x);
        return s + x * s * (1 - s);
    case LKS_UNARY_TANH:
        return 1 - tanh(x) * tanh(x);
    case LKS_UNARY_SIGMOID:
        return sigmoid(x) * (1 - sigmoid(x));
    case LKS_UNARY_EXP:
        return exp(x);
    case LKS_UNARY_LOG:
        return 1 / x;
    case LKS_UNARY_SQRT:
        return 0.5 / sqrt(x);
    case LKS_UNARY_SQUARE:
        return 2 * x;
    case LKS_UNARY_RECIPROCAL:
        return -1 / (x * x);
    default:
        return (double)a->alpha;
    }
}

/* In units of u, relative to |dy|. Where the slope is a difference, both its terms
 * count: gelu s + x t' s (1 - s) with s off by 8 + 10 |t| (1 - s by as much of s) and four more
 * roundings; tanh 1 - y^2 with y off by 1. Where it is a product, the roundings count, and
 * those of y's own: at most 6. */
static double unary_slope_error(const lks_unary_attributes *a, double x)
{
    double s, t;
    switch (a->function) {
    case LKS_UNARY_GELU:
        t = gelu_argument(x);
        s = sigmoid(t);
        return (14 + 10 * fabs(t)) * s *
               (1 + fabs(x) * 2 * sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x));
    case LKS_UNARY_SILU:
        return 14 * sigmoid(x) * (1 + fabs(x));
    case LKS_UNARY_TANH:
        return 6;
    case LKS_UNARY_SIGMOID:
        return 6 * sigmoid(x);
    default:
        return 6 * fabs(unary_slope(a, x));
    }
}

/* What the slope is off by, relative to |dy| and in units of bf16's rounding, when it is taken from a y
 * that is rounded to bf16. */
static double unary_slope_inner(const lks_unary_attributes *a, double x)
{
    double y = fabs(unary_value(a, x));
    switch (a->function) {
    case LKS_UNARY_TANH:
    case LKS_UNARY_RECIPROCAL:
        return 2 * y * y;
    case LKS_UNARY_SIGMOID:
    case LKS_UNARY_EXP:
        return y;
    case LKS_UNARY_SQRT:
        return 0.5 / y;
    default:
        return 0;
    }
}

typedef struct unary_case {
    lks_unary_function function;
    double low, high;
} unary_case;

static const unary_case unary_inputs[] = {
    {LKS_UNARY_RELU, -2, 2},       {LKS_UNARY_GELU, -5, 5},      {LKS_UNARY_SILU, -20, 20},
    {LKS_UNARY_TANH, -6, 6},       {LKS_UNARY_SIGMOID, -30, 30}, {LKS_UNARY_EXP, -20, 20},
    {LKS_UNARY_LOG, 1e-6, 50},     {LKS_UNARY_LOG, .9, 1.1},     {LKS_UNARY_LOG, 1e-40, 3e-38},
    {LKS_UNARY_LOG, 1e30, 3e38},   {LKS_UNARY_SQRT, 1e-6, 50},   {LKS_UNARY_SQUARE, -9, 9},
    {LKS_UNARY_RECIPROCAL, .1, 9}, {LKS_UNARY_AFFINE, -9, 9},
};

static void unary_forward(lks_device *device, const unary_case *test, int count, bool share)
{
    pool p = {0};
    lks_unary_attributes a = {test->function, -1.7f, 0.3f};
    harness_tensor in[] = {harness_random(LKS_SHAPE(count), 1, test->low, test->high)};
    harness_tensor out[] = {share ? harness_shared(in, 0)
                                  : harness_output(LKS_SHAPE(count), false)};
    harness_call call = call_of("unary", &a, in, 1, out, 1);
    double *wanted = take(&p, (size_t)count), *error = take(&p, (size_t)count);
    for (int i = 0; i < count; ++i) {
        wanted[i] = unary_value(&a, (double)harness_f32(&in[0])[i]);
        error[i] = unary_error(&a, (double)harness_f32(&in[0])[i]);
    }
    harness_run(device, &call);
    harness_check(&out[0], "unary y", wanted, error, 1);
    harness_release(&call);
    drop(&p);
}

typedef struct unary_loss {
    const lks_unary_attributes *attributes;
    double x, dy;
} unary_loss;

static double unary_product(void *user)
{
    const unary_loss *l = user;
    return l->dy * unary_value(l->attributes, l->x);
}

static void unary_differentiate(const lks_unary_attributes *a, double x, double dy)
{
    unary_loss loss = {a, x, dy};
    double analytic = dy * unary_slope(a, x), differences;
    harness_differentiate(unary_product, &loss, &loss.x, 1, 1e-4 * fabs(x), &differences);
    agree("unary", &analytic, &differences, 1);
}

static void unary_backward(lks_device *device, const unary_case *test, int count, bool share,
                           bool accumulate)
{
    pool p = {0};
    lks_unary_attributes a = {test->function, -1.7f, 0.3f};
    lks_shape shape = LKS_SHAPE(count);
    harness_tensor in[] = {harness_random(shape, 2, -1, 1),
                           harness_random(shape, 1, test->low, test->high), harness_values(shape)};
    harness_tensor out[] = {share ? harness_shared(in, 0) : harness_output(shape, accumulate)};
    harness_call call = call_of("unary_grad", &a, in, 3, out, 1);
    double *dy = take_copy(&p, &in[0]), *x = take_copy(&p, &in[1]);
    double *wanted = take(&p, (size_t)count), *error = take(&p, (size_t)count);
    double *inner = take(&p, (size_t)count);
    for (int i = 0; i < count; ++i) {
        harness_f32(&in[2])[i] = (float)unary_value(&a, x[i]);
        wanted[i] = dy[i] * unary_slope(&a, x[i]);
        error[i] = fabs(dy[i]) * unary_slope_error(&a, x[i]);
        inner[i] = fabs(dy[i]) * unary_slope_inner(&a, x[i]);
    }
    harness_round(&in[2]);
    harness_run(device, &call);
    harness_check_inner(&out[0], "unary dx", wanted, error, 1, inner);
    for (int i = 0; i < count && i < 20; ++i)
        unary_differentiate(&a, x[i], dy[i]);
    harness_release(&call);
    drop(&p);
}

START_TEST(test_unary)
{
    static const int counts[] = {1, 13, 200, 1003};
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(unary_inputs); ++k)
        for (int n = 0; n < COUNT(counts); ++n) {
            if (harness_skips(4 * k + n))
                continue;
            unary_forward(device, &unary_inputs[k], counts[n], n % 2);
            if (unary_inputs[k].high < 1e-30)
                continue; /* 1 / x overflows */
            unary_backward(device, &unary_inputs[k], counts[n], false, n % 2);
            unary_backward(device, &unary_inputs[k], counts[n], true, false);
        }
    lks_device_close(device);
}
END_TEST

START_TEST(test_unary_extremes)
{
    static const float x[] = {NAN, INFINITY, -INFINITY, 1e30f, -1e30f, 0, -0.0f, 1e-40f, 90, -90};
    static const struct {
        lks_unary_function function;
        float wanted[10]; /* 7: anything finite */
    } cases[] = {
        {LKS_UNARY_RELU, {NAN, INFINITY, 0, 1e30f, 0, 0, 0, 1e-40f, 90, 0}},
        {LKS_UNARY_TANH, {NAN, 1, -1, 1, -1, 0, 0, 1e-40f, 1, -1}},
        {LKS_UNARY_SIGMOID, {NAN, 1, 0, 1, 0, .5f, .5f, .5f, 1, 7}},
        {LKS_UNARY_EXP, {NAN, INFINITY, 0, INFINITY, 0, 1, 1, 1, INFINITY, 7}},
        {LKS_UNARY_LOG, {NAN, INFINITY, NAN, 7, NAN, -INFINITY, -INFINITY, 7, 7, NAN}},
        {LKS_UNARY_GELU, {NAN, INFINITY, NAN, 1e30f, 0, 0, 0, 7, 90, 0}},
        {LKS_UNARY_RECIPROCAL, {NAN, 0, 0, 7, 7, INFINITY, -INFINITY, INFINITY, 7, 7}},
    };
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(cases); ++k) {
        lks_unary_attributes a = {.function = cases[k].function};
        harness_tensor in[] = {harness_values(LKS_SHAPE(COUNT(x)))};
        harness_tensor out[] = {harness_output(LKS_SHAPE(COUNT(x)), false)};
        harness_call call = call_of("unary", &a, in, 1, out, 1);
        memcpy(in[0].data, x, sizeof x);
        harness_round(&in[0]);
        harness_run(device, &call);
        for (int i = 0; i < COUNT(x); ++i) {
            float found = harness_f32(&out[0])[i];
            float wanted = (float)harness_rounded(cases[k].wanted[i]);
            bool good = wanted == 7     ? isfinite(found)
                        : isnan(wanted) ? isnan(found)
                                        : fabsf(found - wanted) <= 1e-6f || found == wanted;
            ck_assert_msg(good, "function %d of %g: found %g, wanted %g", (int)a.function,
                          (double)x[i], (double)found, (double)wanted);
        }
        harness_release(&call);
    }
    lks_device_close(device);
}
END_TEST

TCase *unary_cases(void)
{
    TCase *tcase = tcase_create("unary");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_unary);
    HARNESS_ADD(tcase, test_unary_extremes);
    return tcase;
}
