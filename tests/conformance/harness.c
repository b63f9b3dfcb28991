#include "tests/conformance/harness.h"

#include "kernels/cpu/cpu.h"
#include "runtime/base/memory.h"
#include "runtime/base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int harness_variants(void)
{
    int count = 0;
    for (const lks_cpu_isa *const *isa = lks_cpu_isas; *isa; ++isa)
        count += lks_cpu_isa_supported(*isa);
    return count;
}

lks_device *harness_open(int variant)
{
    for (const lks_cpu_isa *const *isa = lks_cpu_isas; *isa; ++isa)
        if (lks_cpu_isa_supported(*isa) && variant-- == 0) {
            char name[64];
            lks_device *device = NULL;
            snprintf(name, sizeof name, "cpu:%s", (*isa)->name);
            lks_status status = lks_device_open(&device, name, 0);
            ck_assert_msg(status == LKS_OK, "%s", lks_status_message());
            return device;
        }
    ck_abort_msg("no such variant");
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

static uint32_t random_word(uint64_t key, uint64_t i)
{
    return lks_rng_words(key, 0, i / 4).word[i % 4];
}

harness_tensor harness_random(lks_shape shape, uint64_t seed, double low, double high)
{
    harness_tensor tensor = harness_zeros(LKS_F32, shape);
    uint64_t key = lks_rng_key(seed, LKS_RNG_TEST, 0);
    for (size_t i = 0; i < harness_count(&tensor); ++i)
        harness_f32(&tensor)[i] =
            (float)(low + (high - low) * lks_rng_uniform(random_word(key, i)));
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

harness_tensor harness_output(lks_shape shape, bool accumulate)
{
    harness_tensor tensor;
    if (accumulate)
        tensor = harness_random(shape, 77, -1, 1);
    else
        tensor = harness_output_of(LKS_F32, shape);
    tensor.accumulate = accumulate;
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

/* A copy of a call's buffers at addresses of its own. */
typedef struct placement {
    void *block[TENSORS]; /* what was allocated */
    void *data[TENSORS];  /* inputs first, then outputs; NULL: absent */
    void *workspace_block, *workspace;
} placement;

static void *place(void **block, const void *contents, size_t bytes, size_t shift)
{
    size_t padded = lks_round_up(bytes, 64);
    char *memory = *block = allocate(padded + 2 * GUARD_BYTES + shift);
    memset(memory, 0xa5, padded + 2 * GUARD_BYTES + shift);
    memory += shift + GUARD_BYTES;
    if (contents)
        memcpy(memory, contents, bytes);
    else
        memset(memory, 0xff, bytes);
    return memory;
}

static void check_guards(const void *data, size_t bytes, const char *kernel, int number)
{
    const unsigned char *memory = data;
    for (int i = 1; i <= GUARD_BYTES; ++i)
        if (memory[-i] != 0xa5)
            ck_abort_msg("%s: buffer %d written before its start", kernel, number);
    for (int i = 0; i < GUARD_BYTES; ++i)
        if (memory[bytes + (size_t)i] != 0xa5)
            ck_abort_msg("%s: buffer %d written after its end", kernel, number);
}

static harness_tensor *tensor_of(const harness_call *call, int number)
{
    return number < call->input_count ? &call->inputs[number]
                                      : &call->outputs[number - call->input_count];
}

static void placement_fill(placement *at, const harness_call *call, size_t workspace, size_t shift)
{
    *at = (placement){0};
    for (int i = 0; i < call->input_count + call->output_count; ++i) {
        harness_tensor *tensor = tensor_of(call, i);
        if (tensor->spec.dtype == LKS_NONE)
            continue;
        if (i >= call->input_count && tensor->shares >= 0)
            at->data[i] = at->data[tensor->shares];
        else
            at->data[i] =
                place(&at->block[i], tensor->data, tensor_bytes(tensor), shift * (size_t)(i + 1));
    }
    at->workspace = place(&at->workspace_block, NULL, workspace, shift);
}

static void placement_release(placement *at)
{
    for (int i = 0; i < TENSORS; ++i)
        lks_memory_free(at->block[i]);
    lks_memory_free(at->workspace_block);
}

static lks_status execute(lks_kernel *kernel, const harness_call *call, placement *at)
{
    bool accumulate[TENSORS] = {0};
    for (int i = 0; i < call->output_count; ++i)
        accumulate[i] = call->outputs[i].accumulate;
    lks_kernel_run run = {(const void *const *)at->data, at->data + call->input_count, accumulate,
                          at->workspace, call->context};
    return lks_kernel_execute(kernel, &run);
}

static void check_placement(const harness_call *call, const placement *at, size_t workspace)
{
    bool shared[TENSORS] = {0};
    for (int i = 0; i < call->output_count; ++i)
        if (call->outputs[i].shares >= 0)
            shared[call->outputs[i].shares] = true;
    for (int i = 0; i < call->input_count + call->output_count; ++i) {
        if (!at->block[i])
            continue;
        const harness_tensor *tensor = tensor_of(call, i);
        check_guards(at->data[i], tensor_bytes(tensor), call->kernel, i);
        if (i < call->input_count && !shared[i])
            ck_assert_msg(!memcmp(at->data[i], tensor->data, tensor_bytes(tensor)),
                          "%s: input %d was changed", call->kernel, i);
    }
    check_guards(at->workspace, workspace, call->kernel, -1);
}

static void compare(const harness_call *call, const placement *a, const placement *b,
                    const char *how)
{
    for (int i = 0; i < call->output_count; ++i) {
        int number = call->input_count + i;
        if (a->data[number])
            ck_assert_msg(
                !memcmp(a->data[number], b->data[number], tensor_bytes(&call->outputs[i])),
                "%s: output %d differs %s", call->kernel, i, how);
    }
}

static lks_status prepare(lks_device *device, const harness_call *call, lks_kernel **kernel)
{
    lks_kernel_tensor inputs[TENSORS] = {0}, outputs[TENSORS] = {0};
    ck_assert_int_le(call->input_count + call->output_count, TENSORS);
    for (int i = 0; i < call->input_count; ++i)
        inputs[i] = call->inputs[i].spec;
    for (int i = 0; i < call->output_count; ++i)
        outputs[i] = call->outputs[i].spec;
    lks_kernel_spec spec = {call->kernel,      call->attributes, inputs,
                            call->input_count, outputs,          call->output_count};
    return lks_kernel_prepare(kernel, device, &spec);
}

lks_status harness_try(lks_device *device, const harness_call *call)
{
    lks_kernel *kernel = NULL;
    placement at;
    LKS_TRY(prepare(device, call, &kernel));
    placement_fill(&at, call, lks_kernel_workspace(kernel), 0);
    lks_status status = execute(kernel, call, &at);
    placement_release(&at);
    lks_kernel_release(kernel);
    return status;
}

static void keep_results(const harness_call *call, const placement *at)
{
    for (int i = 0; i < call->output_count; ++i) {
        harness_tensor *output = &call->outputs[i];
        size_t bytes = tensor_bytes(output);
        if (!bytes)
            continue;
        void *result = allocate(bytes);
        memcpy(result, at->data[call->input_count + i], bytes);
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
        placement_fill(&at[form], call, workspace, shift[form]);
        uint64_t allocations = lks_memory_allocation_count();
        status = execute(kernel, call, &at[form]);
        ck_assert_msg(status == LKS_OK, "%s", lks_status_message());
        ck_assert_msg(lks_memory_allocation_count() == allocations, "%s allocates", call->kernel);
        check_placement(call, &at[form], workspace);
        compare(call, &at[0], &at[form], how[form]);
    }
    keep_results(call, &at[0]);
    for (int form = 0; form < FORMS; ++form)
        placement_release(&at[form]);
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

void harness_check(const harness_tensor *output, const char *name, const double *reference,
                   const double *scale, double c)
{
    const float *found = output->data, *before = output->before;
    for (size_t i = 0; i < harness_count(output); ++i) {
        double wanted = reference[i], allowed = c * scale[i];
        if (output->accumulate) {
            wanted += before[i];
            allowed += fabs(before[i]) + fabs(reference[i]);
        }
        allowed = allowed * 0x1p-24 + 0x1p-126;
        if (isnan(wanted) && isnan(found[i]))
            continue;
        if (fabs(found[i] - wanted) <= allowed || (double)found[i] == wanted)
            continue; /* Check writes to a pipe at each assertion */
        ck_abort_msg("%s[%zu]: found %.9g, wanted %.17g, off by %.3g, allowed %.3g", name, i,
                     (double)found[i], wanted, fabs(found[i] - wanted), allowed);
    }
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
