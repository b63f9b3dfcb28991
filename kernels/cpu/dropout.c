#include "kernels/cpu/dropout.h"
#include "kernels/cpu/cpu.h"

typedef struct dropout_state {
    int64_t samples, elements; /* elements of one sample */
    float rate;
    uint32_t instance;
} dropout_state;

static lks_status dropout_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                  size_t *workspace)
{
    (void)device;
    LKS_TRY(lks_shapes_expect_dropout(spec, NULL));
    const lks_kernel_tensor *x = &spec->inputs[0];
    const lks_dropout_attributes *attributes = spec->attributes;
    dropout_state *state;
    LKS_TRY(LKS_NEW(&state));
    state->samples = x->shape.size[0];
    state->elements = lks_spec_elements(x) / state->samples;
    state->rate = attributes->rate;
    state->instance = attributes->instance;
    *workspace = 0;
    *out = state;
    return LKS_OK;
}

enum { CHUNK = 256 };

static lks_status dropout_run(void *state_, const lks_kernel_run *run)
{
    const dropout_state *state = state_;
    const float *x = run->inputs[0], *residual = run->inputs[1];
    float *y = run->outputs[0], factor[CHUNK];
    uint64_t key = lks_rng_key(run->context->seed, LKS_RNG_DROPOUT, state->instance);
    for (int64_t sample = 0; sample < state->samples; ++sample) {
        uint64_t position = run->context->positions[sample];
        for (int64_t first = 0; first < state->elements; first += CHUNK) {
            int64_t count = state->elements - first < CHUNK ? state->elements - first : CHUNK;
            int64_t base = sample * state->elements + first;
            lks_dropout_factors(key, position, (uint64_t)first, count, state->rate, factor);
            for (int64_t i = 0; i < count; ++i) {
                float value = x[base + i] * factor[i];
                if (residual)
                    value += residual[base + i];
                y[base + i] = run->accumulate[0] ? y[base + i] + value : value;
            }
        }
    }
    return LKS_OK;
}

extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_dropout);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_dropout) = {"dropout", dropout_prepare,
                                                                dropout_run, lks_memory_free};
