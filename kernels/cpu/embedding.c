#include "kernels/cpu/cpu.h"

#include <string.h>

typedef struct embedding_state {
    int64_t rows, period, vocabulary, width; /* period: T */
} embedding_state;

static lks_status check_id(const embedding_state *state, int64_t row, int32_t id)
{
    if (id >= 0 && id < state->vocabulary)
        return LKS_OK;
    return LKS_FAIL(LKS_ERR_CORRUPT,
                    "token id %d at row %lld of the micro-batch is outside the vocabulary of %lld",
                    (int)id, (long long)row, (long long)state->vocabulary);
}

static lks_status embedding_make(void **out, const lks_kernel_tensor *ids,
                                 const lks_kernel_tensor *table)
{
    embedding_state *state;
    LKS_TRY(LKS_NEW(&state));
    *state = (embedding_state){lks_spec_elements(ids), lks_spec_columns(ids), table->shape.size[0],
                               lks_spec_columns(table)};
    *out = state;
    return LKS_OK;
}

static lks_status embedding_prepare(void **out, lks_device *device, const lks_kernel_spec *spec,
                                    size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_embedding(spec, NULL));
    return embedding_make(out, &spec->inputs[0], &spec->inputs[1]);
}

static lks_status embedding_run(void *state_, const lks_kernel_run *run)
{
    const embedding_state *state = state_;
    const int32_t *ids = run->inputs[0];
    const float *table = run->inputs[1], *place = run->inputs[2];
    float *y = run->outputs[0];
    int64_t width = state->width;
    for (int64_t row = 0; row < state->rows; ++row) {
        LKS_TRY(check_id(state, row, ids[row]));
        const float *from = table + ids[row] * width;
        const float *add = place ? place + row % state->period * width : NULL;
        if (!add)
            memcpy(y + row * width, from, (size_t)width * sizeof *y);
        else
            for (int64_t c = 0; c < width; ++c)
                y[row * width + c] = from[c] + add[c];
    }
    return LKS_OK;
}

static lks_status embedding_grad_prepare(void **out, lks_device *device,
                                         const lks_kernel_spec *spec, size_t *workspace)
{
    (void)device;
    *workspace = 0;
    LKS_TRY(lks_shapes_expect_embedding_grad(spec, NULL));
    return embedding_make(out, &spec->inputs[0], &spec->outputs[0]);
}

static void add_row(float *into, const float *from, int64_t width)
{
    for (int64_t c = 0; c < width; ++c)
        into[c] += from[c];
}

static lks_status embedding_grad_run(void *state_, const lks_kernel_run *run)
{
    const embedding_state *state = state_;
    const int32_t *ids = run->inputs[0];
    const float *dy = run->inputs[1];
    float *dtable = run->outputs[0], *dplace = run->outputs[1];
    int64_t width = state->width;
    for (int64_t row = 0; row < state->rows; ++row)
        LKS_TRY(check_id(state, row, ids[row]));
    if (!run->accumulate[0])
        memset(dtable, 0, (size_t)(state->vocabulary * width) * sizeof *dtable);
    if (dplace && !run->accumulate[1])
        memset(dplace, 0, (size_t)(state->period * width) * sizeof *dplace);
    for (int64_t row = 0; row < state->rows; ++row) {
        add_row(dtable + ids[row] * width, dy + row * width, width);
        if (dplace)
            add_row(dplace + row % state->period * width, dy + row * width, width);
    }
    return LKS_OK;
}

extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_embedding);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_embedding) = {"embedding", embedding_prepare,
                                                                  embedding_run, lks_memory_free};
extern const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_embedding_grad);
const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_embedding_grad) = {
    "embedding_grad", embedding_grad_prepare, embedding_grad_run, lks_memory_free};
