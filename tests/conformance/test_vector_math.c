/* The error bounds that kernels/cpu/vector_math.h states, over all f32 arguments
 * in steps of their bits, against libm in f64. */
#include "kernels/cpu/cpu.h"
#include "tests/conformance/test_kernels_a.h"
#include "tests/conformance/vector_arrays.h"

#include <math.h>
#include <string.h>

enum { STEP = 509, CHUNK = 1001 };
#define UNIT 0x1p-24

static double gelu_argument(double x)
{
    return 2 * sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x);
}

static double sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

static double gelu(double x)
{
    double s = sigmoid(gelu_argument(x));
    return s == 0 ? 0 : x * s;
}

static double gelu_derivative(double x)
{
    double s = sigmoid(gelu_argument(x));
    double slope = 2 * sqrt(2 / acos(-1)) * (1 + 3 * 0.044715 * x * x);
    return s + (s == 0 || s == 1 ? 0 : x * slope * s * (1 - s));
}

/* Allowed errors, in units of 2^-24. */
static double allow_exp(double x)
{
    return 4 * exp(x);
}
static double allow_expm1(double x)
{
    return 6 * fabs(expm1(x));
}
static double allow_tanh(double x)
{
    return 8 * fabs(tanh(x));
}
static double allow_sigmoid(double x)
{
    return 8 * sigmoid(x);
}
static double allow_gelu(double x)
{
    return (12 + 10 * fabs(gelu_argument(x))) * fabs(gelu(x));
}
/* Both summands of the derivative carry the error of the sigmoid's argument. */
static double allow_gelu_derivative(double x)
{
    double t = gelu_argument(x), s = sigmoid(t);
    double slope = 2 * sqrt(2 / acos(-1)) * (1 + 3 * 0.044715 * x * x);
    double product = s == 0 || s == 1 ? 0 : fabs(x) * slope * s * (1 - s);
    return (12 + 10 * fabs(t)) * (s + product);
}

static void check_chunk(const char *name, vector_function *function, double (*exact)(double),
                        double (*allow)(double), double limit, double tiny, const float *x,
                        size_t count)
{
    float y[CHUNK];
    function(x, y, count);
    for (size_t i = 0; i < count; ++i) {
        if (fabs((double)x[i]) > limit)
            continue;
        double wanted = exact(x[i]);
        if (isnan(x[i])) {
            if (!isnan(y[i]))
                ck_abort_msg("%s(NaN) is %g", name, (double)y[i]);
            continue;
        }
        bool overflows = fabs(wanted) >= 0x1.fffffep127;
        if (overflows && isinf(y[i]))
            continue;
        double allowed = allow(x[i]) * UNIT + tiny;
        if (!(fabs(y[i] - wanted) <= allowed))
            ck_abort_msg("%s(%.9g): %.9g, exact %.17g, allowed %.3g", name, (double)x[i],
                         (double)y[i], wanted, allowed);
    }
}

static void sweep(const char *name, vector_function *function, double (*exact)(double),
                  double (*allow)(double), double limit, double tiny)
{
    float x[CHUNK];
    size_t count = 0;
    for (uint64_t bits = 0; bits < (uint64_t)1 << 32; bits += STEP) {
        uint32_t word = (uint32_t)bits;
        memcpy(&x[count++], &word, sizeof word);
        if (count == CHUNK) {
            check_chunk(name, function, exact, allow, limit, tiny, x, count);
            count = 0;
        }
    }
    check_chunk(name, function, exact, allow, limit, tiny, x, count);
}

START_TEST(test_bounds)
{
    if (!lks_cpu_isa_supported(lks_cpu_isas[_i]))
        return;
    const vector_arrays *arrays = vector_arrays_all[_i];
    sweep("exp", arrays->exp, exp, allow_exp, INFINITY, 0x1p-126);
    sweep("expm1", arrays->expm1, expm1, allow_expm1, 30, 0x1p-126);
    sweep("tanh", arrays->tanh, tanh, allow_tanh, INFINITY, 0x1p-126);
    sweep("sigmoid", arrays->sigmoid, sigmoid, allow_sigmoid, INFINITY, 0x1p-126);
    sweep("gelu", arrays->gelu, gelu, allow_gelu, 0x1.fffffep127, 0x1p-122);
    sweep("gelu'", arrays->gelu_derivative, gelu_derivative, allow_gelu_derivative, 0x1.fffffep127,
          0x1p-117);
}
END_TEST

static int all_isas(void)
{
    int count = 0;
    while (lks_cpu_isas[count])
        ++count;
    return count;
}

TCase *vector_math_cases(void)
{
    TCase *tcase = tcase_create("vector math");
    tcase_set_timeout(tcase, 60);
    tcase_add_loop_test(tcase, test_bounds, 0, all_isas());
    return tcase;
}
