#include "tests/conformance/test_kernels_b.h"

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

TCase *shapes_cases(void)
{
    TCase *tcase = tcase_create("shapes");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_reduce_expand);
    HARNESS_ADD(tcase, test_permute);
    HARNESS_ADD(tcase, test_slice);
    return tcase;
}
