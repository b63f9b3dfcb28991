/* "image": bytes to normalised numbers, per channel. */
#include "kernels/cpu/cpu.h"

/* Few channels are repeated to make a row that vectorises. */
enum { IMAGE_LANES = 16 };

typedef struct image_state {
    size_t count, channels;
} image_state;

static lks_status image_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                size_t *workspace)
{
    (void)device;
    LKS_TRY(lks_shapes_expect_image(spec, NULL));
    const lks_kernel_tensor *x = &spec->inputs[0];
    image_state *s;
    LKS_TRY(LKS_NEW(&s));
    s->count = lks_shape_elements(&x->shape);
    s->channels = (size_t)lks_spec_columns(x);
    *workspace = 2 * IMAGE_LANES * s->channels * sizeof(float);
    *state = s;
    return LKS_OK;
}

static lks_status image_run(void *state, const lks_kernel_run *run)
{
    const image_state *s = state;
    const uint8_t *x = run->inputs[0];
    const float *shift = run->inputs[1], *scale = run->inputs[2];
    float *y = run->outputs[0];
    const size_t width = IMAGE_LANES * s->channels;
    float *shifts = run->workspace, *scales = shifts + width;
    for (size_t i = 0; i < width; ++i) {
        shifts[i] = shift[i % s->channels];
        scales[i] = scale[i % s->channels];
    }
    for (size_t first = 0; first < s->count; first += width) {
        size_t n = s->count - first < width ? s->count - first : width;
#pragma omp simd
        for (size_t i = 0; i < n; ++i)
            y[first + i] = ((float)x[first + i] - shifts[i]) * scales[i];
    }
    return LKS_OK;
}

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_image) = {
    .name = "image",
    .prepare = image_prepare,
    .run = image_run,
    .release = lks_memory_free,
};
