#include "tests/conformance/test_kernels_b.h"

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

TCase *matmul_cases(void)
{
    TCase *tcase = tcase_create("matmul");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_matmul);
    return tcase;
}
