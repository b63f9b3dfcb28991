/* "image": bytes to normalised numbers, per channel. */
#include "kernels/cuda/cuda.cuh"

enum { IMAGE_THREADS = 256 };

typedef struct image_state {
    lks_cuda_device *cuda;
    lks_dtype type;
    int64_t count;
    int channels;
} image_state;

static lks_status image_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                size_t *workspace)
{
    const lks_kernel_tensor *x = &spec->inputs[0];
    lks_dtype type;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_image(spec, &type));
    image_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->type = type;
    s->count = lks_spec_elements(x);
    s->channels = (int)lks_spec_columns(x);
    *state = s;
    return LKS_OK;
}

template <typename T>
static __global__ void image_kernel(int64_t n, int channels, const uint8_t *x, const float *shift,
                                    const float *scale, T *y)
{
    lks_each(n, [=](int64_t at, auto count) {
        constexpr int N = decltype(count)::value;
        const lks_pack<uint8_t, N> bytes = *reinterpret_cast<const lks_pack<uint8_t, N> *>(x + at);
        int channel = (int)(at % channels);
        lks_values<N> v;
#pragma unroll
        for (int i = 0; i < N; ++i) {
            v.x[i] = ((float)bytes.x[i] - shift[channel]) * scale[channel];
            channel = channel + 1 == channels ? 0 : channel + 1;
        }
        lks_store_values<N>(y, at, v);
    });
}

template <typename T> static lks_status image_start(const image_state *s, const lks_kernel_run *run)
{
    LKS_LAUNCH(image_kernel<T>, lks_cuda_blocks(s->cuda, s->count / 4, IMAGE_THREADS),
               IMAGE_THREADS, 0, s->cuda->stream, s->count, s->channels,
               (const uint8_t *)run->inputs[0], (const float *)run->inputs[1],
               (const float *)run->inputs[2], (T *)run->outputs[0]);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status image_run(void *state, const lks_kernel_run *run)
{
    const image_state *s = (const image_state *)state;
    return LKS_BY_TYPE(s->type, image_start)(s, run);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_image = {"image", image_prepare, image_run,
                                                            lks_memory_free};
