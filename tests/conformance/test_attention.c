/* attention and attention_grad against f64.
 *
 * Bounds, in u, first order. A score of query i errs by E_i = (D + 3) scale max_j sum|q k|, so a
 * probability by 2 E_i + T + 12 of itself (its own score, the sum's, T additions, exp), and
 * y by that and T additions more. Backward, P comes from lse (|lse| more); dP by D + 1 of
 * sum|dy v|, delta by D + 2 of sum|y dy| (y is f32). dS = P (f dP - delta) scale gathers these,
 * and each product over queries or keys adds its length.
 *
 * In bf16 a kernel may round P and dS, the operands of the second products, to bf16: 2^-8 of each term of
 * y, dq, dk and dv. */
#include "tests/conformance/test_kernels_a.h"

#include "runtime/base/rng.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct attention_case {
    lks_attention_attributes with;
    int64_t samples, length, stride;
    double *qkv, *dy;
    double *y, *y_scale, *lse,
        *lse_scale; /* y [samples, length, heads width]; lse [samples, heads, length] */
    double *dqkv, *dqkv_scale;
    double *y_terms, *dqkv_terms; /* sums of the terms' sizes */
    double *factor;               /* [samples, heads, length, length] */
} attention_case;

static const uint64_t positions[] = {3, 1000003};
static const lks_kernel_context context = {17, positions};

static attention_case make_case(lks_attention_attributes with, int64_t samples, int64_t length)
{
    attention_case c = {.with = with, .samples = samples, .length = length};
    c.stride = (with.heads + 2 * with.kv_heads) * with.width;
    size_t tokens = (size_t)(samples * length), heads = (size_t)with.heads;
    c.dy = harness_f64(tokens * heads * (size_t)with.width);
    c.y = harness_f64(tokens * heads * (size_t)with.width);
    c.y_scale = harness_f64(tokens * heads * (size_t)with.width);
    c.y_terms = harness_f64(tokens * heads * (size_t)with.width);
    c.dqkv_terms = harness_f64(tokens * (size_t)c.stride);
    c.lse = harness_f64(tokens * heads);
    c.lse_scale = harness_f64(tokens * heads);
    c.dqkv = harness_f64(tokens * (size_t)c.stride);
    c.dqkv_scale = harness_f64(tokens * (size_t)c.stride);
    c.factor = harness_f64(tokens * heads * (size_t)length);
    uint64_t key = lks_rng_key(context.seed, LKS_RNG_DROPOUT, with.instance);
    uint64_t per_sample = heads * (uint64_t)(length * length);
    for (uint64_t i = 0; i < per_sample * (uint64_t)samples; ++i) {
        uint64_t e = i % per_sample;
        uint32_t word = lks_rng_words(key, positions[i / per_sample], e / 4).word[e % 4];
        c.factor[i] = lks_rng_uniform(word) >= with.dropout ? 1 / (1 - (double)with.dropout) : 0;
    }
    return c;
}

static void free_case(attention_case *c)
{
    free(c->qkv), free(c->dy), free(c->y), free(c->y_scale), free(c->lse), free(c->lse_scale);
    free(c->dqkv), free(c->dqkv_scale), free(c->factor), free(c->y_terms), free(c->dqkv_terms);
}

/* Offsets in qkv of the vectors of one token. */
static int64_t query_at(const attention_case *c, int64_t b, int64_t h, int64_t t)
{
    return (b * c->length + t) * c->stride + h * c->with.width;
}
static int64_t key_at(const attention_case *c, int64_t b, int64_t h, int64_t t)
{
    int64_t group = h / (c->with.heads / c->with.kv_heads);
    return (b * c->length + t) * c->stride + (c->with.heads + group) * c->with.width;
}
static int64_t value_at(const attention_case *c, int64_t b, int64_t h, int64_t t)
{
    return key_at(c, b, h, t) + c->with.kv_heads * c->with.width;
}
static int64_t result_at(const attention_case *c, int64_t b, int64_t h, int64_t t)
{
    return ((b * c->length + t) * c->with.heads + h) * c->with.width;
}

static double dot(const double *a, const double *b, int64_t count, double *size)
{
    double sum = 0;
    *size = 0;
    for (int64_t i = 0; i < count; ++i) {
        sum += a[i] * b[i];
        *size += fabs(a[i] * b[i]);
    }
    return sum;
}

/* One query: its probabilities, the log of their sum, and E_i. */
static double probabilities(const attention_case *c, int64_t b, int64_t h, int64_t t, double *p,
                            double *error)
{
    int64_t keys = c->with.causal ? t + 1 : c->length;
    double scale = (double)c->with.scale, largest = -INFINITY, sum = 0, size;
    *error = 0;
    for (int64_t j = 0; j < keys; ++j) {
        p[j] = scale * dot(c->qkv + query_at(c, b, h, t), c->qkv + key_at(c, b, h, j),
                           c->with.width, &size);
        largest = fmax(largest, p[j]);
        *error = fmax(*error, ((double)c->with.width + 3) * scale * size);
    }
    for (int64_t j = 0; j < keys; ++j)
        sum += p[j] = exp(p[j] - largest);
    for (int64_t j = 0; j < keys; ++j)
        p[j] /= sum;
    return largest + log(sum);
}

static void query_forward(const attention_case *c, int64_t b, int64_t h, int64_t t, double *p)
{
    int64_t keys = c->with.causal ? t + 1 : c->length, line = (b * c->with.heads + h) * c->length;
    double error;
    c->lse[line + t] = probabilities(c, b, h, t, p, &error);
    c->lse_scale[line + t] = error + fabs(c->lse[line + t]) + (double)c->length + 8;
    double *y = c->y + result_at(c, b, h, t), *scale = c->y_scale + result_at(c, b, h, t);
    memset(y, 0, (size_t)c->with.width * sizeof *y);
    double *terms = c->y_terms + result_at(c, b, h, t);
    memset(scale, 0, (size_t)c->with.width * sizeof *scale);
    memset(terms, 0, (size_t)c->with.width * sizeof *terms);
    for (int64_t j = 0; j < keys; ++j)
        for (int64_t d = 0; d < c->with.width; ++d) {
            double v = c->qkv[value_at(c, b, h, j) + d];
            double weight = p[j] * c->factor[(line + t) * c->length + j];
            y[d] += weight * v;
            terms[d] += weight * fabs(v);
            scale[d] += weight * fabs(v) * (2 * error + 2 * (double)c->length + 16);
        }
}

static void forward(const attention_case *c)
{
    double *p = harness_f64((size_t)c->length);
    for (int64_t b = 0; b < c->samples; ++b)
        for (int64_t h = 0; h < c->with.heads; ++h)
            for (int64_t t = 0; t < c->length; ++t)
                query_forward(c, b, h, t, p);
    free(p);
}

static double loss(void *user)
{
    const attention_case *c = user;
    double sum = 0;
    forward(c);
    for (int64_t i = 0; i < c->samples * c->length * c->with.heads * c->with.width; ++i)
        sum += c->y[i] * c->dy[i];
    return sum;
}

static void query_backward(const attention_case *c, int64_t b, int64_t h, int64_t t, double *p)
{
    int64_t keys = c->with.causal ? t + 1 : c->length, line = (b * c->with.heads + h) * c->length;
    int64_t q = query_at(c, b, h, t), width = c->with.width;
    double error, delta_size, length = (double)c->length * c->with.heads / c->with.kv_heads;
    double lse = probabilities(c, b, h, t, p, &error), scale = (double)c->with.scale;
    const double *dy = c->dy + result_at(c, b, h, t);
    double delta = dot(c->y + result_at(c, b, h, t), dy, width, &delta_size);
    double p_error = error + fabs(lse) + 12;
    for (int64_t j = 0; j < keys; ++j) {
        int64_t k = key_at(c, b, h, j), v = value_at(c, b, h, j);
        double f = c->factor[(line + t) * c->length + j], dp_size;
        double dp = f * dot(dy, c->qkv + v, width, &dp_size);
        double ds = p[j] * (dp - delta) * scale;
        double ds_error = p[j] * scale *
                              ((p_error + 4) * (fabs(dp) + fabs(delta)) +
                               ((double)width + 4) * (f * dp_size + delta_size)) +
                          length * fabs(ds);
        for (int64_t d = 0; d < width; ++d) {
            c->dqkv_terms[q + d] += fabs(ds * c->qkv[k + d]);
            c->dqkv_terms[k + d] += fabs(ds * c->qkv[q + d]);
            c->dqkv_terms[v + d] += p[j] * f * fabs(dy[d]);
            c->dqkv[q + d] += ds * c->qkv[k + d];
            c->dqkv_scale[q + d] += ds_error * fabs(c->qkv[k + d]);
            c->dqkv[k + d] += ds * c->qkv[q + d];
            c->dqkv_scale[k + d] += ds_error * fabs(c->qkv[q + d]);
            c->dqkv[v + d] += p[j] * f * dy[d];
            c->dqkv_scale[v + d] += p[j] * f * fabs(dy[d]) * (p_error + length);
        }
    }
}

static void backward(const attention_case *c)
{
    double *p = harness_f64((size_t)c->length);
    for (int64_t b = 0; b < c->samples; ++b)
        for (int64_t h = 0; h < c->with.heads; ++h)
            for (int64_t t = 0; t < c->length; ++t)
                query_backward(c, b, h, t, p);
    free(p);
}

static void run_attention(lks_device *device, const lks_attention_attributes *with, int64_t samples,
                          int64_t length, bool kept)
{
    attention_case c = make_case(*with, samples, length);
    harness_tensor in[1] = {harness_random(LKS_SHAPE(samples, length, c.stride), 1, -1.5, 1.5)};
    harness_tensor out[2] = {
        harness_output(LKS_SHAPE(samples, length, with->heads * with->width), false),
        kept ? harness_output_f32(LKS_SHAPE(samples, with->heads, length), false)
             : harness_absent()};
    harness_call call = {"attention", with, in, 1, out, 2, &context};
    harness_run(device, &call);
    c.qkv = harness_to_f64(&in[0]);
    forward(&c);
    harness_check_inner(&out[0], "y", c.y, c.y_scale, 1, c.y_terms);
    if (kept)
        harness_check(&out[1], "lse", c.lse, c.lse_scale, 1);
    free_case(&c);
    harness_release(&call);
}

static void round_into(harness_tensor *tensor, const double *values)
{
    for (size_t i = 0; i < harness_count(tensor); ++i)
        harness_f32(tensor)[i] = (float)values[i];
}

static void run_attention_grad(lks_device *device, const lks_attention_attributes *with,
                               int64_t samples, int64_t length, bool accumulate)
{
    attention_case c = make_case(*with, samples, length);
    lks_shape result = LKS_SHAPE(samples, length, with->heads * with->width);
    lks_shape qkv = LKS_SHAPE(samples, length, c.stride);
    harness_tensor in[4] = {harness_random(qkv, 1, -1.5, 1.5), harness_values(result),
                            harness_zeros(LKS_F32, LKS_SHAPE(samples, with->heads, length)),
                            harness_random(result, 2, -1, 1)};
    free(c.dy);
    c.qkv = harness_to_f64(&in[0]);
    c.dy = harness_to_f64(&in[3]);
    forward(&c);
    round_into(&in[1], c.y);
    harness_round(&in[1]);
    round_into(&in[2], c.lse);
    harness_tensor out[1] = {harness_output(qkv, accumulate)};
    harness_call call = {"attention_grad", with, in, 4, out, 1, &context};
    harness_run(device, &call);
    if (harness_is_bf16()) { /* delta is of the y that it reads */
        free(c.y);
        c.y = harness_to_f64(&in[1]);
    }
    backward(&c);
    size_t count = harness_count(&in[0]);
    if (count <= 300 && !harness_is_bf16()) { /* and that is the derivative of the forward pass */
        double *numeric = harness_f64(count);
        harness_differentiate(loss, &c, c.qkv, count, 1e-3, numeric);
        for (size_t i = 0; i < count; ++i)
            harness_expect("dqkv", i, c.dqkv[i], numeric[i], 1e-9);
        free(numeric);
    }
    harness_check_inner(&out[0], "dqkv", c.dqkv, c.dqkv_scale, 1, c.dqkv_terms);
    free_case(&c);
    harness_release(&call);
}

/* Any width on a CPU; on a GPU multiples of 8 up to 128. */
static const struct {
    int heads, kv_heads, width;
    int64_t samples, length;
} shapes[] = {{1, 1, 1, 1, 1},    {2, 1, 3, 1, 5},    {4, 2, 5, 2, 3},    {2, 2, 8, 2, 33},
              {3, 3, 32, 1, 64},  {4, 2, 20, 1, 71},  {1, 1, 64, 1, 66},  {2, 1, 100, 1, 37},
              {1, 1, 8, 1, 1},    {4, 2, 40, 1, 71},  {2, 1, 104, 1, 37}, {6, 2, 16, 2, 5},
              {1, 1, 64, 1, 130}, {1, 1, 128, 1, 65}, {1, 1, 96, 1, 70},  {2, 1, 64, 1, 164},
              {2, 2, 32, 1, 140}, {2, 1, 120, 2, 76}};
enum { SHAPES = sizeof shapes / sizeof *shapes };

static bool takes_shape(int shape)
{
    return harness_on_cpu() || shapes[shape].width % 8 == 0;
}

static lks_attention_attributes attributes_of(int shape, bool causal, bool dropout)
{
    return (lks_attention_attributes){.heads = shapes[shape].heads,
                                      .kv_heads = shapes[shape].kv_heads,
                                      .width = shapes[shape].width,
                                      .causal = causal,
                                      .scale = 1 / sqrtf((float)shapes[shape].width),
                                      .dropout = dropout ? 0.2f : 0,
                                      .instance = 5};
}

START_TEST(test_attention)
{
    lks_device *device = harness_open(_i);
    for (int i = 0; i < SHAPES; ++i)
        for (int options = 0; takes_shape(i) && options < 8; ++options) {
            if (harness_skips(8 * i + options))
                continue;
            lks_attention_attributes with = attributes_of(i, options & 1, options & 2);
            run_attention(device, &with, shapes[i].samples, shapes[i].length, options & 4);
        }
    lks_device_close(device);
}
END_TEST

START_TEST(test_attention_grad)
{
    lks_device *device = harness_open(_i);
    for (int i = 0; i < SHAPES; ++i)
        for (int options = 0; takes_shape(i) && options < 8; ++options) {
            if (harness_skips(8 * i + options))
                continue;
            lks_attention_attributes with = attributes_of(i, options & 1, options & 2);
            run_attention_grad(device, &with, shapes[i].samples, shapes[i].length, options & 4);
        }
    lks_device_close(device);
}
END_TEST

TCase *attention_cases(void)
{
    TCase *tcase = tcase_create("attention");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_attention);
    HARNESS_ADD(tcase, test_attention_grad);
    return tcase;
}
