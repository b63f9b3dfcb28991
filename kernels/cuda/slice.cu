/* "slice" and "unslice": a range of the middle axis of outer x middle x inner. Copies move the
 * largest words that fit the range; sums and conversions move elements. */
#include "kernels/cuda/cuda.cuh"

enum { SLICE_THREADS = 256 };

/* Elements, or words, of one outer entry. */
typedef struct slice_view {
    int64_t outer;
    int64_t whole, part, offset; /* all, the range, before the range */
} slice_view;

typedef struct slice_state {
    lks_cuda_device *cuda;
    slice_view elements, words;
    int word_bytes;
    lks_dtype from, to;
    bool scatter; /* unslice */
} slice_state;

static bool slice_fits(const lks_slice_attributes *a)
{
    return a->outer > 0 && a->middle > 0 && a->inner > 0 && a->length > 0 && a->begin >= 0 &&
           a->length <= a->middle && a->begin <= a->middle - a->length;
}

static lks_status slice_check(const lks_kernel_spec *spec, bool scatter)
{
    LKS_TRY(lks_cuda_expect_types(spec, "x", "x", NULL));
    LKS_TRY(lks_cuda_expect_attributes(spec));
    const lks_slice_attributes *a = (const lks_slice_attributes *)spec->attributes;
    if (!slice_fits(a))
        return lks_cuda_refuse(spec, "range [%lld, +%lld) of a middle axis of %lld",
                               (long long)a->begin, (long long)a->length, (long long)a->middle);
    lks_dtype from = spec->inputs[0].dtype, to = spec->outputs[0].dtype;
    if (from != to && !(from == LKS_BF16 && to == LKS_F32))
        return lks_cuda_refuse(spec, "x and y differ in type");
    int64_t part = a->outer * a->length * a->inner, whole = a->outer * a->middle * a->inner;
    LKS_TRY(lks_cuda_expect_elements(spec, "x", &spec->inputs[0], scatter ? part : whole));
    return lks_cuda_expect_elements(spec, "y", &spec->outputs[0], scatter ? whole : part);
}

/* The largest word that divides all three lengths. */
static void slice_choose_word(slice_state *s)
{
    const int64_t size = (int64_t)lks_dtype_bytes(s->from);
    const slice_view *e = &s->elements;
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
    LKS_TRY(slice_check(spec, scatter));
    const lks_slice_attributes *a = (const lks_slice_attributes *)spec->attributes;
    slice_state *s = NULL;
    LKS_TRY(LKS_NEW(&s));
    s->cuda = lks_cuda_of(device);
    s->from = spec->inputs[0].dtype;
    s->to = spec->outputs[0].dtype;
    s->scatter = scatter;
    s->elements.outer = a->outer;
    s->elements.whole = a->middle * a->inner;
    s->elements.part = a->length * a->inner;
    s->elements.offset = a->begin * a->inner;
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
static __global__ void slice_copy_kernel(slice_view view, const Word *x, Word *y)
{
    SLICE_FOR(i, view.outer * view.part)
    {
        y[i] = x[i / view.part * view.whole + view.offset + i % view.part];
    }
}

/* Words outside of the range become 0. */
template <typename Word>
static __global__ void unslice_copy_kernel(slice_view view, const Word *x, Word *y)
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
static __global__ void slice_add_kernel(slice_view view, bool scatter, bool add, const T *x, O *y)
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
    const slice_view view = s->words;
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
    const slice_view view = s->elements;
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
