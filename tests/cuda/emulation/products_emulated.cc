/* kernels/cuda/products.h with plain loops instead of cuBLASLt: sums in f32, in the order of k. */
#include "kernels/cuda/products.h"

#include "block.h"
#include "devmem.h"
#include "queue.h"

#include <stdio.h>
#include <vector>

namespace
{

enum : size_t {
    WORKSPACE_BYTES = 4096, /* what it holds does not survive, as with the library's */
    ALIGNMENT = 16
};

struct operands {
    const void *a, *b, *bias;
    void *c, *pre, *workspace;
};

float load(lks_dtype type, const void *from, int64_t i)
{
    if (type == LKS_BF16)
        return __bfloat162float(static_cast<const lks_bf16 *>(from)[i]);
    return static_cast<const float *>(from)[i];
}

void store(lks_dtype type, void *to, int64_t i, float x)
{
    if (type == LKS_BF16)
        static_cast<lks_bf16 *>(to)[i] = __float2bfloat16_rn(x);
    else
        static_cast<float *>(to)[i] = x;
}

/* 10 bits of fraction, ties away from zero. */
float to_tf32(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits + 0x1000u) & 0xffffe000u;
    memcpy(&x, &bits, sizeof bits);
    return x;
}

/* As far off as tanh.approx.f32 may be (PTX ISA: 2^-11 of itself), which the library's epilogues take: by an amount drawn
 * from the argument. */
float rough_tanh(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    float off = (float)(int32_t)(bits * 0x9e3779b1u) * 0x1p-31f;
    return fminf(fmaxf(tanhf(x) * (1 + off * 0x1p-11f), -1.0f), 1.0f);
}

float gelu(float x)
{
    return 0.5f * x * (1 + rough_tanh(0.7978845608f * (x + 0.044715f * x * x * x)));
}

float gelu_derivative(float x)
{
    float tanh = rough_tanh(0.7978845608f * (x + 0.044715f * x * x * x));
    return 0.5f * (1 + tanh) +
           0.5f * x * (1 - tanh * tanh) * 0.7978845608f * (1 + 3 * 0.044715f * x * x);
}

/* op(from) as f32, rows x columns without gaps. */
std::vector<float> matrix(lks_dtype type, bool tf32, const void *from, int64_t first, int64_t rows,
                          int64_t columns, int64_t row_length, bool transposed)
{
    std::vector<float> out((size_t)(rows * columns));
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < columns; ++j) {
            int64_t at = first + (transposed ? j * row_length + i : i * row_length + j);
            float x = load(type, from, at);
            out[(size_t)(i * columns + j)] = tf32 ? to_tf32(x) : x;
        }
    return out;
}

void multiply_one(const lks_product_spec &s, bool tf32, const operands &o, int64_t batch)
{
    std::vector<float> a =
        matrix(s.type, tf32, o.a, batch * s.stride_a, s.m, s.k, s.lda, s.transpose_a);
    std::vector<float> b =
        matrix(s.type, tf32, o.b, batch * s.stride_b, s.k, s.n, s.ldb, s.transpose_b);
    std::vector<float> sums((size_t)s.n);
    for (int64_t i = 0; i < s.m; ++i) {
        std::fill(sums.begin(), sums.end(), 0.0f);
        for (int64_t k = 0; k < s.k; ++k) {
            const float factor = a[(size_t)(i * s.k + k)], *row = b.data() + k * s.n;
            for (int64_t j = 0; j < s.n; ++j)
                sums[(size_t)j] += factor * row[j];
        }
        for (int64_t j = 0; j < s.n; ++j) {
            int64_t at = batch * s.stride_c + i * s.ldc + j;
            float x = s.alpha * sums[(size_t)j];
            if (s.accumulate)
                x += load(s.result, o.c, at);
            if (o.bias)
                x += load(s.result, o.bias, j);
            if (s.epilogue == LKS_EPILOGUE_BIAS_GELU) {
                if (o.pre)
                    store(s.result, o.pre, at, x);
                x = gelu(x);
            }
            if (s.epilogue == LKS_EPILOGUE_GELU_GRAD)
                x *= gelu_derivative(load(s.result, o.pre, at));
            store(s.result, o.c, at, x);
        }
    }
}

/* Elements from the first to the last of a batch of matrices. */
int64_t extent(int64_t rows, int64_t columns, int64_t row_length, int64_t batch, int64_t stride)
{
    return (batch - 1) * stride + (rows - 1) * row_length + columns;
}

void check_range(const char *name, const void *memory, int64_t elements, lks_dtype type)
{
    size_t bytes = (size_t)elements * lks_dtype_bytes(type);
    if (memory && !lks_devmem_holds(memory, bytes))
        lks_fault_raise("a matrix product is given %zu bytes as %s at %p, which is no device "
                        "memory of that size",
                        bytes, name, memory);
}

/* As products.cu promises the library. */
void check_alignment(const char *name, const void *memory)
{
    if (reinterpret_cast<uintptr_t>(memory) % ALIGNMENT)
        lks_fault_raise("a matrix product is given %s at %p, which is not %zu-byte aligned", name,
                        memory, (size_t)ALIGNMENT);
}

void check_operands(const lks_product_spec &s, const operands &o)
{
    int64_t m = s.m, n = s.n, k = s.k;
    check_alignment("a", o.a);
    check_alignment("b", o.b);
    check_alignment("c", o.c);
    check_alignment("bias", o.bias);
    check_alignment("pre", o.pre);
    if (lks_product_has_bias(&s) != (o.bias != nullptr) ||
        lks_product_has_pre(&s) != (o.pre != nullptr))
        lks_fault_raise("a matrix product is not given what its epilogue wants");
    check_range("a", o.a,
                extent(s.transpose_a ? k : m, s.transpose_a ? m : k, s.lda, s.batch, s.stride_a),
                s.type);
    check_range("b", o.b,
                extent(s.transpose_b ? n : k, s.transpose_b ? k : n, s.ldb, s.batch, s.stride_b),
                s.type);
    check_range("c", o.c, extent(m, n, s.ldc, s.batch, s.stride_c), s.result);
    check_range("pre", o.pre, extent(m, n, s.ldc, s.batch, s.stride_c), s.result);
    check_range("bias", o.bias, n, s.result);
    check_range("workspace", o.workspace, (int64_t)WORKSPACE_BYTES, LKS_U8);
}

} // namespace

struct lks_product {
    lks_product_spec spec;
    lks_cuda_device *cuda;
};

lks_status lks_products_open(void **out, lks_cuda_device *)
{
    static char opened;
    *out = &opened;
    return LKS_OK;
}

void lks_products_close(void *) {}

const char *lks_products_version(char *out, size_t size)
{
    snprintf(out, size, "loops");
    return out;
}

lks_status lks_product_prepare(lks_product **out, lks_cuda_device *cuda,
                               const lks_product_spec *spec)
{
    bool there = spec->epilogue == LKS_EPILOGUE_NONE || lks_emulation_get_settings().epilogues;
    *out = there && lks_product_is_possible(spec) ? new lks_product{*spec, cuda} : nullptr;
    return LKS_OK;
}

void lks_product_release(lks_product *product)
{
    delete product;
}

size_t lks_product_workspace(const lks_product *)
{
    return WORKSPACE_BYTES;
}

lks_status lks_product_run(lks_product *product, const void *a, const void *b, void *c,
                           const void *bias, void *pre, void *workspace)
{
    const lks_product_spec spec = product->spec;
    bool tf32 = product->cuda->tf32 && spec.type == LKS_F32;
    operands o = {a,
                  b,
                  lks_product_has_bias(&spec) ? bias : nullptr,
                  c,
                  lks_product_has_pre(&spec) ? pre : nullptr,
                  workspace};
    LKS_CUDA(lks_queue_result(lks_queue_push(product->cuda->stream, [=] {
        check_operands(spec, o);
        if (*lks_fault_text())
            return;
        memset(o.workspace, 0xff, WORKSPACE_BYTES);
        for (int64_t batch = 0; batch < spec.batch; ++batch)
            multiply_one(spec, tf32, o, batch);
    })));
    return LKS_OK;
}
