/* "slice" and "unslice": a range of the middle axis of outer x middle x inner. Copies move the
 * largest words that fit the range; sums and conversions move elements. */
#include "kernels/cuda/cuda.cuh"

enum { SLICE_THREADS = 256 };

typedef struct slice_state {
    lks_cuda_device *cuda;
    lks_slice_sizes elements, words;
    int word_bytes;
    lks_dtype from, to;
    bool scatter; /* unslice */
} slice_state;

/* The largest word that divides all three lengths. */
static void slice_choose_word(slice_state *s)
{
    const int64_t size = (int64_t)lks_dtype_bytes(s->from);
    const lks_slice_sizes *e = &s->elements;
    int64_t lengths = (e->whole | e->part | e->offset) * size;
    s->word_bytes = 16;
    while (lengths % s->word_bytes)
        s->word_bytes /= 2;
    s->words.outer = e->outer;
    s->words.whole = e->whole * size / s->word_bytes;
    s->words.part = e->part * size / s->word_bytes;
    s->words.offset = e->offset * size / s->word_bytes;
}

static lks_status slice_create(void **state, lks_device *device, const lks_kernel_spec *spec,
                               bool scatter)
{
    lks_slice_sizes size;
    LKS_TRY(scatter ? lks_shapes_expect_unslice(spec, &size)
                    : lks_shapes_expect_slice(spec, &size));
    slice_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->from = spec->inputs[0].dtype;
    s->to = spec->outputs[0].dtype;
    s->scatter = scatter;
    s->elements = size;
    slice_choose_word(s);
    *state = s;
    return LKS_OK;
}

static lks_status slice_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                size_t *workspace)
{
    *workspace = 0;
    return slice_create(state, device, spec, false);
}

static lks_status unslice_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                  size_t *workspace)
{
    *workspace = 0;
    return slice_create(state, device, spec, true);
}

#define SLICE_FOR(i, n)                                                                            \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n);                      \
         i += (int64_t)gridDim.x * blockDim.x)

template <typename Word>
static __global__ void slice_copy_kernel(lks_slice_sizes view, const Word *x, Word *y)
{
    SLICE_FOR(i, view.outer * view.part)
    {
        y[i] = x[i / view.part * view.whole + view.offset + i % view.part];
    }
}

/* Words outside of the range become 0. */
template <typename Word>
static __global__ void unslice_copy_kernel(lks_slice_sizes view, const Word *x, Word *y)
{
    SLICE_FOR(i, view.outer * view.whole)
    {
        const int64_t at = i % view.whole - view.offset;
        Word word = {};
        if (at >= 0 && at < view.part)
            word = x[i / view.whole * view.part + at];
        y[i] = word;
    }
}

/* Element i of the range, of x, is added to or stored in y's. */
template <typename T, typename O>
static __global__ void slice_add_kernel(lks_slice_sizes view, bool scatter, bool add, const T *x,
                                        O *y)
{
    SLICE_FOR(i, view.outer * view.part)
    {
        const int64_t wide = i / view.part * view.whole + view.offset + i % view.part;
        const int64_t from = scatter ? i : wide, to = scatter ? wide : i;
        const float v = lks_load(x, from);
        lks_store(y, to, add ? lks_load(y, to) + v : v);
    }
}

template <typename Word>
static lks_status slice_copy_start(const slice_state *s, const lks_kernel_run *run)
{
    const lks_slice_sizes view = s->words;
    const int64_t count = view.outer * (s->scatter ? view.whole : view.part);
    const unsigned blocks = lks_cuda_blocks(s->cuda, count, SLICE_THREADS);
    const Word *x = (const Word *)run->inputs[0];
    Word *y = (Word *)run->outputs[0];
    if (s->scatter)
        LKS_LAUNCH(unslice_copy_kernel<Word>, blocks, SLICE_THREADS, 0, s->cuda->stream, view, x,
                   y);
    else
        LKS_LAUNCH(slice_copy_kernel<Word>, blocks, SLICE_THREADS, 0, s->cuda->stream, view, x, y);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

template <typename T, typename O>
static lks_status slice_add_start(const slice_state *s, const lks_kernel_run *run)
{
    const lks_slice_sizes view = s->elements;
    O *y = (O *)run->outputs[0];
    if (s->scatter && !run->accumulate[0])
        LKS_CUDA(
            cudaMemsetAsync(y, 0, (size_t)(view.outer * view.whole) * sizeof *y, s->cuda->stream));
    LKS_LAUNCH((slice_add_kernel<T, O>),
               lks_cuda_blocks(s->cuda, view.outer * view.part, SLICE_THREADS), SLICE_THREADS, 0,
               s->cuda->stream, view, s->scatter, run->accumulate[0], (const T *)run->inputs[0], y);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

static lks_status slice_run(void *state, const lks_kernel_run *run)
{
    const slice_state *s = (const slice_state *)state;
    if (run->accumulate[0] || s->from != s->to) {
        if (s->from != LKS_F32 && s->from != LKS_BF16)
            return LKS_FAIL(LKS_ERR_INTERNAL, "kernel slice: only f32 and bf16 can be accumulated");
        return LKS_BY_TYPES(s->from, s->to, slice_add_start)(s, run);
    }
    switch (s->word_bytes) {
    case 16:
        return slice_copy_start<uint4>(s, run);
    case 8:
        return slice_copy_start<uint2>(s, run);
    case 4:
        return slice_copy_start<uint32_t>(s, run);
    case 2:
        return slice_copy_start<uint16_t>(s, run);
    }
    return slice_copy_start<uint8_t>(s, run);
}

extern "C" const lks_kernel_driver lks_cuda_kernel_slice = {"slice", slice_prepare, slice_run,
                                                            lks_memory_free};
extern "C" const lks_kernel_driver lks_cuda_kernel_unslice = {"unslice", unslice_prepare, slice_run,
                                                              lks_memory_free};
