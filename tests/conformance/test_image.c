#include "tests/conformance/test_kernels_b.h"

START_TEST(test_image)
{
    static const int shapes[][4] = {{2, 5, 7, 1}, {3, 4, 5, 3}, {1, 9, 9, 4}, {2, 3, 3, 40}};
    lks_device *device = harness_open(_i);
    for (int k = 0; k < COUNT(shapes); ++k) {
        pool p = {0};
        const int *s = shapes[k];
        lks_shape shape = LKS_SHAPE(s[0], s[1], s[2], s[3]);
        harness_tensor in[] = {harness_zeros(LKS_U8, shape),
                               harness_random_f32(LKS_SHAPE(s[3]), 1, 0, 255),
                               harness_random_f32(LKS_SHAPE(s[3]), 2, 0.001, 0.02)};
        harness_tensor out[] = {harness_output_f32(shape, false)};
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

TCase *image_cases(void)
{
    TCase *tcase = tcase_create("image");
    tcase_set_timeout(tcase, 60);
    HARNESS_ADD(tcase, test_image);
    return tcase;
}
