/* norm and norm_grad. Sums over the last axis have at most C/16 + 5 additions
 * one after the other. Bounds are first order: the mean errs by (C/16 + 6) u A,
 * A = mean |s|; squares of s - mean feel that only in second order, so rstd
 * errs by (C/16 + 10) u / 2 of itself, a normal by rstd times the mean's error and a few u.
 *
 * In bf16 a kernel may take the statistics from s as it writes it, each s off by 2^-8 |s|: the mean by that of A, rstd
 * by rstd^2 mean |s - mean| |s| of itself. */
#include "tests/conformance/test_kernels_a.h"

#include <math.h>
#include <stdlib.h>

typedef struct norm_case {
    int64_t rows, width;
    lks_norm_attributes attributes;
    double *x, *gain, *bias, *dy; /* bias NULL for none */
    double *y;                    /* [rows, width] */
    double *mean, *rstd;          /* [rows] */
} norm_case;

static void norm_forward(const norm_case *c)
{
    for (int64_t row = 0; row < c->rows; ++row) {
        const double *s = c->x + row * c->width;
        double mean = 0, square = 0;
        for (int64_t i = 0; i < c->width; ++i)
            mean += s[i] / (double)c->width;
        if (c->attributes.kind == LKS_NORM_RMS)
            mean = 0;
        for (int64_t i = 0; i < c->width; ++i)
            square += (s[i] - mean) * (s[i] - mean) / (double)c->width;
        c->mean[row] = mean;
        c->rstd[row] = 1 / sqrt(square + (double)c->attributes.epsilon);
        for (int64_t i = 0; i < c->width; ++i)
            c->y[row * c->width + i] =
                (s[i] - mean) * c->rstd[row] * c->gain[i] + (c->bias ? c->bias[i] : 0);
    }
}

static double norm_loss(void *user)
{
    const norm_case *c = user;
    double loss = 0;
    norm_forward(c);
    for (int64_t i = 0; i < c->rows * c->width; ++i)
        loss += c->y[i] * c->dy[i];
    return loss;
}

static norm_case make_case(lks_norm_kind kind, int64_t rows, int64_t width)
{
    return (norm_case){.rows = rows,
                       .width = width,
                       .attributes = {kind, 1e-5f},
                       .y = harness_f64((size_t)(rows * width)),
                       .mean = harness_f64((size_t)rows),
                       .rstd = harness_f64((size_t)rows)};
}

static void free_case(norm_case *c)
{
    free(c->x), free(c->gain), free(c->bias), free(c->dy);
    free(c->y), free(c->mean), free(c->rstd);
}

static double mean_size(const double *x, int64_t count)
{
    double sum = 0;
    for (int64_t i = 0; i < count; ++i)
        sum += fabs(x[i]) / (double)count;
    return sum;
}

static void check_norm(const norm_case *c, const harness_tensor *out, const harness_tensor *in)
{
    int64_t width = c->width;
    size_t rows = (size_t)c->rows, elements = rows * (size_t)width;
    double *y_scale = harness_f64(elements), *mean_scale = harness_f64(rows);
    double *y_inner = harness_f64(elements), *rstd_inner = harness_f64(rows);
    double factor = (double)width / 16 + 12;
    for (int64_t row = 0; row < c->rows; ++row) {
        double size = mean_size(c->x + row * width, width), rstd = c->rstd[row];
        mean_scale[row] = size;
        for (int64_t i = 0; i < width; ++i) {
            double s = c->x[row * width + i];
            rstd_inner[row] +=
                rstd * rstd * rstd * fabs(s - c->mean[row]) * fabs(s) / (double)width;
        }
        for (int64_t i = 0; i < width; ++i) {
            double b = c->bias ? fabs(c->bias[i]) : 0;
            double s = fabs(c->x[row * width + i]);
            y_scale[row * width + i] =
                fabs(c->gain[i]) * c->rstd[row] * (size + s + fabs(c->mean[row])) + 2 * b;
            double difference = fabs(c->x[row * width + i] - c->mean[row]);
            y_inner[row * width + i] =
                fabs(c->gain[i]) * (rstd * (size + s) + difference * rstd_inner[row]);
        }
    }
    harness_check_inner(&out[0], "y", c->y, y_scale, factor, y_inner);
    if (out[2].data)
        harness_check_inner(&out[2], "mean", c->mean, mean_scale, factor, mean_scale);
    if (out[3].data)
        harness_check_inner(&out[3], "rstd", c->rstd, c->rstd, factor, rstd_inner);
    if (out[1].data)
        for (size_t i = 0; i < elements; ++i)
            harness_expect("s", i, harness_f32(&out[1])[i],
                           harness_rounded(harness_f32(&in[0])[i] + harness_f32(&in[1])[i]), 0);
    free(y_scale), free(mean_scale), free(y_inner), free(rstd_inner);
}

static void run_norm(lks_device *device, lks_norm_kind kind, int64_t rows, int64_t width,
                     bool residual, bool bias, bool kept)
{
    bool layer = kind == LKS_NORM_LAYER;
    lks_shape full = LKS_SHAPE(rows, width);
    norm_case c = make_case(kind, rows, width);
    harness_tensor in[4] = {harness_random(full, 1, -1, 3),
                            residual ? harness_random(full, 2, -1, 1) : harness_absent(),
                            harness_random(LKS_SHAPE(width), 3, -2, 2),
                            bias ? harness_random(LKS_SHAPE(width), 4, -1, 1) : harness_absent()};
    harness_tensor out[4] = {
        harness_output(full, false), residual ? harness_output(full, false) : harness_absent(),
        layer && kept ? harness_output_f32(LKS_SHAPE(rows), false) : harness_absent(),
        kept ? harness_output_f32(LKS_SHAPE(rows), false) : harness_absent()};
    harness_call call = {"norm", &c.attributes, in, 4, out, 4, NULL};
    harness_run(device, &call);
    c.x = harness_to_f64(&in[0]);
    for (size_t i = 0; residual && i < harness_count(&in[0]);
         ++i) /* the sum is not rounded to bf16 */
        c.x[i] = harness_f32(&in[0])[i] + harness_f32(&in[1])[i];
    c.gain = harness_to_f64(&in[2]);
    c.bias = bias ? harness_to_f64(&in[3]) : NULL;
    norm_forward(&c);
    check_norm(&c, out, in);
    free_case(&c);
    harness_release(&call);
}

START_TEST(test_norm)
{
    static const int64_t shapes[][2] = {{1, 1}, {3, 5}, {7, 16}, {33, 131}, {4, 768}, {2, 1544}};
    lks_device *device = harness_open(_i);
    for (int kind = LKS_NORM_LAYER; kind <= LKS_NORM_RMS; ++kind)
        for (int i = 0; i < 6; ++i)
            for (int options = 0; options < 8; ++options)
                if (!harness_skips(8 * i + options))
                    run_norm(device, (lks_norm_kind)kind, shapes[i][0], shapes[i][1], options & 1,
                             options & 2, options & 4);
    lks_device_close(device);
}
END_TEST

/* ds = rstd (dy g - mean(dy g) - normal mean(dy g normal)), in f64. */
static void norm_backward(const norm_case *c, double *ds, double *ds_scale, double *dgain,
                          double *dgain_scale, double *dbias, double *dbias_scale)
{
    int64_t width = c->width;
    for (int64_t row = 0; row < c->rows; ++row) {
        const double *s = c->x + row * width, *dy = c->dy + row * width;
        double rstd = c->rstd[row], mean = c->mean[row], center = 0, slope = 0;
        double center_size = 0, slope_size = 0;
        for (int64_t i = 0; i < width; ++i) {
            double g = dy[i] * c->gain[i] / (double)width, normal = (s[i] - mean) * rstd;
            double size = rstd * (fabs(s[i]) + fabs(mean)); /* the normal's error is of this size */
            center += c->attributes.kind == LKS_NORM_LAYER ? g : 0;
            center_size += fabs(g);
            slope += g * normal;
            slope_size += fabs(g) * size;
            dgain[i] += dy[i] * normal;
            dgain_scale[i] += fabs(dy[i]) * size;
            dbias[i] += dy[i];
            dbias_scale[i] += fabs(dy[i]);
        }
        for (int64_t i = 0; i < width; ++i) {
            double normal = (s[i] - mean) * rstd, size = rstd * (fabs(s[i]) + fabs(mean));
            ds[row * width + i] = rstd * (dy[i] * c->gain[i] - center - normal * slope);
            ds_scale[row * width + i] =
                rstd * (fabs(dy[i] * c->gain[i]) + center_size + size * slope_size);
        }
    }
}

static void run_norm_grad(lks_device *device, lks_norm_kind kind, int64_t rows, int64_t width,
                          int dsum, bool bias, bool accumulate)
{
    enum { NONE, GIVEN, SHARED };
    bool layer = kind == LKS_NORM_LAYER;
    lks_shape full = LKS_SHAPE(rows, width), column = LKS_SHAPE(width), line = LKS_SHAPE(rows);
    size_t elements = (size_t)(rows * width), columns = (size_t)width;
    norm_case c = make_case(kind, rows, width);
    harness_tensor in[6] = {harness_random(full, 1, -1, 2),
                            harness_random(column, 3, -2, 2),
                            layer ? harness_zeros(LKS_F32, line) : harness_absent(),
                            harness_zeros(LKS_F32, line),
                            harness_random(full, 5, -1, 1),
                            dsum != NONE ? harness_random(full, 6, -1, 1) : harness_absent()};
    c.x = harness_to_f64(&in[0]);
    c.gain = harness_to_f64(&in[1]);
    c.dy = harness_to_f64(&in[4]);
    norm_forward(&c);
    for (int64_t row = 0; row < rows; ++row) {
        harness_f32(&in[3])[row] = (float)c.rstd[row];
        if (layer)
            harness_f32(&in[2])[row] = (float)c.mean[row];
    }
    bool add = accumulate && dsum != SHARED;
    harness_tensor out[3] = {dsum == SHARED ? harness_shared(in, 5) : harness_output(full, add),
                             harness_output_f32(column, accumulate),
                             bias ? harness_output_f32(column, accumulate) : harness_absent()};
    harness_call call = {"norm_grad", &c.attributes, in, 6, out, 3, NULL};
    harness_run(device, &call);
    double *ds = harness_f64(elements), *ds_scale = harness_f64(elements);
    double *dgain = harness_f64(columns), *dgain_scale = harness_f64(columns);
    double *dbias = harness_f64(columns), *dbias_scale = harness_f64(columns);
    norm_backward(&c, ds, ds_scale, dgain, dgain_scale, dbias, dbias_scale);
    if (elements <= 120) { /* and that is the derivative of the forward pass */
        double *numeric = harness_f64(elements);
        harness_differentiate(norm_loss, &c, c.x, elements, 1e-4, numeric);
        for (size_t i = 0; i < elements && width > 2; ++i)
            harness_expect("ds", i, ds[i], numeric[i], 1e-7 * (1 + ds_scale[i]));
        harness_differentiate(norm_loss, &c, c.gain, columns, 1e-3, numeric);
        for (size_t i = 0; i < columns; ++i)
            harness_expect("dgain", i, dgain[i], numeric[i], 1e-9 * (1 + dgain_scale[i]));
        free(numeric);
    }
    for (size_t i = 0; i < elements && dsum != NONE; ++i) {
        ds[i] += harness_f32(&in[5])[i];
        ds_scale[i] += fabs((double)harness_f32(&in[5])[i]);
    }
    harness_check(&out[0], "ds", ds, ds_scale, (double)width / 16 + 12);
    harness_check(&out[1], "dgain", dgain, dgain_scale, 32 + (double)rows / 32 + 6);
    if (bias)
        harness_check(&out[2], "dbias", dbias, dbias_scale, 32 + (double)rows / 32 + 1);
    free(ds), free(ds_scale), free(dgain), free(dgain_scale), free(dbias), free(dbias_scale);
    free_case(&c);
    harness_release(&call);
}

START_TEST(test_norm_grad)
{
    static const int64_t shapes[][2] = {{1, 1}, {3, 5}, {7, 16}, {67, 131}, {4, 768}, {2, 1544}};
    lks_device *device = harness_open(_i);
    for (int kind = LKS_NORM_LAYER; kind <= LKS_NORM_RMS; ++kind)
        for (int i = 0; i < 6; ++i)
            for (int options = 0; options < 12; ++options)
                if (!harness_skips(12 * i + options))
                    run_norm_grad(device, (lks_norm_kind)kind, shapes[i][0], shapes[i][1],
                                  options / 4, options & 1, options & 2);
    lks_device_close(device);
}
END_TEST

/* More rows than a device works on at once, whether a warp or a block has one. */
START_TEST(test_norm_grad_many_rows)
{
    lks_device *device = harness_open(_i);
    run_norm_grad(device, LKS_NORM_LAYER, 4400, 16, 2, true, true);
    run_norm_grad(device, LKS_NORM_RMS, 600, 1032, 1, false, false);
    lks_device_close(device);
}
END_TEST

TCase *norm_cases(void)
{
    TCase *tcase = tcase_create("norm");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_norm);
    HARNESS_ADD(tcase, test_norm_grad);
    HARNESS_ADD(tcase, test_norm_grad_many_rows);
    return tcase;
}
