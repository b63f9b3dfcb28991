#include "tests/conformance/harness.h"

#include "kernels/cpu/cpu.h"
#include "runtime/base/memory.h"
#include "runtime/base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- Variants ------------------------------------------------------------------- */

typedef struct variant {
    char name[64];
    bool bf16;
} variant;
enum { VARIANTS_MAX = 16 };

static bool computes_in_bf16; /* the variant that was opened last */

/* Called outside tests too, where Check cannot assert. */
static bool takes_bf16(const char *name)
{
    const lks_unary_attributes relu = {.function = LKS_UNARY_RELU};
    const lks_kernel_tensor x = {LKS_BF16, LKS_SHAPE(8)};
    const lks_kernel_spec spec = {"unary", &relu, &x, 1, &x, 1};
    lks_device *device = NULL;
    lks_kernel *kernel = NULL;
    bool taken = lks_device_open(&device, name, 0) == LKS_OK &&
                 lks_kernel_prepare(&kernel, device, &spec) == LKS_OK;
    lks_kernel_release(kernel);
    lks_device_close(device);
    return taken;
}

static const char *device_name(void)
{
    const char *name = getenv("LKS_CONFORMANCE_DEVICE");
    return name ? name : "cpu";
}

bool harness_on_cpu(void)
{
    return !strcmp(device_name(), "cpu");
}

static uint32_t random_word(uint64_t key, uint64_t i)
{
    return lks_rng_words(key, 0, i / 4).word[i % 4];
}

bool harness_skips(int case_number)
{
    return getenv("LKS_CONFORMANCE_QUICK") &&
           random_word(lks_rng_key(3, LKS_RNG_TEST, 2), (uint64_t)case_number) % 3 != 0;
}

/* A GPU is opened in no process that then forks, as Check does: it is known to take both. */
static int list_variants(variant *out)
{
    int count = 0;
    if (!harness_on_cpu()) {
        for (int bf16 = 0; bf16 < 2; ++bf16) {
            snprintf(out[count].name, sizeof out->name, "%s", device_name());
            out[count++].bf16 = bf16;
        }
        return count;
    }
    for (const lks_cpu_isa *const *isa = lks_cpu_isas; *isa; ++isa) {
        char name[64];
        snprintf(name, sizeof name, "cpu:%s", (*isa)->name);
        for (int bf16 = 0; lks_cpu_isa_supported(*isa) && bf16 < 2; ++bf16) {
            if (count == VARIANTS_MAX || (bf16 && !takes_bf16(name)))
                continue;
            memcpy(out[count].name, name, sizeof name);
            out[count++].bf16 = bf16;
        }
    }
    return count;
}

int harness_variants(void)
{
    static int count;
    variant variants[VARIANTS_MAX];
    if (!count)
        count = list_variants(variants);
    return count;
}

lks_device *harness_open(int number)
{
    variant variants[VARIANTS_MAX];
    ck_assert_int_lt(number, list_variants(variants));
    computes_in_bf16 = variants[number].bf16;
    lks_device *device = NULL;
    lks_status status = lks_device_open(&device, variants[number].name, 0);
    ck_assert_msg(status == LKS_OK, "%s", lks_status_message());
    return device;
}

bool harness_is_bf16(void)
{
    return computes_in_bf16;
}

static uint16_t to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if (isnan(value))
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static float from_bf16(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

double harness_rounded(double value)
{
    float rounded = (float)value;
    return computes_in_bf16 ? from_bf16(to_bf16(rounded)) : rounded;
}

void harness_round(harness_tensor *tensor)
{
    for (size_t i = 0; tensor->computes && i < harness_count(tensor); ++i)
        harness_f32(tensor)[i] = (float)harness_rounded(harness_f32(tensor)[i]);
}

/* --- Tensors ------------------------------------------------------------------ */

static void *allocate(size_t bytes)
{
    void *block = NULL;
    ck_assert_int_eq(lks_memory_allocate(&block, bytes, 1), LKS_OK);
    return block;
}

static size_t tensor_bytes(const harness_tensor *tensor)
{
    if (tensor->spec.dtype == LKS_NONE)
        return 0;
    return harness_count(tensor) * lks_dtype_bytes(tensor->spec.dtype);
}

/* What the kernel sees. */
static lks_dtype device_type(const harness_tensor *tensor)
{
    return tensor->computes && computes_in_bf16 && tensor->spec.dtype == LKS_F32
               ? LKS_BF16
               : tensor->spec.dtype;
}

harness_tensor harness_absent(void)
{
    return (harness_tensor){.shares = -1};
}

harness_tensor harness_zeros(lks_dtype dtype, lks_shape shape)
{
    harness_tensor tensor = {.spec = {dtype, shape}, .shares = -1};
    tensor.data = allocate(tensor_bytes(&tensor));
    return tensor;
}

harness_tensor harness_values(lks_shape shape)
{
    harness_tensor tensor = harness_zeros(LKS_F32, shape);
    tensor.computes = true;
    return tensor;
}

harness_tensor harness_random_f32(lks_shape shape, uint64_t seed, double low, double high)
{
    harness_tensor tensor = harness_zeros(LKS_F32, shape);
    uint64_t key = lks_rng_key(seed, LKS_RNG_TEST, 0);
    for (size_t i = 0; i < harness_count(&tensor); ++i)
        harness_f32(&tensor)[i] =
            (float)(low + (high - low) * lks_rng_uniform(random_word(key, i)));
    return tensor;
}

harness_tensor harness_random(lks_shape shape, uint64_t seed, double low, double high)
{
    harness_tensor tensor = harness_random_f32(shape, seed, low, high);
    tensor.computes = true;
    harness_round(&tensor);
    return tensor;
}

harness_tensor harness_random_integers(lks_shape shape, uint64_t seed, int low, int high)
{
    harness_tensor tensor = harness_zeros(LKS_I32, shape);
    uint64_t key = lks_rng_key(seed, LKS_RNG_TEST, 1);
    for (size_t i = 0; i < harness_count(&tensor); ++i)
        harness_i32(&tensor)[i] = low + (int)(random_word(key, i) % (uint32_t)(high - low));
    return tensor;
}

harness_tensor harness_output_f32(lks_shape shape, bool accumulate)
{
    harness_tensor tensor =
        accumulate ? harness_random_f32(shape, 77, -1, 1) : harness_output_of(LKS_F32, shape);
    tensor.accumulate = accumulate;
    return tensor;
}

harness_tensor harness_output(lks_shape shape, bool accumulate)
{
    harness_tensor tensor = harness_output_f32(shape, accumulate);
    tensor.computes = true;
    if (accumulate)
        harness_round(&tensor);
    return tensor;
}

harness_tensor harness_output_of(lks_dtype dtype, lks_shape shape)
{
    harness_tensor tensor = harness_zeros(dtype, shape);
    memset(tensor.data, 0xff, tensor_bytes(&tensor));
    return tensor;
}

harness_tensor harness_shared(const harness_tensor *inputs, int shares)
{
    harness_tensor tensor = inputs[shares];
    tensor.shares = shares;
    return tensor;
}

double *harness_f64(size_t count)
{
    double *out = calloc(count ? count : 1, sizeof *out);
    ck_assert_ptr_nonnull(out);
    return out;
}

double *harness_to_f64(const harness_tensor *tensor)
{
    double *out = harness_f64(harness_count(tensor));
    for (size_t i = 0; i < harness_count(tensor); ++i)
        out[i] = harness_f32(tensor)[i];
    return out;
}

/* --- Running ------------------------------------------------------------------ */

enum { TENSORS = 16, GUARD_BYTES = 64 };

/* A buffer of a call in the device's memory, and what the host knows of it: all with their guards. */
typedef struct buffer {
    char *block, *host, *data; /* data NULL: absent; of a shared output: the input's */
    size_t bytes, block_bytes;
} buffer;

/* A copy of a call's buffers at addresses of its own. */
typedef struct placement {
    buffer buffers[TENSORS]; /* inputs first, then outputs */
    buffer workspace;
    uint64_t *positions;
    lks_kernel_context context;
} placement;

void *harness_to_device(lks_device *device, const void *host, size_t bytes)
{
    void *memory = NULL;
    lks_status status = lks_device_allocate(device, bytes, &memory);
    if (status == LKS_OK && bytes)
        status = lks_device_copy_in(device, memory, host, bytes);
    ck_assert_msg(status == LKS_OK, "%s", lks_status_message());
    return memory;
}

void harness_from_device(lks_device *device, void *host, const void *memory, size_t bytes)
{
    lks_status status = bytes ? lks_device_copy_out(device, host, memory, bytes) : LKS_OK;
    ck_assert_msg(status == LKS_OK, "%s", lks_status_message());
}

/* `contents` as the device has them; NULL: NaN. */
static buffer place(lks_device *device, const void *contents, size_t bytes, size_t shift)
{
    buffer b = {.bytes = bytes};
    b.block_bytes = lks_round_up(bytes, 64) + 2 * GUARD_BYTES + shift;
    b.host = allocate(b.block_bytes);
    memset(b.host, 0xa5, b.block_bytes);
    char *inside = b.host + shift + GUARD_BYTES;
    if (contents)
        memcpy(inside, contents, bytes);
    else
        memset(inside, 0xff, bytes);
    b.block = harness_to_device(device, b.host, b.block_bytes);
    b.data = b.block + shift + GUARD_BYTES;
    return b;
}

static const char *host_of(const buffer *b)
{
    return b->host + (b->data - b->block);
}

static buffer place_tensor(lks_device *device, const harness_tensor *tensor, size_t shift)
{
    if (device_type(tensor) != LKS_BF16)
        return place(device, tensor->data, tensor_bytes(tensor), shift);
    size_t count = harness_count(tensor);
    uint16_t *halves = allocate(count * sizeof *halves);
    for (size_t i = 0; i < count; ++i)
        halves[i] = to_bf16(harness_f32(tensor)[i]);
    buffer b = place(device, halves, count * sizeof *halves, shift);
    lks_memory_free(halves);
    return b;
}

static harness_tensor *tensor_of(const harness_call *call, int number)
{
    return number < call->input_count ? &call->inputs[number]
                                      : &call->outputs[number - call->input_count];
}

static size_t positions_bytes(const harness_call *call)
{
    return (size_t)call->inputs[0].spec.shape.size[0] * sizeof(uint64_t);
}

static void placement_fill(lks_device *device, placement *at, const harness_call *call,
                           size_t workspace, size_t shift)
{
    *at = (placement){0};
    for (int i = 0; i < call->input_count + call->output_count; ++i) {
        harness_tensor *tensor = tensor_of(call, i);
        if (tensor->spec.dtype == LKS_NONE)
            continue;
        if (i >= call->input_count && tensor->shares >= 0)
            at->buffers[i].data = at->buffers[tensor->shares].data;
        else
            at->buffers[i] = place_tensor(device, tensor, shift * (size_t)(i + 1));
    }
    at->workspace = place(device, NULL, workspace, shift);
    if (call->context) {
        size_t bytes = positions_bytes(call);
        at->context = *call->context;
        at->positions = harness_to_device(device, call->context->positions, bytes);
        at->context.positions = at->positions;
    }
}

static void buffer_release(lks_device *device, buffer *b)
{
    lks_device_free(device, b->block, b->block_bytes);
    lks_memory_free(b->host);
}

static void placement_release(lks_device *device, const harness_call *call, placement *at)
{
    for (int i = 0; i < TENSORS; ++i)
        if (at->buffers[i].block)
            buffer_release(device, &at->buffers[i]);
    buffer_release(device, &at->workspace);
    if (at->positions)
        lks_device_free(device, at->positions, positions_bytes(call));
}

static lks_status execute(lks_kernel *kernel, const harness_call *call, const placement *at)
{
    const void *inputs[TENSORS];
    void *outputs[TENSORS];
    bool accumulate[TENSORS] = {0};
    for (int i = 0; i < call->input_count; ++i)
        inputs[i] = at->buffers[i].data;
    for (int i = 0; i < call->output_count; ++i) {
        outputs[i] = at->buffers[call->input_count + i].data;
        accumulate[i] = call->outputs[i].accumulate;
    }
    lks_kernel_run run = {inputs, outputs, accumulate, at->workspace.data,
                          call->context ? &at->context : NULL};
    return lks_kernel_execute(kernel, &run);
}

static void check_guards(const buffer *b, const char *kernel, int number)
{
    const unsigned char *memory = (const unsigned char *)host_of(b);
    for (int i = 1; i <= GUARD_BYTES; ++i)
        if (memory[-i] != 0xa5)
            ck_abort_msg("%s: buffer %d written before its start", kernel, number);
    for (int i = 0; i < GUARD_BYTES; ++i)
        if (memory[b->bytes + (size_t)i] != 0xa5)
            ck_abort_msg("%s: buffer %d written after its end", kernel, number);
}

/* What the device has now, for the host; true if it changed within the guards. */
static bool fetch(lks_device *device, buffer *b)
{
    char *now = allocate(b->block_bytes);
    harness_from_device(device, now, b->block, b->block_bytes);
    size_t at = (size_t)(b->data - b->block);
    bool changed = memcmp(now + at, b->host + at, b->bytes) != 0;
    lks_memory_free(b->host);
    b->host = now;
    return changed;
}

static void check_placement(lks_device *device, const harness_call *call, placement *at)
{
    bool shared[TENSORS] = {0};
    for (int i = 0; i < call->output_count; ++i)
        if (call->outputs[i].shares >= 0)
            shared[call->outputs[i].shares] = true;
    for (int i = 0; i < call->input_count + call->output_count; ++i) {
        buffer *b = &at->buffers[i];
        if (!b->block)
            continue;
        bool changed = fetch(device, b);
        check_guards(b, call->kernel, i);
        if (i < call->input_count && !shared[i])
            ck_assert_msg(!changed, "%s: input %d was changed", call->kernel, i);
    }
    (void)fetch(device, &at->workspace);
    check_guards(&at->workspace, call->kernel, -1);
}

static const buffer *result_of(const harness_call *call, const placement *at, int output)
{
    int shares = call->outputs[output].shares;
    return &at->buffers[shares >= 0 ? shares : call->input_count + output];
}

static void compare(const harness_call *call, const placement *a, const placement *b,
                    const char *how)
{
    for (int i = 0; i < call->output_count; ++i) {
        const buffer *one = result_of(call, a, i), *other = result_of(call, b, i);
        if (one->data)
            ck_assert_msg(!memcmp(host_of(one), host_of(other), one->bytes),
                          "%s: output %d differs %s", call->kernel, i, how);
    }
}

static lks_status prepare(lks_device *device, const harness_call *call, lks_kernel **kernel)
{
    lks_kernel_tensor inputs[TENSORS] = {0}, outputs[TENSORS] = {0};
    ck_assert_int_le(call->input_count + call->output_count, TENSORS);
    for (int i = 0; i < call->input_count + call->output_count; ++i) {
        const harness_tensor *tensor = tensor_of(call, i);
        lks_kernel_tensor seen = {device_type(tensor), tensor->spec.shape};
        *(i < call->input_count ? &inputs[i] : &outputs[i - call->input_count]) = seen;
    }
    lks_kernel_spec spec = {call->kernel,      call->attributes, inputs,
                            call->input_count, outputs,          call->output_count};
    return lks_kernel_prepare(kernel, device, &spec);
}

lks_status harness_try(lks_device *device, const harness_call *call)
{
    lks_kernel *kernel = NULL;
    placement at;
    LKS_TRY(prepare(device, call, &kernel));
    placement_fill(device, &at, call, lks_kernel_workspace(kernel), 0);
    lks_status status = execute(kernel, call, &at);
    if (status == LKS_OK)
        status = lks_device_synchronize(device);
    placement_release(device, call, &at);
    lks_kernel_release(kernel);
    return status;
}

static void keep_results(const harness_call *call, const placement *at)
{
    for (int i = 0; i < call->output_count; ++i) {
        harness_tensor *output = &call->outputs[i];
        if (output->spec.dtype == LKS_NONE)
            continue;
        void *result = allocate(tensor_bytes(output));
        const char *found = host_of(result_of(call, at, i));
        if (device_type(output) == LKS_BF16)
            for (size_t j = 0; j < harness_count(output); ++j) {
                uint16_t half;
                memcpy(&half, found + 2 * j, sizeof half);
                ((float *)result)[j] = from_bf16(half);
            }
        else
            memcpy(result, found, tensor_bytes(output));
        output->before = output->data; /* where it shares, the input's */
        output->data = result;
    }
}

void harness_run(lks_device *device, const harness_call *call)
{
    enum { FORMS = 3 };
    static const char *const how[FORMS] = {"", "when run again", "when its buffers are elsewhere"};
    static const size_t shift[FORMS] = {0, 0, 64 * 7};
    placement at[FORMS];
    lks_kernel *kernel = NULL;
    lks_status status = prepare(device, call, &kernel);
    ck_assert_msg(status == LKS_OK, "%s", lks_status_message());
    size_t workspace = lks_kernel_workspace(kernel);
    for (int form = 0; form < FORMS; ++form) {
        placement_fill(device, &at[form], call, workspace, shift[form]);
        uint64_t allocations = lks_memory_allocation_count();
        status = execute(kernel, call, &at[form]);
        ck_assert_msg(status == LKS_OK, "%s", lks_status_message());
        ck_assert_msg(lks_memory_allocation_count() == allocations, "%s allocates", call->kernel);
        check_placement(device, call, &at[form]);
        compare(call, &at[0], &at[form], how[form]);
    }
    keep_results(call, &at[0]);
    for (int form = 0; form < FORMS; ++form)
        placement_release(device, call, &at[form]);
    lks_kernel_release(kernel);
}

void harness_release(harness_call *call)
{
    for (int i = 0; i < call->output_count; ++i) {
        harness_tensor *output = &call->outputs[i];
        if (output->before)
            lks_memory_free(output->data);
        if (output->shares < 0)
            lks_memory_free(output->before ? output->before : output->data);
    }
    for (int i = 0; i < call->input_count; ++i)
        lks_memory_free(call->inputs[i].data);
}

/* --- Judging ------------------------------------------------------------------- */

void harness_check_inner(const harness_tensor *output, const char *name, const double *reference,
                         const double *scale, double c, const double *inner)
{
    const float *found = output->data, *before = output->before;
    bool rounded = device_type(output) == LKS_BF16;
    for (size_t i = 0; i < harness_count(output); ++i) {
        double wanted = reference[i], allowed = c * scale[i];
        if (output->accumulate) {
            wanted += before[i];
            allowed += fabs(before[i]) + fabs(reference[i]);
        }
        allowed = allowed * 0x1p-24 + 0x1p-126;
        if (inner && computes_in_bf16)
            allowed += 0x1p-8 * inner[i];
        if (rounded)
            allowed += 0x1p-8 * (fabs(wanted) + allowed);
        if (isnan(wanted) && isnan(found[i]))
            continue;
        if (fabs(found[i] - wanted) <= allowed || (double)found[i] == wanted)
            continue; /* Check writes to a pipe at each assertion */
        ck_abort_msg("%s[%zu]: found %.9g, wanted %.17g, off by %.3g, allowed %.3g", name, i,
                     (double)found[i], wanted, fabs(found[i] - wanted), allowed);
    }
}

void harness_check(const harness_tensor *output, const char *name, const double *reference,
                   const double *scale, double c)
{
    harness_check_inner(output, name, reference, scale, c, NULL);
}

void harness_expect(const char *name, size_t i, double found, double wanted, double tolerance)
{
    if (!(fabs(found - wanted) <= tolerance))
        ck_abort_msg("%s[%zu]: found %.17g, wanted %.17g, allowed off by %.3g", name, i, found,
                     wanted, tolerance);
}

void harness_differentiate(double (*loss)(void *user), void *user, double *x, size_t count,
                           double step, double *gradient)
{
    static const double weight[4] = {1, -8, 8, -1};
    static const double place_of[4] = {-2, -1, 1, 2};
    for (size_t i = 0; i < count; ++i) {
        double kept = x[i], sum = 0;
        for (int k = 0; k < 4; ++k) {
            x[i] = kept + place_of[k] * step;
            sum += weight[k] * loss(user);
        }
        x[i] = kept;
        gradient[i] = sum / (12 * step);
    }
}
