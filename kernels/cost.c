#include "kernels/ops.h"
#include "kernels/profile.h"
#include "kernels/spec.h"

#include <string.h>

static double tensor_bytes(const lks_kernel_tensor *tensor)
{
    if (!lks_spec_present(tensor))
        return 0;
    return (double)lks_spec_elements(tensor) * (double)lks_dtype_bytes(tensor->dtype);
}

/* Query-key pairs of an attention, over samples and heads. */
static double attention_pairs(const lks_kernel_spec *spec, const lks_attention_attributes *a)
{
    double samples = (double)spec->inputs[0].shape.size[0];
    double context = (double)spec->inputs[0].shape.size[1];
    return samples * a->heads * (a->causal ? context * (context + 1) / 2 : context * context);
}

/* Of each output: weights of one filter. */
static double filter_elements(const lks_kernel_tensor *weights)
{
    return (double)lks_spec_elements(weights) / (double)weights->shape.size[0];
}

static double flops_of(const lks_kernel_spec *spec)
{
    const lks_kernel_tensor *in = spec->inputs, *out = spec->outputs;
    const char *kernel = spec->kernel;
    if (!strcmp(kernel, "linear") || !strcmp(kernel, "linear_grad_input"))
        return 2.0 * (double)lks_spec_elements(out) * (double)lks_spec_columns(in);
    if (!strcmp(kernel, "linear_grad_weight"))
        return 2.0 * (double)lks_spec_elements(out) * (double)lks_spec_rows(in);
    if (!strcmp(kernel, "matmul")) {
        const lks_matmul_attributes *a = spec->attributes;
        const lks_shape *shape = &in->shape;
        double k = (double)shape->size[shape->axes - (a->transpose_a ? 2 : 1)];
        return 2.0 * (double)lks_spec_elements(out) * k;
    }
    if (!strcmp(kernel, "attention")) { /* scores, y */
        const lks_attention_attributes *a = spec->attributes;
        return 2 * 2.0 * a->width * attention_pairs(spec, a);
    }
    if (!strcmp(kernel, "attention_grad")) { /* scores again, dv, dp, dq, dk */
        const lks_attention_attributes *a = spec->attributes;
        return 5 * 2.0 * a->width * attention_pairs(spec, a);
    }
    if (!strcmp(kernel, "conv2d"))
        return 2.0 * (double)lks_spec_elements(out) * filter_elements(&in[1]);
    if (!strcmp(kernel, "conv2d_grad_input"))
        return 2.0 * (double)lks_spec_elements(in) * filter_elements(&in[1]);
    if (!strcmp(kernel, "conv2d_grad_weight"))
        return 2.0 * (double)lks_spec_elements(in) * filter_elements(out);
    return 0;
}

/* Which rows of its table an embedding touches depends on the data: they are not counted. */
lks_cost lks_kernel_cost(const lks_kernel_spec *spec)
{
    lks_cost cost = {.flops = flops_of(spec)};
    bool looks_up = !strcmp(spec->kernel, "embedding");
    bool scatters = !strcmp(spec->kernel, "embedding_grad");
    for (int i = 0; i < spec->input_count; ++i)
        cost.bytes += looks_up && i == 1 ? 0 : tensor_bytes(&spec->inputs[i]);
    for (int o = 0; o < spec->output_count; ++o) {
        double bytes = tensor_bytes(&spec->outputs[o]);
        cost.bytes += bytes;
        cost.added_bytes[o] = scatters && o == 0 ? -bytes : bytes;
    }
    return cost;
}

static double block_elements(const lks_layout_block *blocks, uint32_t count)
{
    double elements = 0;
    for (uint32_t i = 0; i < count; ++i)
        elements += (double)blocks[i].elements;
    return elements;
}

lks_cost lks_sum_cost(const lks_sum *sum)
{
    bool stays = sum->partial_count == 1 && sum->partials->data == sum->out;
    double elements = block_elements(sum->host_blocks, sum->count);
    return (lks_cost){.bytes = elements * sizeof(float) * (sum->partial_count + (stays ? 0 : 1))};
}

lks_cost lks_update_cost(const lks_update *update, const lks_update_blocks *what)
{
    int arrays = 3; /* gradient in, parameter in and out */
    for (int i = 0; i < 2; ++i)
        arrays += what->states[i] != NULL && update->rule != LKS_UPDATE_AVERAGE ? 2 : 0;
    return (lks_cost){.bytes =
                          block_elements(what->host_blocks, what->count) * sizeof(float) * arrays};
}
