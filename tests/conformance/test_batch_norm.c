#include "tests/conformance/test_kernels_b.h"

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
                           harness_random_f32(each, 4, t->low, t->high),
                           harness_random_f32(each, 5, .5, 2),
                           t->residual ? harness_random(t->shape, 6, -2, 2) : harness_absent()};
    harness_tensor out[] = {harness_output(t->shape, false), harness_output_f32(each, false),
                            harness_output_f32(each, false), harness_output_f32(each, accumulate),
                            harness_output_f32(each, accumulate)};
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
    harness_tensor out[] = {harness_output(t->shape, accumulate),
                            harness_output_f32(each, accumulate),
                            harness_output_f32(each, accumulate),
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

TCase *batch_norm_cases(void)
{
    TCase *tcase = tcase_create("batch norm");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_batch_norm);
    HARNESS_ADD(tcase, test_batch_norm_one_row);
    tcase_add_test(tcase, test_batch_norm_differences);
    return tcase;
}
