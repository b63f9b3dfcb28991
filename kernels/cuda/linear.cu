/* linear and its gradients: products by products.h.
 *
 * Rule for the epilogue: with bf16 and a width that is a multiple of 8 the library adds the bias and applies gelu
 * where it has such a product; with f32 it adds the bias, but gelu is done apart, since the library's tanh is less exact
 * than f32. relu is done apart.
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
    bool
        sums; /* bf16, and more than relu is done apart: the product is f32, in the workspace, to be rounded once */
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

lks_status expect_matrix(const lks_kernel_spec *spec, const char *name,
                         const lks_kernel_tensor *tensor, int64_t rows, int64_t columns)
{
    if (lks_cuda_columns(tensor) != columns || lks_cuda_rows(tensor) != rows)
        return lks_cuda_refuse(
            spec, "%s is %lld x %lld, %lld x %lld wanted", name, (long long)lks_cuda_rows(tensor),
            (long long)lks_cuda_columns(tensor), (long long)rows, (long long)columns);
    return LKS_OK;
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
    T *pre, *y;       /* pre: or NULL */
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
#pragma unroll
        for (int i = 0; i < SIZE; ++i) {
            if (with.bias && i < count)
                x[i] += lks_load(with.bias, (at + i) % with.columns);
            y[i] = activated(with.activation, x[i]);
        }
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

void choose_epilogue(const lks_kernel_spec *spec, lks_dtype type, lks_activation activation,
                     lks_product_spec *product)
{
    product->bias = lks_cuda_present(&spec->inputs[2]);
    product->pre = lks_cuda_present(&spec->outputs[1]);
    if (activation == LKS_GELU)
        product->epilogue =
            type == LKS_BF16 && product->n % 8 == 0 ? LKS_EPILOGUE_BIAS_GELU : LKS_EPILOGUE_NONE;
    else
        product->epilogue = product->bias ? LKS_EPILOGUE_BIAS : LKS_EPILOGUE_NONE;
}

/* What the product's epilogue leaves to be done. */
void choose_apart(linear_state *state, lks_product_spec *product)
{
    bool fused = product->epilogue == LKS_EPILOGUE_BIAS_GELU;
    state->bias_apart = product->bias && product->epilogue == LKS_EPILOGUE_NONE;
    state->activation_apart = state->activation != LKS_IDENTITY && !fused;
    state->sums =
        state->type == LKS_BF16 && (state->bias_apart || (state->activation == LKS_GELU && !fused));
    product->result = state->sums ? LKS_F32 : state->type;
}

lks_status linear_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                          size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_cuda_expect_types(spec, "ttT", "tT", &type));
    LKS_TRY(lks_cuda_expect_attributes(spec));
    const lks_kernel_tensor *x = &spec->inputs[0], *w = &spec->inputs[1], *b = &spec->inputs[2];
    lks_activation activation =
        static_cast<const lks_linear_attributes *>(spec->attributes)->activation;
    int64_t m = lks_cuda_rows(x), k = lks_cuda_columns(x), n = lks_cuda_rows(w);
    LKS_TRY(expect_matrix(spec, "w", w, n, k));
    LKS_TRY(lks_cuda_expect_elements(spec, "b", b, n));
    LKS_TRY(expect_matrix(spec, "y", &spec->outputs[0], m, n));
    LKS_TRY(lks_cuda_expect_elements(spec, "pre", &spec->outputs[1], m * n));
    if (lks_cuda_present(&spec->outputs[1]) && activation != LKS_GELU)
        return lks_cuda_refuse(spec, "pre is only for gelu");
    lks_product_spec product = {};
    product.type = product.result = type;
    product.m = m, product.n = n, product.k = k, product.batch = 1;
    product.lda = product.ldb = k, product.ldc = n;
    product.transpose_b = true;
    product.alpha = 1;
    choose_epilogue(spec, type, activation, &product);
    linear_state *state;
    LKS_TRY(LKS_NEW(&state));
    state->cuda = lks_cuda_of(device);
    state->rows = m, state->columns = n, state->type = type, state->activation = activation;
    choose_apart(state, &product);
    LKS_TRY(linear_finish(state, &product, false));
    if (!state->products[0]) {
        product.epilogue = LKS_EPILOGUE_NONE;
        choose_apart(state, &product);
        LKS_TRY(linear_finish(state, &product, false));
    }
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
        static_cast<T *>(run->outputs[1]),
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
    LKS_TRY(lks_cuda_expect_types(spec, "tt", "t", &type));
    LKS_TRY(lks_cuda_expect_attributes(spec));
    int64_t elements = lks_cuda_elements(&spec->inputs[0]);
    LKS_TRY(lks_cuda_expect_elements(spec, "saved", &spec->inputs[1], elements));
    LKS_TRY(lks_cuda_expect_elements(spec, "dz", &spec->outputs[0], elements));
    linear_state *state;
    LKS_TRY(LKS_NEW(&state));
    state->cuda = lks_cuda_of(device);
    state->activation = static_cast<const lks_linear_attributes *>(spec->attributes)->activation;
    state->rows = 1;
    state->columns = elements;
    state->type = type;
    *out = state;
    return LKS_OK;
}

template <typename T>
void activation_grad_launch(const linear_state *state, const lks_kernel_run *run)
{
    activation_grad_arguments<T> with = {
        static_cast<const T *>(run->inputs[0]), static_cast<const T *>(run->inputs[1]),
        static_cast<T *>(run->outputs[0]), state->columns, state->activation};
    auto kernel = activate_back<T>;
    LKS_LAUNCH(kernel, grid_of((with.elements + lks_vector<T>::SIZE - 1) / lks_vector<T>::SIZE),
               dim3(THREADS), 0, state->cuda->stream, with);
}

lks_status activation_grad_run(void *state_, const lks_kernel_run *run)
{
    const linear_state *state = static_cast<const linear_state *>(state_);
    if (state->type == LKS_BF16)
        activation_grad_launch<lks_bf16>(state, run);
    else
        activation_grad_launch<float>(state, run);
    LKS_CUDA_LAUNCHED();
    return LKS_OK;
}

/* --- linear_grad_input ----------------------------------------------------------------------- */

lks_status linear_grad_input_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                     size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_cuda_expect_types(spec, "tt", "t", &type));
    const lks_kernel_tensor *dz = &spec->inputs[0], *w = &spec->inputs[1];
    int64_t m = lks_cuda_rows(dz), n = lks_cuda_columns(dz), k = lks_cuda_columns(w);
    LKS_TRY(expect_matrix(spec, "w", w, n, k));
    LKS_TRY(expect_matrix(spec, "dx", &spec->outputs[0], m, k));
    lks_product_spec product = {};
    product.type = product.result = type;
    product.m = m, product.n = k, product.k = n, product.batch = 1;
    product.lda = n, product.ldb = product.ldc = k;
    product.alpha = 1;
    linear_state *state;
    LKS_TRY(LKS_NEW(&state));
    state->cuda = lks_cuda_of(device);
    LKS_TRY(linear_finish(state, &product, true));
    *workspace = products_workspace(state);
    *out = state;
    return LKS_OK;
}

lks_status linear_grad_input_run(void *state_, const lks_kernel_run *run)
{
    const linear_state *state = static_cast<const linear_state *>(state_);
    return lks_product_run(state->products[run->accumulate[0]], run->inputs[0], run->inputs[1],
                           run->outputs[0], nullptr, nullptr, run->workspace);
}

/* --- linear_grad_weight ---------------------------------------------------------------------- */

lks_status linear_grad_weight_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                      size_t *workspace)
{
    lks_dtype type;
    LKS_TRY(lks_cuda_expect_types(spec, "tt", "fF", &type));
    const lks_kernel_tensor *dz = &spec->inputs[0], *x = &spec->inputs[1];
    int64_t m = lks_cuda_rows(dz), n = lks_cuda_columns(dz), k = lks_cuda_columns(x);
    LKS_TRY(expect_matrix(spec, "x", x, m, k));
    LKS_TRY(expect_matrix(spec, "dw", &spec->outputs[0], n, k));
    LKS_TRY(lks_cuda_expect_elements(spec, "db", &spec->outputs[1], n));
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
    if (lks_cuda_present(&spec->outputs[1]))
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
