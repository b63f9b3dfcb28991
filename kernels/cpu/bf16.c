/* bf16 on the cpu device: a kernel that computes in f32 is run on widened copies of what it reads, and what it
 * writes is rounded once. The kernels of matrix products read bf16 themselves where the processor
 * has instructions for it (lks_cpu_reads_bf16).
 */
#include "kernels/cpu/cpu.h"

#include "runtime/base/bf16.h"

#include <string.h>

/* Where in the workspace a tensor's f32 copy is. */
typedef struct bf16_copy {
    bool there;
    size_t offset;
    uint64_t elements;
} bf16_copy;

typedef struct bf16_state {
    const lks_kernel_driver *inner;
    void *inner_state;
    const lks_cpu_flat *flat;
    bf16_copy inputs[LKS_KERNEL_TENSORS_MAX], outputs[LKS_KERNEL_TENSORS_MAX];
    size_t inner_workspace; /* its offset */
} bf16_state;

static const lks_kernel_driver *find_inner(const lks_cpu_device *cpu, const char *name)
{
    const lks_kernel_driver *const *k = cpu->isa->kernels;
    while (*k && strcmp((*k)->name, name) != 0)
        ++k;
    return *k;
}

/* Turns the tensor into f32 with a copy at *bytes. */
static void widen_tensor(lks_kernel_tensor *tensor, bf16_copy *copy, size_t *bytes)
{
    if (tensor->dtype != LKS_BF16)
        return;
    tensor->dtype = LKS_F32;
    *copy = (bf16_copy){true, *bytes, lks_shape_elements(&tensor->shape)};
    *bytes += lks_round_up(copy->elements * sizeof(float), LKS_ALIGNMENT);
}

static lks_status bf16_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                               size_t *workspace)
{
    const lks_cpu_device *cpu = lks_cpu_of(device);
    lks_kernel_tensor inputs[LKS_KERNEL_TENSORS_MAX], outputs[LKS_KERNEL_TENSORS_MAX];
    lks_kernel_spec wide = *spec;
    bf16_state *state;
    size_t bytes = 0, inner = 0;
    LKS_TRY(LKS_NEW(&state));
    state->inner = find_inner(cpu, spec->kernel);
    state->flat = cpu->isa->flat;
    memcpy(inputs, spec->inputs, sizeof inputs);
    memcpy(outputs, spec->outputs, sizeof outputs);
    wide.inputs = inputs;
    wide.outputs = outputs;
    unsigned kept = cpu->native_bf16 ? lks_cpu_reads_bf16(spec->kernel) : 0;
    for (int i = 0; i < LKS_KERNEL_TENSORS_MAX; ++i) {
        if (!(kept >> i & 1u))
            widen_tensor(&inputs[i], &state->inputs[i], &bytes);
        widen_tensor(&outputs[i], &state->outputs[i], &bytes);
    }
    lks_status status = state->inner->prepare(&state->inner_state, device, &wide, &inner);
    if (status != LKS_OK) {
        lks_memory_free(state);
        return status;
    }
    state->inner_workspace = bytes;
    *workspace = bytes + inner;
    *out = state;
    return LKS_OK;
}

static void bf16_release(void *state_)
{
    bf16_state *state = state_;
    state->inner->release(state->inner_state);
    lks_memory_free(state);
}

static lks_status bf16_run(void *state_, const lks_kernel_run *run)
{
    const bf16_state *state = state_;
    const void *inputs[LKS_KERNEL_TENSORS_MAX];
    void *outputs[LKS_KERNEL_TENSORS_MAX];
    char *workspace = run->workspace;
    for (int i = 0; i < LKS_KERNEL_TENSORS_MAX; ++i) {
        const bf16_copy *in = &state->inputs[i], *to = &state->outputs[i];
        inputs[i] = run->inputs[i];
        outputs[i] = run->outputs[i];
        if (in->there) {
            state->flat->widen(in->elements, run->inputs[i],
                               (float *)(void *)(workspace + in->offset));
            inputs[i] = workspace + in->offset;
        }
        if (to->there) {
            outputs[i] = workspace + to->offset;
            if (run->accumulate[i])
                state->flat->widen(to->elements, run->outputs[i], outputs[i]);
        }
    }
    lks_kernel_run wide = {inputs, outputs, run->accumulate, workspace + state->inner_workspace,
                           run->context};
    LKS_TRY(state->inner->run(state->inner_state, &wide));
    for (int i = 0; i < LKS_KERNEL_TENSORS_MAX; ++i)
        if (state->outputs[i].there)
            state->flat->round(state->outputs[i].elements, outputs[i], run->outputs[i]);
    return LKS_OK;
}

const lks_kernel_driver lks_cpu_bf16 = {"bf16", bf16_prepare, bf16_run, bf16_release};

unsigned lks_cpu_reads_bf16(const char *kernel)
{
    static const char *const products[] = {"linear", "linear_grad_input", "linear_grad_weight"};
    for (size_t i = 0; i < sizeof products / sizeof *products; ++i)
        if (!strcmp(kernel, products[i]))
            return 1u << 0 | 1u << 1;
    return 0;
}
