#include "tests/conformance/test_kernels_b.h"

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
    lks_softmax_attributes causal = {true};
    refused(device, "softmax", &causal, &five, 1, &five, 1, "causal");
    lks_dropout_attributes all = {1, 0};
    refused(device, "dropout", &all, &five, 1, &five, 1, "rate");
    lks_linear_attributes kept = {LKS_RELU};
    const lks_shape square = LKS_SHAPE(5, 5);
    refused(device, "linear", &kept, (lks_shape[]){square, LKS_SHAPE(5, 6)}, 2, &square, 1,
            "5 x 6");
    refused(device, "linear", &kept, (lks_shape[]){square, square}, 2,
            (lks_shape[]){square, square}, 2, "gelu");
    lks_norm_attributes norm = {LKS_NORM_RMS, 1e-5f};
    refused(device, "norm", &norm, (lks_shape[]){square, square, five}, 3, &square, 1, "residual");
    lks_attention_attributes shared = {3, 2, 8, true, 1, 0, 0}, three = {3, 3, 8, true, 1, 0, 0};
    refused(device, "attention", &shared, (lks_shape[]){LKS_SHAPE(1, 4, 56)}, 1,
            (lks_shape[]){LKS_SHAPE(1, 4, 24)}, 1, "kv_heads");
    refused(device, "attention", &three, (lks_shape[]){LKS_SHAPE(1, 4, 56)}, 1,
            (lks_shape[]){LKS_SHAPE(1, 4, 24)}, 1, "72");
    lks_device_close(device);
}
END_TEST

TCase *refusals_cases(void)
{
    TCase *tcase = tcase_create("refusals");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_refusals);
    return tcase;
}
