/* linear and its gradients: products by products.h.
 *
 * Rule for the epilogues: the library adds the bias. It also applies gelu, and multiplies by gelu's derivative, with bf16 on
 * devices of compute capability 9, where that was measured to be faster (llm.c #591, #653); on those of 8.9 (the same) and
 * 12.0 (sglang #34350) it was slower, of others nothing is known. Where the library has no such product, and with f32, since its
 * tanh is less exact than f32, both are done apart; so is relu, since the library's max(x, 0) need not keep NaN.
 * The gradient of the bias is summed apart (columns.cuh): the library's epilogue for it overwrites where lanes accumulate,
 * and does not say in which order it adds.
 */
#include "kernels/cuda/columns.cuh"
#include "kernels/cuda/math.cuh"
#include "kernels/cuda/products.h"

namespace
{

struct linear_state {
    lks_cuda_device *cuda;
    lks_product *products[2]; /* [1]: adds to what is there */
    size_t products_bytes;    /* of workspace; what else there is follows */
    int64_t rows, columns;
    lks_dtype type;
    lks_activation activation;
    bool bias_apart, activation_apart;
    bool sums; /* bf16, bias_apart: the product is f32, in the workspace, to be rounded once */
};

void linear_release(void *state_)
{
    linear_state *state = static_cast<linear_state *>(state_);
    lks_product_release(state->products[0]);
    lks_product_release(state->products[1]);
    lks_memory_free(state);
}

/* Prepares the products of a state that has all else, or releases it. */
lks_status linear_finish(linear_state *state, lks_product_spec *spec, bool accumulates)
{
    for (int i = 0; i <= (int)accumulates; ++i) {
        spec->accumulate = i == 1;
        lks_status status = lks_product_prepare(&state->products[i], state->cuda, spec);
        if (status != LKS_OK) {
            linear_release(state);
            return status;
        }
    }
    return LKS_OK;
}

size_t products_workspace(const linear_state *state)
{
    size_t bytes = 0;
    for (const lks_product *product : state->products)
        if (product && lks_product_workspace(product) > bytes)
            bytes = lks_product_workspace(product);
    return lks_round_up(bytes, LKS_ALIGNMENT);
}

bool fuses_gelu(const linear_state *state)
{
    return state->activation == LKS_GELU && state->type == LKS_BF16 && state->cuda->capability == 9;
}

/* --- Activations ------------------------------------------------------------------------- */

enum { THREADS = 256, GRID_MAX = 1 << 16 };

dim3 grid_of(int64_t items)
{
    int64_t blocks = (items + THREADS - 1) / THREADS;
    return dim3((unsigned)(blocks < GRID_MAX ? blocks : (int64_t)GRID_MAX));
}

static __device__ __forceinline__ float activated(lks_activation activation, float x)
{
    if (activation == LKS_RELU)
        return x < 0 ? 0 : x; /* NaN stays */
    return activation == LKS_GELU ? lks_gelu(x) : x;
}

static __device__ __forceinline__ float activated_slope(lks_activation activation, float saved)
{
    if (activation == LKS_RELU)
        return saved > 0 ? 1.0f : 0.0f;
    return activation == LKS_GELU ? lks_gelu_derivative(saved) : 1.0f;
}

template <typename T, typename From> struct activation_arguments {
    const From *from; /* may be pre or y */
    const T *bias;    /* or NULL */
    T *pre, *y;       /* pre: or NULL where `from` is what it is to be */
    int64_t elements, columns;
    lks_activation activation;
};

/* A thread takes elements [at, at + SIZE) or, at the end, those of them that there are. */
template <typename T, typename From>
static __global__ void __launch_bounds__(THREADS) activate(activation_arguments<T, From> with)
{
    constexpr int SIZE = lks_vector<T>::SIZE;
    int64_t step = (int64_t)gridDim.x * THREADS * SIZE;
    for (int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * SIZE; at < with.elements;
         at += step) {
        int count = with.elements - at < SIZE ? (int)(with.elements - at) : SIZE;
        float x[SIZE] = {}, y[SIZE];
        if (count == SIZE && sizeof(T) == sizeof(From)) {
            lks_vector<From> vector = lks_vector<From>::load(with.from + at);
#pragma unroll
            for (int i = 0; i < SIZE; ++i)
                x[i] = vector[i];
        } else {
#pragma unroll
            for (int i = 0; i < SIZE; ++i)
                if (i < count)
                    x[i] = lks_load(with.from, at + i);
        }
        if (with.bias) {
            int64_t column = at % with.columns;
#pragma unroll
            for (int i = 0; i < SIZE; ++i) {
                if (i < count)
                    x[i] += lks_load(with.bias, column);
                column = column + 1 < with.columns ? column + 1 : 0;
            }
        }
#pragma unroll
        for (int i = 0; i < SIZE; ++i)
            y[i] = activated(with.activation, x[i]);
        if (count == SIZE) {
            if (with.pre)
                lks_vector<T>::round(x).store(with.pre + at);
            lks_vector<T>::round(y).store(with.y + at);
            continue;
        }
#pragma unroll
        for (int i = 0; i < SIZE; ++i)
            if (i < count) {
                if (with.pre)
                    lks_store(with.pre, at + i, x[i]);
                lks_store(with.y, at + i, y[i]);
            }
    }
}

template <typename T> struct activation_grad_arguments {
    const T *dy, *saved;
    T *dz;
    int64_t elements;
    lks_activation activation;
};

template <typename T>
static __global__ void __launch_bounds__(THREADS) activate_back(activation_grad_arguments<T> with)
{
    constexpr int SIZE = lks_vector<T>::SIZE;
    int64_t step = (int64_t)gridDim.x * THREADS * SIZE;
    for (int64_t at = ((int64_t)blockIdx.x * THREADS + threadIdx.x) * SIZE; at < with.elements;
         at += step) {
        if (with.elements - at >= SIZE) {
            lks_vector<T> dy = lks_vector<T>::load(with.dy + at);
            lks_vector<T> saved = lks_vector<T>::load(with.saved + at);
            float dz[SIZE];
#pragma unroll
            for (int i = 0; i < SIZE; ++i)
                dz[i] = dy[i] * activated_slope(with.activation, saved[i]);
            lks_vector<T>::round(dz).store(with.dz + at);
            continue;
        }
        for (int64_t i = at; i < with.elements; ++i)
            lks_store(with.dz, i,
                      lks_load(with.dy, i) *
                          activated_slope(with.activation, lks_load(with.saved, i)));
    }
}

/* --- linear ------------------------------------------------------------------------------ */

/* What the product's epilogue leaves to be done. */
void choose_apart(linear_state *state, lks_product_spec *product)
{
    state->bias_apart = product->bias && product->epilogue == LKS_EPILOGUE_NONE;
    state->activation_apart =
        state->activation != LKS_IDENTITY && product->epilogue != LKS_EPILOGUE_BIAS_GELU;
    state->sums = state->type == LKS_BF16 && state->bias_apart;
    product->result = state->sums ? LKS_F32 : state->type;
}

/* The first product that there is of those that leave ever more to be done. */
lks_status linear_choose(linear_state *state, lks_product_spec *product)
{
    for (lks_epilogue epilogue : {LKS_EPILOGUE_BIAS_GELU, LKS_EPILOGUE_BIAS, LKS_EPILOGUE_NONE}) {
        if ((epilogue == LKS_EPILOGUE_BIAS_GELU && !fuses_gelu(state)) ||
            (epilogue == LKS_EPILOGUE_BIAS && !product->bias))
            continue;
        product->epilogue = epilogue;
        choose_apart(state, product);
        LKS_TRY(linear_finish(state, product, false));
        if (state->products[0])
            break;
    }
    return LKS_OK;
}

lks_status linear_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                          size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_spec_expect_types(spec, "ttT", "tT", &type));
    lks_linear_sizes with;
    LKS_TRY(lks_shapes_expect_linear(spec, &with));
    int64_t m = with.rows, k = with.inputs, n = with.outputs;
    lks_product_spec product = {};
    product.type = type;
    product.m = m, product.n = n, product.k = k, product.batch = 1;
    product.lda = product.ldb = k, product.ldc = n;
    product.transpose_b = true;
    product.alpha = 1;
    product.bias = lks_spec_present(&spec->inputs[2]);
    product.pre = lks_spec_present(&spec->outputs[1]);
    linear_state *state;
    LKS_TRY(LKS_NEW(&state));
    state->cuda = lks_cuda_of(device);
    state->rows = m, state->columns = n, state->type = type;
    state->activation = static_cast<const lks_linear_attributes *>(spec->attributes)->activation;
    LKS_TRY(linear_choose(state, &product));
    *workspace = state->products_bytes = products_workspace(state);
    if (state->sums)
        *workspace += (size_t)(m * n) * sizeof(float);
    *out = state;
    return LKS_OK;
}

template <typename T, typename From>
void activation_launch(const linear_state *state, const lks_kernel_run *run, const void *from)
{
    activation_arguments<T, From> with = {
        static_cast<const From *>(from),
        static_cast<const T *>(state->bias_apart ? run->inputs[2] : nullptr),
        static_cast<T *>(state->bias_apart ? run->outputs[1] : nullptr),
        static_cast<T *>(run->outputs[0]),
        state->rows * state->columns,
        state->columns,
        state->activation};
    auto kernel = activate<T, From>;
    LKS_LAUNCH(kernel, grid_of((with.elements + lks_vector<T>::SIZE - 1) / lks_vector<T>::SIZE),
               dim3(THREADS), 0, state->cuda->stream, with);
}

lks_status linear_run(void *state_, const lks_kernel_run *run)
{
    const linear_state *state = static_cast<const linear_state *>(state_);
    bool apart = state->bias_apart || state->activation_apart;
    void *to = apart && run->outputs[1] ? run->outputs[1] : run->outputs[0];
    if (state->sums)
        to = static_cast<char *>(run->workspace) + state->products_bytes;
    LKS_TRY(lks_product_run(state->products[0], run->inputs[0], run->inputs[1], to, run->inputs[2],
                            apart ? nullptr : run->outputs[1], run->workspace));
    if (!apart)
        return LKS_OK;
    if (state->type == LKS_F32)
        activation_launch<float, float>(state, run, to);
    else if (state->sums)
        activation_launch<lks_bf16, float>(state, run, to);
    else
        activation_launch<lks_bf16, lks_bf16>(state, run, to);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

/* --- activation_grad ----------------------------------------------------------------------- */

lks_status activation_grad_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                   size_t *workspace)
{
    lks_dtype type;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_activation_grad(spec, &type));
    linear_state *state;
    LKS_TRY(LKS_NEW(&state));
    state->cuda = lks_cuda_of(device);
    state->activation = static_cast<const lks_linear_attributes *>(spec->attributes)->activation;
    state->rows = 1;
    state->columns = lks_spec_elements(&spec->inputs[0]);
    state->type = type;
    *out = state;
    return LKS_OK;
}

template <typename T>
void activation_grad_launch(const linear_state *state, int64_t elements, const void *dy,
                            const void *saved, void *dz)
{
    activation_grad_arguments<T> with = {static_cast<const T *>(dy), static_cast<const T *>(saved),
                                         static_cast<T *>(dz), elements, state->activation};
    auto kernel = activate_back<T>;
    LKS_LAUNCH(kernel, grid_of((with.elements + lks_vector<T>::SIZE - 1) / lks_vector<T>::SIZE),
               dim3(THREADS), 0, state->cuda->stream, with);
}

lks_status activation_grad(const linear_state *state, int64_t elements, const void *dy,
                           const void *saved, void *dz)
{
    if (state->type == LKS_BF16)
        activation_grad_launch<lks_bf16>(state, elements, dy, saved, dz);
    else
        activation_grad_launch<float>(state, elements, dy, saved, dz);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

lks_status activation_grad_run(void *state_, const lks_kernel_run *run)
{
    const linear_state *state = static_cast<const linear_state *>(state_);
    return activation_grad(state, state->columns, run->inputs[0], run->inputs[1], run->outputs[0]);
}

/* --- linear_grad_input ----------------------------------------------------------------------- */

/* With gelu's derivative where the library has such a product; else what there is to add to as well. */
lks_status linear_grad_input_choose(linear_state *state, lks_product_spec *product, bool through)
{
    if (fuses_gelu(state)) {
        product->epilogue = LKS_EPILOGUE_GELU_GRAD;
        LKS_TRY(linear_finish(state, product, false));
        if (state->products[0])
            return LKS_OK;
    }
    product->epilogue = LKS_EPILOGUE_NONE;
    state->activation_apart = through;
    return linear_finish(state, product, !through);
}

lks_status linear_grad_input_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                     size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_spec_expect_types(spec, "ttT", "t", &type));
    lks_linear_sizes with;
    LKS_TRY(lks_shapes_expect_linear_grad_input(spec, &with));
    int64_t m = with.rows, n = with.outputs, k = with.inputs;
    bool through = lks_spec_present(&spec->inputs[2]);
    lks_product_spec product = {};
    product.type = product.result = type;
    product.m = m, product.n = k, product.k = n, product.batch = 1;
    product.lda = n, product.ldb = product.ldc = k;
    product.alpha = 1;
    linear_state *state;
    LKS_TRY(LKS_NEW(&state));
    state->cuda = lks_cuda_of(device);
    state->rows = m, state->columns = k, state->type = type;
    if (through)
        state->activation =
            static_cast<const lks_linear_attributes *>(spec->attributes)->activation;
    LKS_TRY(linear_grad_input_choose(state, &product, through));
    *workspace = products_workspace(state);
    *out = state;
    return LKS_OK;
}

lks_status linear_grad_input_run(void *state_, const lks_kernel_run *run)
{
    const linear_state *state = static_cast<const linear_state *>(state_);
    void *dx = run->outputs[0];
    /* Read alone: `pre` of a gradient. */
    void *saved = const_cast<void *>(run->inputs[2]);
    lks_product *product = state->products[run->accumulate[0] && !saved];
    LKS_TRY(lks_product_run(product, run->inputs[0], run->inputs[1], dx, nullptr,
                            state->activation_apart ? nullptr : saved, run->workspace));
    if (!state->activation_apart)
        return LKS_OK;
    return activation_grad(state, state->rows * state->columns, dx, saved, dx);
}

/* --- linear_grad_weight ---------------------------------------------------------------------- */

lks_status linear_grad_weight_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                      size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_spec_expect_types(spec, "tt", "fF", &type));
    lks_linear_sizes with;
    LKS_TRY(lks_shapes_expect_linear_grad_weight(spec, &with));
    int64_t m = with.rows, n = with.outputs, k = with.inputs;
    lks_product_spec product = {};
    product.type = type, product.result = LKS_F32;
    product.m = n, product.n = k, product.k = m, product.batch = 1;
    product.lda = n, product.ldb = product.ldc = k;
    product.transpose_a = true;
    product.alpha = 1;
    linear_state *state;
    LKS_TRY(LKS_NEW(&state));
    state->cuda = lks_cuda_of(device);
    state->rows = m, state->columns = n, state->type = type;
    LKS_TRY(linear_finish(state, &product, true));
    *workspace = state->products_bytes = products_workspace(state);
    if (lks_spec_present(&spec->outputs[1]))
        *workspace +=
            sizeof(float) * (size_t)(type == LKS_BF16 ? lks_columns_workspace<lks_bf16>(m, n)
                                                      : lks_columns_workspace<float>(m, n));
    *out = state;
    return LKS_OK;
}

template <typename T> void bias_gradient(const linear_state *state, const lks_kernel_run *run)
{
    char *workspace = static_cast<char *>(run->workspace) + state->products_bytes;
    lks_columns_sum(state->cuda, static_cast<const T *>(run->inputs[0]), state->rows,
                    state->columns, reinterpret_cast<float *>(workspace),
                    static_cast<float *>(run->outputs[1]), run->accumulate[1]);
}

lks_status linear_grad_weight_run(void *state_, const lks_kernel_run *run)
{
    const linear_state *state = static_cast<const linear_state *>(state_);
    if (run->outputs[1]) {
        if (state->type == LKS_BF16)
            bias_gradient<lks_bf16>(state, run);
        else
            bias_gradient<float>(state, run);
        LKS_CUDA_LAUNCHED();
    }
    return lks_product_run(state->products[run->accumulate[0]], run->inputs[0], run->inputs[1],
                           run->outputs[0], nullptr, nullptr, run->workspace);
}

} // namespace

extern "C" const lks_kernel_driver lks_cuda_kernel_linear = {"linear", linear_prepare, linear_run,
                                                             linear_release};
extern "C" const lks_kernel_driver lks_cuda_kernel_activation_grad = {
    "activation_grad", activation_grad_prepare, activation_grad_run, linear_release};
extern "C" const lks_kernel_driver lks_cuda_kernel_linear_grad_input = {
    "linear_grad_input", linear_grad_input_prepare, linear_grad_input_run, linear_release};
extern "C" const lks_kernel_driver lks_cuda_kernel_linear_grad_weight = {
    "linear_grad_weight", linear_grad_weight_prepare, linear_grad_weight_run, linear_release};
