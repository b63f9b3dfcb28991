/* The kernels of convolutional networks and the primitive ones, against f64.
 *
 * u is 2^-24. A sum of n products in f32, in whatever order, is off by at most n u
 * sum|a b| (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1, to first
 * order); each further rounding adds one u. The c of every check is counted so.
 */
#include "tests/conformance/harness.h"

#include "runtime/base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

/* f64 arrays that go together. */
typedef struct pool {
    double *block[24];
    int count;
} pool;

static double *take(pool *p, size_t count)
{
    ck_assert_int_lt(p->count, COUNT(p->block));
    return p->block[p->count++] = harness_f64(count);
}

static double *take_copy(pool *p, const harness_tensor *tensor)
{
    ck_assert_int_lt(p->count, COUNT(p->block));
    return p->block[p->count++] = harness_to_f64(tensor);
}

static void drop(pool *p)
{
    while (p->count)
        free(p->block[--p->count]);
}

/* low <= value < high, a pure function of its arguments. */
static int pick(uint64_t seed, uint64_t index, int low, int high)
{
    uint64_t key = lks_rng_key(seed, LKS_RNG_TEST, 9);
    return low + (int)(lks_rng_words(key, 0, index).word[0] % (uint32_t)(high - low));
}

static harness_call call_of(const char *kernel, const void *attributes, harness_tensor *in,
                            int in_count, harness_tensor *out, int out_count)
{
    return (harness_call){kernel, attributes, in, in_count, out, out_count, NULL};
}

/* Two f64 gradients agree: the analytic one and the differences of the reference. */
static void agree(const char *what, const double *analytic, const double *differences, size_t count)
{
    for (size_t i = 0; i < count; ++i)
        ck_assert_msg(fabs(analytic[i] - differences[i]) <= 1e-7 * (1 + fabs(analytic[i])),
                      "%s[%zu]: analytic %.12g, differences %.12g", what, i, analytic[i],
                      differences[i]);
}

/* --- unary ------------------------------------------------------------------------ */

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

typedef struct unary_case {
    lks_unary_function function;
    double low, high;
} unary_case;

static const unary_case unary_cases[] = {
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
                           harness_random(shape, 1, test->low, test->high),
                           harness_zeros(LKS_F32, shape)};
    harness_tensor out[] = {share ? harness_shared(in, 0) : harness_output(shape, accumulate)};
    harness_call call = call_of("unary_grad", &a, in, 3, out, 1);
    double *dy = take_copy(&p, &in[0]), *x = take_copy(&p, &in[1]);
    double *wanted = take(&p, (size_t)count), *error = take(&p, (size_t)count);
    for (int i = 0; i < count; ++i) {
        harness_f32(&in[2])[i] = (float)unary_value(&a, x[i]);
        wanted[i] = dy[i] * unary_slope(&a, x[i]);
        error[i] = fabs(dy[i]) * unary_slope_error(&a, x[i]);
    }
    harness_run(device, &call);
    harness_check(&out[0], "unary dx", wanted, error, 1);
    for (int i = 0; i < count && i < 20; ++i)
        unary_differentiate(&a, x[i], dy[i]);
    harness_release(&call);
    drop(&p);
}

START_TEST(test_unary)
{
    static const int counts[] = {1, 13, 200, 1003};
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(unary_cases); ++k)
        for (int n = 0; n < COUNT(counts); ++n) {
            unary_forward(device, &unary_cases[k], counts[n], n % 2);
            if (unary_cases[k].high < 1e-30)
                continue; /* 1 / x overflows */
            unary_backward(device, &unary_cases[k], counts[n], false, n % 2);
            unary_backward(device, &unary_cases[k], counts[n], true, false);
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
        harness_tensor in[] = {harness_zeros(LKS_F32, LKS_SHAPE(COUNT(x)))};
        harness_tensor out[] = {harness_output(LKS_SHAPE(COUNT(x)), false)};
        harness_call call = call_of("unary", &a, in, 1, out, 1);
        memcpy(in[0].data, x, sizeof x);
        harness_run(device, &call);
        for (int i = 0; i < COUNT(x); ++i) {
            float found = harness_f32(&out[0])[i], wanted = cases[k].wanted[i];
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

/* --- binary ------------------------------------------------------------------------ */

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

/* --- matmul ------------------------------------------------------------------------ */

typedef struct matmul_case {
    int outer, inner; /* leading axes; 0: absent */
    int m, n, k;
    bool transpose_a, transpose_b;
    float alpha;
} matmul_case;

static lks_shape matmul_shape(const matmul_case *t, int rows, int columns)
{
    lks_shape shape = {0};
    if (t->outer)
        shape.size[shape.axes++] = t->outer;
    if (t->inner)
        shape.size[shape.axes++] = t->inner;
    shape.size[shape.axes++] = rows;
    shape.size[shape.axes++] = columns;
    return shape;
}

static void matmul_once(lks_device *device, const matmul_case *t, bool accumulate)
{
    pool p = {0};
    lks_matmul_attributes attributes = {t->transpose_a, t->transpose_b, t->alpha};
    const int m = t->m, n = t->n, k = t->k;
    harness_tensor in[] = {
        harness_random(t->transpose_a ? matmul_shape(t, k, m) : matmul_shape(t, m, k), 1, -1, 1),
        harness_random(t->transpose_b ? matmul_shape(t, n, k) : matmul_shape(t, k, n), 2, -1, 1)};
    harness_tensor out[] = {harness_output(matmul_shape(t, m, n), accumulate)};
    harness_call call = call_of("matmul", &attributes, in, 2, out, 1);
    size_t count = harness_count(&out[0]);
    double *wanted = take(&p, count), *scale = take(&p, count);
    for (size_t e = 0; e < count; ++e) {
        int row = (int)(e / (size_t)n) % m, column = (int)(e % (size_t)n);
        size_t matrix = e / (size_t)(m * n);
        const float *a = harness_f32(&in[0]) + matrix * (size_t)(m * k);
        const float *b = harness_f32(&in[1]) + matrix * (size_t)(k * n);
        for (int i = 0; i < k; ++i) {
            double product = (double)a[t->transpose_a ? i * m + row : row * k + i] *
                             (double)b[t->transpose_b ? column * k + i : i * n + column];
            wanted[e] += (double)t->alpha * product;
            scale[e] += fabs((double)t->alpha * product);
        }
    }
    harness_run(device, &call);
    harness_check(&out[0], "matmul c", wanted, scale, k + 2); /* k products, alpha, rounding */
    harness_release(&call);
    drop(&p);
}

START_TEST(test_matmul)
{
    static const matmul_case cases[] = {
        {0, 0, 1, 1, 1, false, false, 1},      {0, 0, 5, 7, 3, false, true, 1},
        {2, 3, 17, 9, 33, true, false, .5f},   {4, 0, 16, 16, 64, true, true, -1},
        {1, 0, 33, 65, 31, false, false, 3},   {2, 2, 64, 64, 16, false, true, .25f},
        {3, 0, 1, 40, 20, false, false, 1},    {3, 0, 40, 1, 20, true, false, 1},
        {2, 0, 40, 20, 1, true, true, 1},      {0, 0, 70, 130, 300, false, true, 1},
        {3, 0, 1, 1, 257, false, true, .125f}, {2, 0, 1, 9, 5, true, true, 1},
    };
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(cases); ++k) {
        matmul_once(device, &cases[k], false);
        matmul_once(device, &cases[k], true);
    }
    for (uint64_t seed = 1; seed <= 12; ++seed) {
        matmul_case t = {
            pick(seed, 0, 0, 4),  pick(seed, 1, 0, 3), pick(seed, 2, 1, 40), pick(seed, 3, 1, 40),
            pick(seed, 4, 1, 90), pick(seed, 5, 0, 2), pick(seed, 6, 0, 2),  0.7f};
        matmul_once(device, &t, pick(seed, 7, 0, 2));
    }
    lks_device_close(device);
}
END_TEST

/* --- softmax ----------------------------------------------------------------------- */

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

    harness_tensor grad_in[] = {harness_random(shape, 2, -1, 1), harness_zeros(LKS_F32, shape)};
    harness_tensor grad_out[] = {share ? harness_shared(grad_in, 0)
                                       : harness_output(shape, accumulate)};
    harness_call grad = call_of("softmax_grad", &attributes, grad_in, 2, grad_out, 1);
    double *dy = take_copy(&p, &grad_in[0]), *dx = take(&p, count), *scale = take(&p, count);
    for (size_t i = 0; i < count; ++i)
        harness_f32(&grad_in[1])[i] = (float)y[i];
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

/* --- reduce, expand, permute, slice -------------------------------------------------- */

static void reduce_once(lks_device *device, int outer, int middle, int inner, bool accumulate)
{
    pool p = {0};
    lks_reduce_attributes attributes = {outer, middle, inner, 0.3f};
    lks_shape wide = LKS_SHAPE(outer, middle, inner), narrow = LKS_SHAPE(outer, inner);
    harness_tensor in[] = {harness_random(wide, 1, -1, 2)};
    harness_tensor out[] = {harness_output(narrow, accumulate)};
    harness_call call = call_of("reduce", &attributes, in, 1, out, 1);
    double *sum = take(&p, (size_t)(outer * inner)), *size = take(&p, (size_t)(outer * inner));
    for (int e = 0; e < outer * middle * inner; ++e) {
        int at = e / (middle * inner) * inner + e % inner;
        double x = (double)harness_f32(&in[0])[e] * (double)attributes.scale;
        sum[at] += x;
        size[at] += fabs(x);
    }
    harness_run(device, &call);
    harness_check(&out[0], "reduce y", sum, size, 32 + 1); /* runs of 32, then f64 */

    harness_tensor expand_in[] = {harness_random(narrow, 2, -1, 1)};
    harness_tensor expand_out[] = {harness_output(wide, accumulate)};
    harness_call expand = call_of("expand", &attributes, expand_in, 1, expand_out, 1);
    double *y = take(&p, (size_t)(outer * middle * inner));
    double *scale = take(&p, (size_t)(outer * middle * inner));
    for (int e = 0; e < outer * middle * inner; ++e) {
        int at = e / (middle * inner) * inner + e % inner;
        y[e] = (double)harness_f32(&expand_in[0])[at] * (double)attributes.scale;
        scale[e] = fabs(y[e]);
    }
    harness_run(device, &expand);
    harness_check(&expand_out[0], "expand y", y, scale, 1);
    harness_release(&call);
    harness_release(&expand);
    drop(&p);
}

START_TEST(test_reduce_expand)
{
    static const int shapes[][3] = {{1, 1, 1},    {3, 5, 7},   {1, 1000, 3},
                                    {4, 77, 1},   {1, 1, 20},  {2, 65, 16},
                                    {1, 40, 300}, {300, 4, 1}, {1, 4099, 1}};
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(shapes); ++k)
        for (int form = 0; form < 2; ++form)
            reduce_once(device, shapes[k][0], shapes[k][1], shapes[k][2], form);
    lks_device_close(device);
}
END_TEST

static void permute_once(lks_device *device, lks_shape shape, const int *order, bool accumulate)
{
    pool p = {0};
    lks_permute_attributes attributes = {{0}};
    lks_shape moved = {.axes = shape.axes};
    for (int i = 0; i < shape.axes; ++i) {
        attributes.order[i] = order[i];
        moved.size[i] = shape.size[order[i]];
    }
    harness_tensor in[] = {harness_random(shape, 1, -1, 1)};
    harness_tensor out[] = {harness_output(moved, accumulate)};
    harness_call call = call_of("permute", &attributes, in, 1, out, 1);
    size_t count = harness_count(&in[0]);
    double *wanted = take(&p, count), *zero = take(&p, count);
    for (size_t e = 0; e < count; ++e) {
        size_t rest = e, from = 0;
        int64_t index[LKS_AXES_MAX];
        for (int i = shape.axes - 1; i >= 0; --i) {
            index[order[i]] = (int64_t)(rest % (size_t)moved.size[i]);
            rest /= (size_t)moved.size[i];
        }
        for (int i = 0; i < shape.axes; ++i)
            from = from * (size_t)shape.size[i] + (size_t)index[i];
        wanted[e] = (double)harness_f32(&in[0])[from];
    }
    harness_run(device, &call);
    harness_check(&out[0], "permute y", wanted, zero, 0);
    harness_release(&call);
    drop(&p);
}

START_TEST(test_permute)
{
    lks_device *device = harness_open(_i);
    const int swap[] = {0, 2, 1, 3}, turn[] = {1, 0}, same[] = {0, 1, 2}, back[] = {2, 1, 0};
    const int eight[] = {7, 1, 5, 0, 2, 6, 3, 4};
    for (int form = 0; form < 2; ++form) {
        permute_once(device, LKS_SHAPE(2, 5, 3, 17), swap, form);
        permute_once(device, LKS_SHAPE(37, 50), turn, form);
        permute_once(device, LKS_SHAPE(1, 50), turn, form);
        permute_once(device, LKS_SHAPE(3, 4, 5), same, form);
        permute_once(device, LKS_SHAPE(18, 3, 33), back, form);
        permute_once(device, LKS_SHAPE(2, 3, 1, 2, 3, 2, 1, 4), eight, form);
        permute_once(device, LKS_SCALAR, same, form);
    }
    for (uint64_t seed = 1; seed <= 20; ++seed) {
        lks_shape shape = {.axes = pick(seed, 0, 1, 6)};
        int order[LKS_AXES_MAX];
        for (int i = 0; i < shape.axes; ++i) {
            shape.size[i] = pick(seed, 10 + (uint64_t)i, 1, 8);
            int at = pick(seed, 20 + (uint64_t)i, 0, i + 1);
            order[i] = order[at];
            order[at] = i;
        }
        permute_once(device, shape, order, seed % 2);
    }
    lks_device_close(device);
}
END_TEST

static void fill_bytes(harness_tensor *tensor, uint64_t seed)
{
    size_t bytes = harness_count(tensor) * lks_dtype_bytes(tensor->spec.dtype);
    for (size_t i = 0; i < bytes; ++i)
        ((unsigned char *)tensor->data)[i] = (unsigned char)pick(seed, i, 0, 256);
}

/* Bytes are compared, so every type goes through one reference. */
static void slice_once(lks_device *device, const lks_slice_attributes *a, lks_dtype dtype,
                       bool scatter)
{
    lks_shape whole = LKS_SHAPE(a->outer, a->middle, a->inner);
    lks_shape part = LKS_SHAPE(a->outer, a->length, a->inner);
    harness_tensor in[] = {harness_zeros(dtype, scatter ? part : whole)};
    harness_tensor out[] = {harness_output_of(dtype, scatter ? whole : part)};
    harness_call call = call_of(scatter ? "unslice" : "slice", a, in, 1, out, 1);
    fill_bytes(&in[0], 3);
    harness_run(device, &call);
    size_t size = lks_dtype_bytes(dtype), run = (size_t)a->inner * size;
    static const char zeros[1024];
    ck_assert_uint_le(run, sizeof zeros);
    for (int64_t o = 0; o < a->outer; ++o)
        for (int64_t m = 0; m < a->middle; ++m) {
            bool inside = m >= a->begin && m < a->begin + a->length;
            size_t wide = (size_t)(o * a->middle + m) * run;
            size_t slim = (size_t)(o * a->length + m - a->begin) * run;
            const char *x = in[0].data, *y = out[0].data;
            if (scatter)
                ck_assert(!memcmp(y + wide, inside ? x + slim : zeros, run));
            else if (inside)
                ck_assert(!memcmp(y + slim, x + wide, run));
        }
    harness_release(&call);
}

static void slice_accumulate(lks_device *device, const lks_slice_attributes *a, bool scatter)
{
    pool p = {0};
    lks_shape whole = LKS_SHAPE(a->outer, a->middle, a->inner);
    lks_shape part = LKS_SHAPE(a->outer, a->length, a->inner);
    harness_tensor in[] = {harness_random(scatter ? part : whole, 1, -1, 1)};
    harness_tensor out[] = {harness_output(scatter ? whole : part, true)};
    harness_call call = call_of(scatter ? "unslice" : "slice", a, in, 1, out, 1);
    double *wanted = take(&p, harness_count(&out[0])), *zero = take(&p, harness_count(&out[0]));
    for (int64_t e = 0; e < a->outer * a->length * a->inner; ++e) {
        int64_t o = e / (a->length * a->inner);
        int64_t wide = e + (o * (a->middle - a->length) + a->begin) * a->inner;
        if (scatter)
            wanted[wide] = (double)harness_f32(&in[0])[e];
        else
            wanted[e] = (double)harness_f32(&in[0])[wide];
    }
    harness_run(device, &call);
    harness_check(&out[0], "slice y", wanted, zero, 0);
    harness_release(&call);
    drop(&p);
}

START_TEST(test_slice)
{
    static const lks_slice_attributes cases[] = {
        {3, 7, 5, 2, 4}, {1, 9, 1, 0, 9}, {4, 6, 33, 5, 1}, {2, 5, 1, 0, 2}, {1, 40, 16, 8, 32}};
    static const lks_dtype types[] = {LKS_U8, LKS_U16, LKS_F32, LKS_I32, LKS_F64, LKS_I64};
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(cases); ++k)
        for (int scatter = 0; scatter < 2; ++scatter) {
            for (int t = 0; t < COUNT(types); ++t)
                slice_once(device, &cases[k], types[t], scatter);
            slice_accumulate(device, &cases[k], scatter);
        }
    lks_device_close(device);
}
END_TEST

/* --- image, squared_error --------------------------------------------------------------- */

START_TEST(test_image)
{
    static const int shapes[][4] = {{2, 5, 7, 1}, {3, 4, 5, 3}, {1, 9, 9, 4}, {2, 3, 3, 40}};
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(shapes); ++k) {
        pool p = {0};
        const int *s = shapes[k];
        lks_shape shape = LKS_SHAPE(s[0], s[1], s[2], s[3]);
        harness_tensor in[] = {harness_zeros(LKS_U8, shape),
                               harness_random(LKS_SHAPE(s[3]), 1, 0, 255),
                               harness_random(LKS_SHAPE(s[3]), 2, 0.001, 0.02)};
        harness_tensor out[] = {harness_output(shape, false)};
        harness_call call = call_of("image", NULL, in, 3, out, 1);
        size_t count = harness_count(&in[0]);
        double *wanted = take(&p, count), *scale = take(&p, count);
        fill_bytes(&in[0], 5);
        for (size_t i = 0; i < count; ++i) {
            int c = (int)(i % (size_t)s[3]);
            wanted[i] = ((double)((uint8_t *)in[0].data)[i] - (double)harness_f32(&in[1])[c]) *
                        (double)harness_f32(&in[2])[c];
            scale[i] = fabs(wanted[i]);
        }
        harness_run(device, &call);
        harness_check(&out[0], "image y", wanted, scale, 2); /* a difference, a product */
        harness_release(&call);
        drop(&p);
    }
    lks_device_close(device);
}
END_TEST

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
    harness_tensor in[] = {harness_random(shape, 1, -3, 3), harness_random(shape, 2, -3, 3)};
    harness_tensor grad_in[] = {harness_random(shape, 1, -3, 3), harness_random(shape, 2, -3, 3)};
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

/* --- conv2d ------------------------------------------------------------------------------ */

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
    harness_tensor out[] = {harness_output(s->w, accumulate),
                            bias ? harness_output(s->b, accumulate) : harness_absent()};
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
        conv_once(device, &cases[k], false);
    for (uint64_t seed = 1; seed <= 10; ++seed) {
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

/* --- batch_norm --------------------------------------------------------------------------- */

typedef struct norm_case {
    lks_shape shape;
    lks_activation activation;
    bool residual;
    double low, high; /* of x */
} norm_case;

/* Statistics in f64. */
static void norm_statistics(const double *x, size_t rows, size_t channels, double epsilon,
                            double *mean, double *rstd, double *unbiased)
{
    for (size_t c = 0; c < channels; ++c) {
        double sum = 0, squares = 0;
        for (size_t r = 0; r < rows; ++r)
            sum += x[r * channels + c];
        mean[c] = sum / (double)rows;
        for (size_t r = 0; r < rows; ++r)
            squares += (x[r * channels + c] - mean[c]) * (x[r * channels + c] - mean[c]);
        rstd[c] = 1 / sqrt(squares / (double)rows + epsilon);
        unbiased[c] = rows > 1 ? squares / (double)(rows - 1) : 0;
    }
}

static void norm_forward(lks_device *device, const norm_case *t, bool training, bool accumulate)
{
    pool p = {0};
    lks_batch_norm_attributes a = {1e-5f, t->activation, training};
    size_t channels = (size_t)t->shape.size[t->shape.axes - 1];
    lks_shape each = LKS_SHAPE((int64_t)channels);
    harness_tensor in[] = {harness_random(t->shape, 1, t->low, t->high),
                           harness_random(each, 2, -2, 2),
                           harness_random(each, 3, -1, 1),
                           harness_random(each, 4, t->low, t->high),
                           harness_random(each, 5, .5, 2),
                           t->residual ? harness_random(t->shape, 6, -2, 2) : harness_absent()};
    harness_tensor out[] = {harness_output(t->shape, false), harness_output(each, false),
                            harness_output(each, false), harness_output(each, accumulate),
                            harness_output(each, accumulate)};
    harness_call call = call_of("batch_norm", &a, in, 6, out, training ? 5 : 1);
    size_t count = harness_count(&in[0]);
    double *x = take_copy(&p, &in[0]), *mean = take_copy(&p, &in[3]), *rstd = take(&p, channels);
    double *unbiased = take(&p, channels), *y = take(&p, count), *scale = take(&p, count);
    double *mean_scale = take(&p, channels);
    if (training)
        norm_statistics(x, count / channels, channels, (double)a.epsilon, mean, rstd, unbiased);
    for (size_t c = 0; c < channels; ++c) {
        if (!training)
            rstd[c] = 1 / sqrt((double)harness_f32(&in[4])[c] + (double)a.epsilon);
        mean_scale[c] = fabs(mean[c]) + 1e-6 * (fabs(t->low) + fabs(t->high)); /* f64 sums */
    }
    for (size_t i = 0; i < count; ++i) {
        size_t c = i % channels;
        double gain = (double)harness_f32(&in[1])[c], bias = (double)harness_f32(&in[2])[c];
        double residual = t->residual ? (double)harness_f32(&in[5])[i] : 0;
        y[i] = (x[i] - mean[c]) * rstd[c] * gain + bias + residual;
        if (t->activation == LKS_RELU && y[i] < 0)
            y[i] = 0;
        scale[i] = (fabs(x[i] - mean[c]) + fabs(mean[c])) * rstd[c] * fabs(gain) + fabs(bias) +
                   fabs(residual);
    }
    harness_run(device, &call);
    /* mean 1, x - mean 1, rstd 1 (without training sum, root and division: 3), times gain 1,
     * product 1, two sums 2. */
    harness_check(&out[0], "batch_norm y", y, scale, 9);
    if (training) {
        harness_check(&out[1], "mean", mean, mean_scale, 1);
        harness_check(&out[2], "rstd", rstd, rstd, 1.001);
        harness_check(&out[3], "mean_stat", mean, mean_scale, 1);
        harness_check(&out[4], "variance_stat", unbiased, unbiased, 1.001);
    }
    call.output_count = COUNT(out);
    harness_release(&call);
    drop(&p);
}

typedef struct norm_sums {
    size_t rows, channels;
    const double *x, *gain, *mean, *rstd, *y /* NULL: identity */, *dy;
    double *dx, *dx_scale, *dgain, *dgain_scale, *dbias, *dbias_scale, *dz, *dz_scale;
} norm_sums;

/* The analytic gradient and the sizes of its terms. */
static void norm_gradient(const norm_sums *s)
{
    double rows = (double)s->rows;
    for (size_t c = 0; c < s->channels; ++c) {
        s->dgain[c] = s->dgain_scale[c] = s->dbias[c] = s->dbias_scale[c] = 0;
        for (size_t i = c; i < s->rows * s->channels; i += s->channels) {
            double dz = s->y && s->y[i] <= 0 ? 0 : s->dy[i];
            double normal = (s->x[i] - s->mean[c]) * s->rstd[c];
            s->dz[i] = dz;
            s->dbias[c] += dz;
            s->dbias_scale[c] += fabs(dz);
            s->dgain[c] += dz * normal;
            s->dgain_scale[c] += fabs(dz * normal);
        }
        for (size_t i = c; i < s->rows * s->channels; i += s->channels) {
            double normal = (s->x[i] - s->mean[c]) * s->rstd[c], factor = s->gain[c] * s->rstd[c];
            s->dx[i] = factor * (s->dz[i] - s->dbias[c] / rows - normal * s->dgain[c] / rows);
            s->dx_scale[i] = fabs(factor) * (fabs(s->dz[i]) + s->dbias_scale[c] / rows +
                                             fabs(normal) * s->dgain_scale[c] / rows);
        }
    }
}

static norm_sums norm_sums_of(pool *p, harness_tensor *in, size_t count, size_t channels)
{
    norm_sums s = {.rows = count / channels, .channels = channels};
    s.x = take_copy(p, &in[0]), s.gain = take_copy(p, &in[1]);
    s.mean = take_copy(p, &in[2]), s.rstd = take_copy(p, &in[3]);
    s.y = in[4].data ? take_copy(p, &in[4]) : NULL;
    s.dy = take_copy(p, &in[5]);
    s.dx = take(p, count), s.dx_scale = take(p, count);
    s.dz = take(p, count), s.dz_scale = take(p, count);
    s.dgain = take(p, channels), s.dgain_scale = take(p, channels);
    s.dbias = take(p, channels), s.dbias_scale = take(p, channels);
    return s;
}

static void norm_backward(lks_device *device, const norm_case *t, bool accumulate)
{
    pool p = {0};
    lks_batch_norm_attributes a = {1e-5f, t->activation, true};
    size_t channels = (size_t)t->shape.size[t->shape.axes - 1];
    lks_shape each = LKS_SHAPE((int64_t)channels);
    harness_tensor in[] = {harness_random(t->shape, 1, t->low, t->high),
                           harness_random(each, 2, -2, 2),
                           harness_zeros(LKS_F32, each),
                           harness_zeros(LKS_F32, each),
                           t->activation == LKS_RELU ? harness_random(t->shape, 7, -1, 1)
                                                     : harness_absent(),
                           harness_random(t->shape, 8, -1, 1)};
    harness_tensor out[] = {harness_output(t->shape, accumulate), harness_output(each, accumulate),
                            harness_output(each, accumulate),
                            t->residual ? harness_output(t->shape, accumulate) : harness_absent()};
    harness_call call = call_of("batch_norm_grad", &a, in, 6, out, 4);
    size_t count = harness_count(&in[0]);
    double *x = take_copy(&p, &in[0]), *mean = take(&p, channels), *rstd = take(&p, channels);
    double *unbiased = take(&p, channels);
    norm_statistics(x, count / channels, channels, (double)a.epsilon, mean, rstd, unbiased);
    for (size_t c = 0; c < channels; ++c) {
        harness_f32(&in[2])[c] = (float)mean[c];
        harness_f32(&in[3])[c] = (float)rstd[c];
    }
    norm_sums s = norm_sums_of(&p, in, count, channels);
    norm_gradient(&s);
    harness_run(device, &call);
    /* dx: gain rstd 1, its product 1, two differences 2, and the longest term: x - mean 1,
     * in the sum and outside it, slope 1, product 1. */
    harness_check(&out[0], "batch_norm dx", s.dx, s.dx_scale, 8);
    harness_check(&out[1], "batch_norm dgain", s.dgain, s.dgain_scale, 2.001); /* x - mean, out */
    harness_check(&out[2], "batch_norm dbias", s.dbias, s.dbias_scale, 1.001);
    if (t->residual)
        harness_check(&out[3], "batch_norm dresidual", s.dz, s.dz_scale, 0);
    harness_release(&call);
    drop(&p);
}

START_TEST(test_batch_norm)
{
    const norm_case cases[] = {
        {LKS_SHAPE(2, 3, 3, 1), LKS_IDENTITY, false, -1, 1},
        {LKS_SHAPE(2, 5, 3, 3), LKS_RELU, false, -1, 3},
        {LKS_SHAPE(4, 7, 7, 64), LKS_RELU, true, -1, 1},
        {LKS_SHAPE(3, 6, 5, 33), LKS_IDENTITY, true, 0, 5},
        {LKS_SHAPE(2, 17), LKS_RELU, true, -1, 1},
        {LKS_SHAPE(50, 8), LKS_IDENTITY, false, 1000, 1000.5},
        {LKS_SHAPE(2, 30, 30, 20), LKS_RELU, true, -300, -299},
    };
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(cases); ++k)
        for (int form = 0; form < 2; ++form) {
            norm_forward(device, &cases[k], true, form);
            norm_backward(device, &cases[k], form);
            norm_forward(device, &cases[k], false, false);
        }
    lks_device_close(device);
}
END_TEST

/* The running variance of a single row must not spoil a model with NaN. */
START_TEST(test_batch_norm_one_row)
{
    lks_device *device = harness_open(_i);
    const norm_case one = {LKS_SHAPE(1, 1, 1, 5), LKS_RELU, false, -1, 1};
    norm_forward(device, &one, true, false);
    norm_backward(device, &one, false);
    lks_device_close(device);
}
END_TEST

typedef struct norm_loss {
    size_t rows, channels;
    double *x, *gain, *bias, *residual;
    const double *dy;
    bool relu;
    double *mean, *rstd, *unbiased, *y;
} norm_loss;

static double norm_sum(void *user)
{
    const norm_loss *l = user;
    double sum = 0;
    norm_statistics(l->x, l->rows, l->channels, 1e-5, l->mean, l->rstd, l->unbiased);
    for (size_t i = 0; i < l->rows * l->channels; ++i) {
        size_t c = i % l->channels;
        l->y[i] = (l->x[i] - l->mean[c]) * l->rstd[c] * l->gain[c] + l->bias[c] + l->residual[i];
        if (l->relu && l->y[i] < 0)
            l->y[i] = 0;
        sum += l->dy[i] * l->y[i];
    }
    return sum;
}

/* The analytic gradient that the kernel was compared with is the true one. */
START_TEST(test_batch_norm_differences)
{
    enum { ROWS = 11, CHANNELS = 3, ALL = ROWS * CHANNELS };
    for (int relu = 0; relu < 2; ++relu) {
        pool p = {0};
        harness_tensor in[6] = {harness_random(LKS_SHAPE(ALL), 1, -1, 1),
                                harness_random(LKS_SHAPE(CHANNELS), 2, 1, 2),
                                harness_random(LKS_SHAPE(CHANNELS), 3, -1, 1),
                                harness_random(LKS_SHAPE(CHANNELS), 3, -1, 1),
                                harness_random(LKS_SHAPE(ALL), 4, -1, 1),
                                harness_random(LKS_SHAPE(ALL), 5, -1, 1)};
        norm_loss l = {ROWS,
                       CHANNELS,
                       take_copy(&p, &in[0]),
                       take_copy(&p, &in[1]),
                       take_copy(&p, &in[2]),
                       take_copy(&p, &in[4]),
                       take_copy(&p, &in[5]),
                       relu,
                       take(&p, CHANNELS),
                       take(&p, CHANNELS),
                       take(&p, CHANNELS),
                       take(&p, ALL)};
        norm_sum(&l);
        norm_sums s = {.rows = ROWS,
                       .channels = CHANNELS,
                       .x = l.x,
                       .gain = l.gain,
                       .mean = l.mean,
                       .rstd = l.rstd,
                       .y = relu ? l.y : NULL,
                       .dy = l.dy};
        pool q = {0};
        s.dx = take(&q, ALL), s.dx_scale = take(&q, ALL), s.dz = take(&q, ALL);
        s.dgain = take(&q, CHANNELS), s.dgain_scale = take(&q, CHANNELS);
        s.dbias = take(&q, CHANNELS), s.dbias_scale = take(&q, CHANNELS);
        norm_gradient(&s);
        double *differences = take(&q, ALL);
        harness_differentiate(norm_sum, &l, l.x, ALL, 1e-4, differences);
        agree("batch_norm dx", s.dx, differences, ALL);
        harness_differentiate(norm_sum, &l, l.gain, CHANNELS, 1e-4, differences);
        agree("batch_norm dgain", s.dgain, differences, CHANNELS);
        harness_differentiate(norm_sum, &l, l.bias, CHANNELS, 1e-4, differences);
        agree("batch_norm dbias", s.dbias, differences, CHANNELS);
        harness_differentiate(norm_sum, &l, l.residual, ALL, 1e-4, differences);
        agree("batch_norm dresidual", s.dz, differences, ALL);
        harness_call data = {.inputs = in, .input_count = 6};
        harness_release(&data);
        drop(&p);
        drop(&q);
    }
}
END_TEST

/* --- pool2d -------------------------------------------------------------------------------- */

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
    harness_tensor grad_in[] = {harness_random(x_shape, 1, -2, 2), harness_zeros(LKS_F32, y_shape),
                                harness_random(y_shape, 2, -1, 1)};
    harness_tensor grad_out[] = {harness_output(x_shape, accumulate)};
    harness_call grad = call_of("pool2d_grad", &t->a, grad_in, 3, grad_out, 1);
    double *x = take_copy(&p, &in[0]), *dy = take_copy(&p, &grad_in[2]), *y = take(&p, y_count);
    double *dx = take(&p, x_count), *dx_size = take(&p, x_count), *y_size = take(&p, y_count);
    pool_reference(t, x, y, dy, dx, dx_size);
    for (size_t i = 0; i < y_count; ++i) {
        harness_f32(&grad_in[1])[i] = (float)y[i];
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

/* --- What is refused ------------------------------------------------------------------------- */

static void refused(lks_device *device, const char *kernel, const void *attributes,
                    const lks_shape *in, int in_count, const lks_shape *out, int out_count,
                    const char *why)
{
    harness_tensor inputs[4], outputs[4];
    for (int i = 0; i < in_count; ++i)
        inputs[i] = harness_zeros(LKS_F32, in[i]);
    for (int i = 0; i < out_count; ++i)
        outputs[i] = harness_zeros(LKS_F32, out[i]);
    harness_call call = call_of(kernel, attributes, inputs, in_count, outputs, out_count);
    ck_assert_msg(harness_try(device, &call) == LKS_ERR_INTERNAL, "%s took %s", kernel, why);
    ck_assert_msg(strstr(lks_status_message(), kernel) && strstr(lks_status_message(), why),
                  "%s: \"%s\" does not speak of %s", kernel, lks_status_message(), why);
    harness_release(&call);
}

START_TEST(test_refusals)
{
    lks_device *device = harness_open(_i);
    const lks_shape five = LKS_SHAPE(5), six = LKS_SHAPE(6), image = LKS_SHAPE(1, 8, 8, 4);
    const lks_shape filter = LKS_SHAPE(6, 3, 3, 4), smaller = LKS_SHAPE(1, 6, 6, 6);
    lks_unary_attributes relu = {.function = LKS_UNARY_RELU};
    refused(device, "unary", &relu, &five, 1, &six, 1, "6");
    refused(device, "unary", NULL, &five, 1, &five, 1, "attributes");
    lks_binary_attributes add = {LKS_BINARY_ADD};
    refused(device, "binary", &add, (lks_shape[]){LKS_SHAPE(3, 5), six}, 2,
            (lks_shape[]){LKS_SHAPE(3, 5)}, 1, "suffix");
    lks_matmul_attributes plain = {false, false, 1};
    refused(device, "matmul", &plain, (lks_shape[]){LKS_SHAPE(3, 5), LKS_SHAPE(6, 2)}, 2,
            (lks_shape[]){LKS_SHAPE(3, 2)}, 1, "columns");
    refused(device, "matmul", &plain, (lks_shape[]){LKS_SHAPE(2, 3, 5), LKS_SHAPE(4, 5, 2)}, 2,
            (lks_shape[]){LKS_SHAPE(2, 3, 2)}, 1, "leading");
    lks_conv2d_attributes unit = {1, 0, 1}, pairs = {1, 0, 2};
    refused(device, "conv2d", &pairs, (lks_shape[]){image, filter}, 2, &smaller, 1, "groups");
    refused(device, "conv2d", &unit, (lks_shape[]){image, filter}, 2, &image, 1, "1x6x6x6");
    refused(device, "conv2d", &unit, (lks_shape[]){LKS_SHAPE(1, 2, 2, 4), filter}, 2, &smaller, 1,
            "larger");
    lks_pool2d_attributes wide = {LKS_POOL_MAX, 2, 2, 1, 2};
    refused(device, "pool2d", &wide, &image, 1, &image, 1, "padding");
    lks_permute_attributes twice = {{0, 0}};
    refused(device, "permute", &twice, (lks_shape[]){LKS_SHAPE(2, 2)}, 1,
            (lks_shape[]){LKS_SHAPE(2, 2)}, 1, "permutation");
    lks_slice_attributes beyond = {1, 5, 1, 3, 3};
    refused(device, "slice", &beyond, &five, 1, (lks_shape[]){LKS_SHAPE(3)}, 1, "range");
    lks_reduce_attributes half = {1, 3, 1, 1};
    refused(device, "reduce", &half, &five, 1, (lks_shape[]){LKS_SHAPE(1)}, 1, "elements");
    lks_batch_norm_attributes fixed = {1e-5f, LKS_IDENTITY, false};
    refused(device, "batch_norm_grad", &fixed, &image, 1, &image, 1, "training");
    lks_device_close(device);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("kernels b");
    TCase *tcase = tcase_create("kernels b");
    tcase_set_timeout(tcase, 60);
    suite_add_tcase(suite, tcase);
    HARNESS_ADD(tcase, test_unary);
    HARNESS_ADD(tcase, test_unary_extremes);
    HARNESS_ADD(tcase, test_binary);
    HARNESS_ADD(tcase, test_matmul);
    HARNESS_ADD(tcase, test_softmax);
    HARNESS_ADD(tcase, test_reduce_expand);
    HARNESS_ADD(tcase, test_permute);
    HARNESS_ADD(tcase, test_slice);
    HARNESS_ADD(tcase, test_image);
    HARNESS_ADD(tcase, test_squared_error);
    HARNESS_ADD(tcase, test_conv2d);
    HARNESS_ADD(tcase, test_conv2d_differences);
    HARNESS_ADD(tcase, test_batch_norm);
    HARNESS_ADD(tcase, test_batch_norm_one_row);
    tcase_add_test(tcase, test_batch_norm_differences);
    HARNESS_ADD(tcase, test_pool2d);
    HARNESS_ADD(tcase, test_pool2d_nan);
    HARNESS_ADD(tcase, test_refusals);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
