/* embedding, cross_entropy and dropout. */
#include "tests/conformance/test_kernels_a.h"

#include "runtime/base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- embedding ------------------------------------------------------------------ */

typedef struct embedding_shape {
    int64_t samples, length, vocabulary, width;
} embedding_shape;

static const embedding_shape embeddings[] = {{1, 1, 1, 1},     {2, 5, 7, 3},     {4, 9, 300, 33},
                                             {3, 64, 11, 128}, {2, 650, 300, 4}, {5, 67, 2, 8}};

static void run_embedding(lks_device *device, const embedding_shape *s, bool place)
{
    int64_t rows = s->samples * s->length;
    harness_tensor in[3] = {
        harness_random_integers(LKS_SHAPE(s->samples, s->length), 1, 0, (int)s->vocabulary),
        harness_random(LKS_SHAPE(s->vocabulary, s->width), 2, -1, 1),
        place ? harness_random(LKS_SHAPE(s->length, s->width), 3, -1, 1) : harness_absent()};
    harness_tensor out[1] = {harness_output(LKS_SHAPE(s->samples, s->length, s->width), false)};
    harness_call call = {"embedding", NULL, in, 3, out, 1, NULL};
    harness_run(device, &call);
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < s->width; ++i) {
            float wanted = harness_f32(&in[1])[harness_i32(&in[0])[row] * s->width + i];
            if (place)
                wanted += harness_f32(&in[2])[row % s->length * s->width + i];
            harness_expect("y", (size_t)(row * s->width + i),
                           harness_f32(&out[0])[row * s->width + i], harness_rounded(wanted), 0);
        }
    harness_release(&call);
}

/* Rows are added one after the other: exactly these sums on the cpu. Another device may add those of a token in another
 * order: n additions err by n u of the sum of sizes. */
static void run_embedding_grad(lks_device *device, const embedding_shape *s, bool place,
                               bool accumulate)
{
    int64_t rows = s->samples * s->length;
    lks_shape table = LKS_SHAPE(s->vocabulary, s->width), places = LKS_SHAPE(s->length, s->width);
    harness_tensor in[2] = {
        harness_random_integers(LKS_SHAPE(s->samples, s->length), 1, 0, (int)s->vocabulary),
        harness_random(LKS_SHAPE(s->samples, s->length, s->width), 2, -1, 1)};
    harness_tensor out[2] = {harness_output_f32(table, accumulate),
                             place ? harness_output_f32(places, accumulate) : harness_absent()};
    harness_call call = {"embedding_grad", NULL, in, 2, out, 2, NULL};
    harness_run(device, &call);
    float *dtable = calloc(harness_count(&out[0]), sizeof *dtable);
    float *dplace = calloc((size_t)(s->length * s->width), sizeof *dplace);
    double *exact = harness_f64(harness_count(&out[0]));
    double *sizes = harness_f64(harness_count(&out[0]));
    if (accumulate) {
        memcpy(dtable, out[0].before, harness_count(&out[0]) * sizeof *dtable);
        if (place)
            memcpy(dplace, out[1].before, harness_count(&out[1]) * sizeof *dplace);
    }
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t i = 0; i < s->width; ++i) {
            float dy = harness_f32(&in[1])[row * s->width + i];
            dtable[harness_i32(&in[0])[row] * s->width + i] += dy;
            exact[harness_i32(&in[0])[row] * s->width + i] += dy;
            sizes[harness_i32(&in[0])[row] * s->width + i] += fabsf(dy);
            dplace[row % s->length * s->width + i] += dy;
        }
    harness_check(&out[0], "dtable", exact, sizes, (double)rows);
    if (harness_on_cpu())
        ck_assert_mem_eq(out[0].data, dtable, harness_count(&out[0]) * sizeof *dtable);
    if (place)
        ck_assert_mem_eq(out[1].data, dplace, harness_count(&out[1]) * sizeof *dplace);
    free(dtable), free(dplace), free(exact), free(sizes);
    harness_release(&call);
}

START_TEST(test_embedding)
{
    lks_device *device = harness_open(_i);
    for (size_t i = 0; i < sizeof embeddings / sizeof *embeddings; ++i)
        for (int options = 0; options < 4; ++options) {
            if (options < 2)
                run_embedding(device, &embeddings[i], options);
            run_embedding_grad(device, &embeddings[i], options & 1, options & 2);
        }
    lks_device_close(device);
}
END_TEST

START_TEST(test_bad_ids)
{
    static const int32_t bad[] = {7, -1};
    lks_device *device = harness_open(_i);
    for (int i = 0; i < 2; ++i)
        for (int grad = 0; grad < 2; ++grad) {
            harness_tensor in[2] = {
                harness_random_integers(LKS_SHAPE(1, 4), 1, 0, 7),
                harness_random(grad ? LKS_SHAPE(4, 3) : LKS_SHAPE(7, 3), 2, 0, 1)};
            harness_tensor out[1] = {grad ? harness_output_f32(LKS_SHAPE(7, 3), false)
                                          : harness_output(LKS_SHAPE(1, 4, 3), false)};
            char wanted[64];
            harness_i32(&in[0])[2] = bad[i];
            snprintf(wanted, sizeof wanted, "token id %d at row 2 ", (int)bad[i]);
            harness_call call = {grad ? "embedding_grad" : "embedding", NULL, in, 2, out, 1, NULL};
            ck_assert_int_eq(harness_try(device, &call), LKS_ERR_CORRUPT);
            ck_assert_ptr_nonnull(strstr(lks_status_message(), wanted));
            ck_assert_ptr_nonnull(strstr(lks_status_message(), "vocabulary of 7"));
            harness_release(&call);
        }
    lks_device_close(device);
}
END_TEST

/* --- cross_entropy --------------------------------------------------------------- */

static double row_lse(const float *x, int64_t classes)
{
    double largest = -INFINITY, sum = 0;
    for (int64_t i = 0; i < classes; ++i)
        largest = fmax(largest, x[i]);
    for (int64_t i = 0; i < classes; ++i)
        sum += exp(x[i] - largest);
    return largest + log(sum);
}

static double row_spread(const float *x, int64_t classes)
{
    double low = INFINITY, high = -INFINITY;
    for (int64_t i = 0; i < classes; ++i) {
        low = fmin(low, x[i]);
        high = fmax(high, x[i]);
    }
    return high - low;
}

static int64_t first_largest(const float *x, int64_t classes)
{
    int64_t at = 0;
    for (int64_t i = 1; i < classes; ++i)
        if (x[i] > x[at])
            at = i;
    return at;
}

/* An exponential errs by (spread + 4) u of itself (rounding of x - largest, and
 * exp), a run of 1,024 by 1024/16 + 5 u; the rest is f64. */
static void check_cross_entropy(const harness_tensor *in, const harness_tensor *out, int64_t rows,
                                int64_t columns, int64_t classes)
{
    double loss = 0, allowed = 0, valid = 0, right = 0;
    for (int64_t row = 0; row < rows; ++row) {
        const float *x = harness_f32(&in[0]) + row * columns;
        int32_t target = harness_i32(&in[1])[row];
        if (target < 0)
            continue;
        loss += row_lse(x, classes) - x[target];
        allowed += row_spread(x, classes) + 74;
        valid += 1;
        right += first_largest(x, classes) == target;
    }
    const double *stats = out[1].data;
    ck_assert_double_eq_tol(stats[0], loss, allowed * 0x1p-24);
    ck_assert(stats[1] == valid && stats[2] == right);
}

/* p = exp(x - lse): the argument errs by u |x - lse| and, since lse is f32 and made of a sum that errs as above, by
 * u (|lse| + spread + 74); exp by 4 u. */
static void check_cross_entropy_gradient(const harness_tensor *in, const harness_tensor *dlogits,
                                         int64_t rows, int64_t columns, int64_t classes)
{
    double *wanted = harness_f64((size_t)(rows * columns));
    double *scale = harness_f64((size_t)(rows * columns));
    for (int64_t row = 0; row < rows; ++row) {
        const float *x = harness_f32(&in[0]) + row * columns;
        int32_t target = harness_i32(&in[1])[row];
        double lse = row_lse(x, classes), sum = fabs(lse) + row_spread(x, classes) + 78;
        for (int64_t i = 0; target >= 0 && i < classes; ++i) {
            double p = exp(x[i] - lse), one = i == target;
            wanted[row * columns + i] = p - one;
            scale[row * columns + i] = p * (fabs(x[i] - lse) + sum) + one;
        }
    }
    harness_check(dlogits, "dlogits", wanted, scale, 1);
    free(wanted), free(scale);
}

static void fill_targets(harness_tensor *targets, const harness_tensor *logits, int64_t columns,
                         int64_t classes)
{
    for (size_t row = 0; row < harness_count(targets); ++row) {
        const float *x = harness_f32(logits) + (int64_t)row * columns;
        if (row % 4 == 1) /* so that some are right */
            harness_i32(targets)[row] = (int32_t)first_largest(x, classes);
        if (row % 5 == 3)
            harness_i32(targets)[row] = -1;
    }
}

typedef enum gradient_place { NO_GRADIENT, OWN_MEMORY, OVER_LOGITS } gradient_place;

static void run_cross_entropy(lks_device *device, int64_t rows, int64_t columns, int64_t classes,
                              gradient_place place)
{
    lks_cross_entropy_attributes attributes = {classes};
    harness_tensor in[2] = {harness_random(LKS_SHAPE(rows, columns), 1, -9, 9),
                            harness_random_integers(LKS_SHAPE(rows), 2, 0, (int)classes)};
    for (int64_t i = 0; i < rows * columns; ++i) /* equal logits, and padding that would win */
        harness_f32(&in[0])[i] =
            i % columns >= classes ? 50.0f : floorf(harness_f32(&in[0])[i] * 4) / 4;
    fill_targets(&in[1], &in[0], columns, classes);
    harness_tensor out[2] = {place == NO_GRADIENT  ? harness_absent()
                             : place == OWN_MEMORY ? harness_output(LKS_SHAPE(rows, columns), false)
                                                   : harness_shared(in, 0),
                             harness_output_of(LKS_F64, LKS_SHAPE(3))};
    harness_call call = {"cross_entropy", &attributes, in, 2, out, 2, NULL};
    harness_run(device, &call);
    check_cross_entropy(in, out, rows, columns, classes);
    if (place != NO_GRADIENT)
        check_cross_entropy_gradient(in, &out[0], rows, columns, classes);
    harness_release(&call);
}

START_TEST(test_cross_entropy)
{
    static const int64_t shapes[][3] = {
        {1, 1, 1}, {5, 10, 10}, {21, 37, 33}, {9, 3001, 2999}, {4, 4136, 4123}};
    lks_device *device = harness_open(_i);
    for (int i = 0; i < 5; ++i)
        for (int place = NO_GRADIENT; place <= OVER_LOGITS; ++place)
            run_cross_entropy(device, shapes[i][0], shapes[i][1], shapes[i][2],
                              (gradient_place)place);
    lks_device_close(device);
}
END_TEST

typedef struct loss_case {
    double x[7];
    int target;
} loss_case;

static double exact_loss(void *user)
{
    const loss_case *c = user;
    double sum = 0;
    for (int i = 0; i < 7; ++i)
        sum += exp(c->x[i]);
    return log(sum) - c->x[c->target];
}

START_TEST(test_cross_entropy_derivative)
{
    lks_device *device = harness_open(_i);
    lks_cross_entropy_attributes attributes = {7};
    loss_case c = {.target = 2};
    double numeric[7], scale[7];
    harness_tensor in[2] = {harness_random(LKS_SHAPE(1, 7), 1, -2, 2),
                            harness_zeros(LKS_I32, LKS_SHAPE(1))};
    harness_tensor out[2] = {harness_output(LKS_SHAPE(1, 7), false),
                             harness_output_of(LKS_F64, LKS_SHAPE(3))};
    for (int i = 0; i < 7; ++i) {
        c.x[i] = harness_f32(&in[0])[i];
        scale[i] = 32; /* p <= 1, |x - lse| < 8, a sum of seven, and 1e-10 of the difference */
    }
    harness_i32(&in[1])[0] = c.target;
    harness_differentiate(exact_loss, &c, c.x, 7, 1e-3, numeric);
    harness_call call = {"cross_entropy", &attributes, in, 2, out, 2, NULL};
    harness_run(device, &call);
    harness_check(&out[0], "dlogits", numeric, scale, 1);
    harness_release(&call);
    lks_device_close(device);
}
END_TEST

START_TEST(test_bad_target_and_nan)
{
    lks_device *device = harness_open(_i);
    lks_cross_entropy_attributes attributes = {5};
    harness_tensor in[2] = {harness_random(LKS_SHAPE(3, 8), 1, -1, 1),
                            harness_random_integers(LKS_SHAPE(3), 2, 0, 5)};
    harness_tensor out[2] = {harness_output(LKS_SHAPE(3, 8), false),
                             harness_output_of(LKS_F64, LKS_SHAPE(3))};
    harness_call call = {"cross_entropy", &attributes, in, 2, out, 2, NULL};
    harness_i32(&in[1])[1] = 5;
    ck_assert_int_eq(harness_try(device, &call), LKS_ERR_CORRUPT);
    ck_assert_ptr_nonnull(strstr(lks_status_message(), "target 5 at row 1 "));
    harness_i32(&in[1])[1] = 4;
    harness_f32(&in[0])[9] = NAN; /* a NaN must not be lost */
    harness_run(device, &call);
    ck_assert(isnan(((double *)out[1].data)[0]) && isnan(harness_f32(&out[0])[8]));
    harness_release(&call);
    lks_device_close(device);
}
END_TEST

/* --- dropout ---------------------------------------------------------------------- */

enum { DROP_NEW, DROP_ONTO_X, DROP_ONTO_RESIDUAL, DROP_ACCUMULATE, DROP_FORMS };

static void run_dropout(lks_device *device, int64_t samples, int64_t elements, float rate,
                        bool residual, int form)
{
    static const uint64_t positions[] = {5, 1ull << 40, 77};
    lks_kernel_context context = {42, positions};
    lks_dropout_attributes attributes = {rate, 9};
    lks_shape shape = LKS_SHAPE(samples, elements);
    size_t count = (size_t)(samples * elements);
    harness_tensor in[2] = {harness_random(shape, 1, -1, 1),
                            residual ? harness_random(shape, 2, -1, 1) : harness_absent()};
    harness_tensor out[1];
    if (form == DROP_ONTO_X || form == DROP_ONTO_RESIDUAL)
        out[0] = harness_shared(in, form == DROP_ONTO_X ? 0 : 1);
    else
        out[0] = harness_output(shape, form == DROP_ACCUMULATE);
    harness_call call = {"dropout", &attributes, in, 2, out, 1, &context};
    harness_run(device, &call);
    double *y = harness_f64(count), *scale = harness_f64(count), kept = 0;
    uint64_t key = lks_rng_key(42, LKS_RNG_DROPOUT, 9);
    for (size_t i = 0; i < count; ++i) {
        uint64_t e = i % (size_t)elements, p = positions[i / (size_t)elements];
        bool keep = lks_rng_uniform(lks_rng_words(key, p, e / 4).word[e % 4]) >= rate;
        kept += keep;
        y[i] = keep ? harness_f32(&in[0])[i] / (1 - (double)rate) : 0;
        scale[i] = 3 * fabs(y[i]); /* 1 - rate, its inverse, the product */
        if (residual) {
            y[i] += harness_f32(&in[1])[i];
            scale[i] += fabs(y[i]);
        }
    }
    harness_check(&out[0], "y", y, scale, 1);
    if (count > 1000) /* five deviations */
        ck_assert_double_eq_tol(kept / (double)count, 1 - (double)rate, 2.5 / sqrt((double)count));
    free(y), free(scale);
    harness_release(&call);
}

START_TEST(test_dropout)
{
    static const int64_t shapes[][2] = {{1, 1}, {2, 5}, {3, 263}, {2, 1030}, {3, 1032}};
    static const float rates[] = {0, 0.1f, 0.5f};
    lks_device *device = harness_open(_i);
    for (int i = 0; i < 5; ++i)
        for (int r = 0; r < 3; ++r)
            for (int form = 0; form < DROP_FORMS; ++form)
                for (int residual = form == DROP_ONTO_RESIDUAL; residual < 2; ++residual)
                    run_dropout(device, shapes[i][0], shapes[i][1], rates[r], residual, form);
    lks_device_close(device);
}
END_TEST

TCase *token_cases(void)
{
    TCase *tcase = tcase_create("tokens");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_embedding);
    HARNESS_ADD(tcase, test_bad_ids);
    HARNESS_ADD(tcase, test_cross_entropy);
    HARNESS_ADD(tcase, test_cross_entropy_derivative);
    HARNESS_ADD(tcase, test_bad_target_and_nan);
    HARNESS_ADD(tcase, test_dropout);
    return tcase;
}
