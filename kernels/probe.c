/* The probe: a fixed table of calls on fixed numbers, and a hash of what came
 * out. Two ranks whose processor, library and build compute the same bits agree. */
#include "kernels/device.h"
#include "kernels/ops.h"

#include "runtime/base/hash.h"
#include "runtime/base/memory.h"
#include "runtime/base/rng.h"

enum { TENSORS = 6 };

typedef struct probe_case {
    const char *kernel;
    const void *attributes;
    lks_kernel_tensor inputs[TENSORS], outputs[TENSORS];
} probe_case;

#define F32(...)                                                                                   \
    {                                                                                              \
        LKS_F32,                                                                                   \
        {                                                                                          \
            sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t),                                    \
            {                                                                                      \
                __VA_ARGS__                                                                        \
            }                                                                                      \
        }                                                                                          \
    }
#define I32(...)                                                                                   \
    {                                                                                              \
        LKS_I32,                                                                                   \
        {                                                                                          \
            sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t),                                    \
            {                                                                                      \
                __VA_ARGS__                                                                        \
            }                                                                                      \
        }                                                                                          \
    }
#define F64(...)                                                                                   \
    {                                                                                              \
        LKS_F64,                                                                                   \
        {                                                                                          \
            sizeof((int64_t[]){__VA_ARGS__}) / sizeof(int64_t),                                    \
            {                                                                                      \
                __VA_ARGS__                                                                        \
            }                                                                                      \
        }                                                                                          \
    }

static const lks_linear_attributes gelu = {LKS_GELU};
static const lks_attention_attributes causal = {4, 2, 24, true, 0.2041241f, 0.1f, 1};
static const lks_norm_attributes layer = {LKS_NORM_LAYER, 1e-5f};
static const lks_cross_entropy_attributes classes = {1001};
static const lks_conv2d_attributes strided = {2, 1, 1};

static const probe_case cases[] = {
    {"linear", &gelu, {F32(131, 259), F32(97, 259), F32(97)}, {F32(131, 97), F32(131, 97)}},
    {"activation_grad", &gelu, {F32(131, 97), F32(131, 97)}, {F32(131, 97)}},
    {"linear_grad_input", NULL, {F32(131, 97), F32(97, 259)}, {F32(131, 259)}},
    {"linear_grad_weight", NULL, {F32(131, 97), F32(131, 259)}, {F32(97, 259), F32(97)}},
    {"attention", &causal, {F32(2, 67, 192)}, {F32(2, 67, 96), F32(2, 4, 67)}},
    {"attention_grad",
     &causal,
     {F32(2, 67, 192), F32(2, 67, 96), F32(2, 4, 67), F32(2, 67, 96)},
     {F32(2, 67, 192)}},
    {"norm",
     &layer,
     {F32(45, 131), F32(45, 131), F32(131), F32(131)},
     {F32(45, 131), F32(45, 131), F32(45), F32(45)}},
    {"norm_grad",
     &layer,
     {F32(45, 131), F32(131), F32(45), F32(45), F32(45, 131)},
     {F32(45, 131), F32(131), F32(131)}},
    {"cross_entropy", &classes, {F32(9, 1024), I32(9)}, {F32(9, 1024), F64(3)}},
    {"conv2d", &strided, {F32(2, 9, 11, 5), F32(7, 3, 3, 5), F32(7)}, {F32(2, 5, 6, 7)}},
    {"conv2d_grad_input", &strided, {F32(2, 5, 6, 7), F32(7, 3, 3, 5)}, {F32(2, 9, 11, 5)}},
    {"conv2d_grad_weight",
     &strided,
     {F32(2, 5, 6, 7), F32(2, 9, 11, 5)},
     {F32(7, 3, 3, 5), F32(7)}},
};
enum { CASES = sizeof cases / sizeof *cases };

static size_t bytes_of(const lks_kernel_tensor *tensor)
{
    if (tensor->dtype == LKS_NONE)
        return 0;
    return lks_shape_elements(&tensor->shape) * lks_dtype_bytes(tensor->dtype);
}

/* Numbers in [0, 1): probabilities of dropout, deviations and scores may be those. */
static lks_status fill(lks_device *device, const lks_kernel_tensor *tensor, uint32_t number,
                       void *memory)
{
    void *host = NULL;
    size_t bytes = bytes_of(tensor), count = lks_shape_elements(&tensor->shape);
    LKS_TRY(lks_memory_allocate(&host, bytes, 1));
    uint64_t key = lks_rng_key(0, LKS_RNG_TEST, number);
    if (tensor->dtype == LKS_F32)
        lks_rng_uniform_fill(key, 0, count, host);
    else
        for (size_t i = 0; i < count; ++i)
            ((int32_t *)host)[i] = (int32_t)(lks_rng_words(key, 0, i).word[0] % 997);
    lks_status status = lks_device_copy_in(device, memory, host, bytes);
    lks_memory_free(host);
    return status;
}

static lks_status digest(lks_device *device, const lks_kernel_tensor *tensor, const void *memory,
                         uint64_t *hash)
{
    void *host = NULL;
    size_t bytes = bytes_of(tensor);
    LKS_TRY(lks_memory_allocate(&host, bytes, 1));
    lks_status status = lks_device_copy_out(device, host, memory, bytes);
    uint64_t pair[2] = {*hash, lks_hash_xxh3(host, bytes)};
    *hash = lks_hash_xxh3(pair, sizeof pair);
    lks_memory_free(host);
    return status;
}

typedef struct probe_memory {
    void *inputs[TENSORS], *outputs[TENSORS], *workspace, *positions;
} probe_memory;

static const uint64_t positions[] = {11, 12};

static lks_status probe_allocate(lks_device *device, const probe_case *probe, uint32_t number,
                                 lks_kernel *kernel, probe_memory *memory)
{
    for (uint32_t i = 0; i < TENSORS; ++i) {
        size_t input_bytes = bytes_of(&probe->inputs[i]);
        size_t output_bytes = bytes_of(&probe->outputs[i]);
        if (input_bytes) {
            LKS_TRY(lks_device_allocate(device, input_bytes, &memory->inputs[i]));
            LKS_TRY(fill(device, &probe->inputs[i], number * TENSORS + i, memory->inputs[i]));
        }
        if (output_bytes)
            LKS_TRY(lks_device_allocate(device, output_bytes, &memory->outputs[i]));
    }
    LKS_TRY(lks_device_allocate(device, sizeof positions, &memory->positions));
    LKS_TRY(lks_device_copy_in(device, memory->positions, positions, sizeof positions));
    return lks_device_allocate(device, lks_kernel_workspace(kernel), &memory->workspace);
}

static lks_status probe_execute(lks_device *device, const probe_case *probe, lks_kernel *kernel,
                                probe_memory *memory, uint64_t *hash)
{
    lks_kernel_context context = {7, memory->positions};
    lks_kernel_run run = {(const void *const *)memory->inputs, memory->outputs, NULL,
                          memory->workspace, &context};
    LKS_TRY(lks_kernel_execute(kernel, &run));
    for (int i = 0; i < TENSORS; ++i)
        if (memory->outputs[i])
            LKS_TRY(digest(device, &probe->outputs[i], memory->outputs[i], hash));
    return LKS_OK;
}

static lks_status probe_kernel(lks_device *device, uint32_t number, uint64_t *hash)
{
    const probe_case *probe = &cases[number];
    probe_memory memory = {0};
    lks_kernel *kernel;
    lks_kernel_spec spec = {probe->kernel, probe->attributes, probe->inputs,
                            TENSORS,       probe->outputs,    TENSORS};
    LKS_TRY(lks_kernel_prepare(&kernel, device, &spec));
    lks_status status = probe_allocate(device, probe, number, kernel, &memory);
    if (status == LKS_OK)
        status = probe_execute(device, probe, kernel, &memory, hash);
    for (int i = 0; i < TENSORS; ++i) {
        lks_device_free(device, memory.inputs[i], bytes_of(&probe->inputs[i]));
        lks_device_free(device, memory.outputs[i], bytes_of(&probe->outputs[i]));
    }
    lks_device_free(device, memory.positions, sizeof positions);
    lks_device_free(device, memory.workspace, lks_kernel_workspace(kernel));
    lks_kernel_release(kernel);
    return status;
}

/* Three partial sums of five lanes, then an Adam update with the result. */
enum { ARRAYS = 5, ELEMENTS = 5003 };
static const lks_kernel_tensor flat_array = F32(ELEMENTS), one_number = F64(1);
static const lks_layout_block whole = {.elements = ELEMENTS};

typedef struct flat_memory {
    float *arrays[ARRAYS];
    void *block, *squares;
} flat_memory;

static lks_status flat_allocate(lks_device *device, flat_memory *memory)
{
    for (uint32_t i = 0; i < ARRAYS; ++i) {
        LKS_TRY(lks_device_allocate(device, bytes_of(&flat_array), (void **)&memory->arrays[i]));
        LKS_TRY(fill(device, &flat_array, CASES * TENSORS + i, memory->arrays[i]));
    }
    LKS_TRY(lks_device_allocate(device, sizeof whole, &memory->block));
    LKS_TRY(lks_device_allocate(device, bytes_of(&one_number), &memory->squares));
    return lks_device_copy_in(device, memory->block, &whole, sizeof whole);
}

static lks_status flat_run(lks_device *device, const flat_memory *memory, uint64_t *hash)
{
    float *const *arrays = memory->arrays;
    lks_partial partials[] = {{0, 2, arrays[0], 0}, {2, 4, arrays[1], 0}, {4, 5, arrays[2], 0}};
    lks_sum sum = {.blocks = memory->block,
                   .host_blocks = &whole,
                   .count = 1,
                   .partials = partials,
                   .partial_count = 3,
                   .lanes = 5,
                   .out = arrays[0],
                   .square_sums = memory->squares};
    lks_update adam = {.rule = LKS_UPDATE_ADAM,
                       .gradient_scale = 0.3f,
                       .lr = 0.01f,
                       .weight_decay = 0.1f,
                       .beta1 = 0.9,
                       .beta2 = 0.95,
                       .epsilon = 1e-8f,
                       .correction1 = 0.1f,
                       .correction2 = 0.05f,
                       .decoupled = true};
    LKS_TRY(lks_device_sum_blocks(device, &sum));
    lks_update_blocks what = {.blocks = memory->block,
                              .host_blocks = &whole,
                              .count = 1,
                              .gradient = arrays[0],
                              .parameter = arrays[1],
                              .states = {arrays[3], arrays[4]}};
    LKS_TRY(lks_device_update(device, &adam, &what));
    for (int i = 0; i < ARRAYS; ++i)
        LKS_TRY(digest(device, &flat_array, arrays[i], hash));
    return digest(device, &one_number, memory->squares, hash);
}

static lks_status probe_flat(lks_device *device, uint64_t *hash)
{
    flat_memory memory = {0};
    lks_status status = flat_allocate(device, &memory);
    if (status == LKS_OK)
        status = flat_run(device, &memory, hash);
    for (int i = 0; i < ARRAYS; ++i)
        lks_device_free(device, memory.arrays[i], bytes_of(&flat_array));
    lks_device_free(device, memory.block, sizeof whole);
    lks_device_free(device, memory.squares, bytes_of(&one_number));
    return status;
}

lks_status lks_device_probe(lks_device *device, uint64_t *hash)
{
    *hash = 0;
    for (uint32_t i = 0; i < CASES; ++i)
        LKS_TRY(probe_kernel(device, i, hash));
    return probe_flat(device, hash);
}
