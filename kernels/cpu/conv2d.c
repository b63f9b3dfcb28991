/* "conv2d" and its two gradients, by oneDNN. Images are channels last; oneDNN chooses how it
 * wants the weights, and they are reordered from or to lockstep's layout in the workspace. */
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/onednn.h"

/* Offsets into the workspace, in bytes. */
typedef struct conv2d_places {
    size_t weights; /* in oneDNN's layout */
    size_t result;  /* what will be added to dx or dw */
    size_t bias;    /* what will be added to db */
    size_t scratch, bytes;
} conv2d_places;

typedef struct conv2d_state {
    lks_conv2d_pass pass;
    lks_cpu_device *cpu;
    dnnl_primitive_t convolution, reorder; /* reorder NULL: oneDNN wants lockstep's layout */
    dnnl_memory_t x, y, bias, scratch;
    dnnl_memory_t weights, plain, reorder_scratch; /* oneDNN's layout, lockstep's */
    conv2d_places places;
    size_t result_count, bias_count; /* elements */
} conv2d_state;

/* --- Descriptions for oneDNN -------------------------------------------------- */

typedef struct conv2d_description {
    dnnl_memory_desc_t x, y, bias;
    dnnl_memory_desc_t any, plain; /* weights: as oneDNN likes, as lockstep has them */
    dnnl_dims_t stride, padding;
} conv2d_description;

/* oneDNN's order is B, C, H, W whatever the layout. */
static lks_status conv2d_describe_image(dnnl_memory_desc_t *out, const lks_shape *shape)
{
    dnnl_dims_t dims = {shape->size[0], shape->size[3], shape->size[1], shape->size[2]};
    LKS_ONEDNN(dnnl_memory_desc_init_by_tag(out, 4, dims, dnnl_f32, dnnl_nhwc));
    return LKS_OK;
}

static lks_status conv2d_describe_weights(conv2d_description *d, const lks_shape *w, int groups)
{
    int64_t outputs = w->size[0] / groups, height = w->size[1], width = w->size[2],
            inputs = w->size[3];
    int64_t filter = height * width * inputs;
    dnnl_dims_t dims = {groups, outputs, inputs, height, width};
    dnnl_dims_t strides = {outputs * filter, filter, 1, width * inputs, inputs};
    int skip = groups == 1;
    LKS_ONEDNN(dnnl_memory_desc_init_by_tag(&d->any, 5 - skip, dims + skip, dnnl_f32,
                                            dnnl_format_tag_any));
    LKS_ONEDNN(dnnl_memory_desc_init_by_strides(&d->plain, 5 - skip, dims + skip, dnnl_f32,
                                                strides + skip));
    return LKS_OK;
}

static lks_status conv2d_describe(conv2d_description *d, const lks_conv2d_tensors *t,
                                  const lks_conv2d_attributes *a)
{
    *d = (conv2d_description){0};
    LKS_TRY(conv2d_describe_image(&d->x, &t->x->shape));
    LKS_TRY(conv2d_describe_image(&d->y, &t->y->shape));
    LKS_TRY(conv2d_describe_weights(d, &t->w->shape, a->groups));
    if (lks_spec_present(t->b)) {
        dnnl_dims_t dims = {t->w->shape.size[0]};
        LKS_ONEDNN(dnnl_memory_desc_init_by_tag(&d->bias, 1, dims, dnnl_f32, dnnl_x));
    }
    for (int i = 0; i < 2; ++i) {
        d->stride[i] = a->stride;
        d->padding[i] = a->padding;
    }
    return LKS_OK;
}

/* --- Primitives ----------------------------------------------------------------- */

static lks_status conv2d_describe_pass(dnnl_convolution_desc_t *out, const conv2d_description *d,
                                       lks_conv2d_pass pass)
{
    const dnnl_memory_desc_t *bias = d->bias.ndims ? &d->bias : NULL;
    switch (pass) {
    case LKS_CONV2D_FORWARD:
        LKS_ONEDNN(dnnl_convolution_forward_desc_init(out, dnnl_forward_training,
                                                      dnnl_convolution_direct, &d->x, &d->any, bias,
                                                      &d->y, d->stride, d->padding, d->padding));
        break;
    case LKS_CONV2D_GRAD_INPUT:
        LKS_ONEDNN(dnnl_convolution_backward_data_desc_init(out, dnnl_convolution_direct, &d->x,
                                                            &d->any, &d->y, d->stride, d->padding,
                                                            d->padding));
        break;
    case LKS_CONV2D_GRAD_WEIGHT:
        LKS_ONEDNN(dnnl_convolution_backward_weights_desc_init(out, dnnl_convolution_direct, &d->x,
                                                               &d->any, bias, &d->y, d->stride,
                                                               d->padding, d->padding));
        break;
    }
    return LKS_OK;
}

/* A gradient's description needs the forward one as a hint. */
static lks_status conv2d_choose(dnnl_primitive_desc_t *out, const conv2d_state *s,
                                const conv2d_description *d, const_dnnl_primitive_attr_t attributes)
{
    dnnl_convolution_desc_t forward, own;
    dnnl_primitive_desc_t hint = NULL;
    LKS_TRY(conv2d_describe_pass(&forward, d, LKS_CONV2D_FORWARD));
    LKS_TRY(conv2d_describe_pass(&own, d, s->pass));
    if (s->pass != LKS_CONV2D_FORWARD)
        LKS_ONEDNN(dnnl_primitive_desc_create(&hint, &forward, attributes, s->cpu->engine, NULL));
    lks_status status =
        lks_onednn_check(dnnl_primitive_desc_create(out, &own, attributes, s->cpu->engine, hint),
                         "dnnl_primitive_desc_create(convolution)");
    dnnl_primitive_desc_destroy(hint);
    return status;
}

static lks_status conv2d_memory(dnnl_memory_t *out, const conv2d_state *s,
                                const dnnl_memory_desc_t *description)
{
    LKS_ONEDNN(dnnl_memory_create(out, description, s->cpu->engine, DNNL_MEMORY_NONE));
    return LKS_OK;
}

static size_t conv2d_take(conv2d_places *places, size_t bytes)
{
    size_t at = places->bytes;
    places->bytes += lks_round_up(bytes, LKS_ALIGNMENT);
    return at;
}

static lks_status conv2d_make_reorder(conv2d_state *s, const dnnl_memory_desc_t *chosen,
                                      const dnnl_memory_desc_t *plain,
                                      const_dnnl_primitive_attr_t attributes, size_t *scratch_bytes)
{
    bool gradient = s->pass == LKS_CONV2D_GRAD_WEIGHT;
    const dnnl_memory_desc_t *from = gradient ? chosen : plain, *to = gradient ? plain : chosen;
    dnnl_primitive_desc_t description;
    LKS_ONEDNN(dnnl_reorder_primitive_desc_create(&description, from, s->cpu->engine, to,
                                                  s->cpu->engine, attributes));
    const dnnl_memory_desc_t *scratch =
        dnnl_primitive_desc_query_md(description, dnnl_query_scratchpad_md, 0);
    *scratch_bytes = dnnl_memory_desc_get_size(scratch);
    lks_status status = conv2d_memory(&s->reorder_scratch, s, scratch);
    if (status == LKS_OK)
        status = lks_onednn_check(dnnl_primitive_create(&s->reorder, description),
                                  "dnnl_primitive_create(reorder)");
    dnnl_primitive_desc_destroy(description);
    return status;
}

/* Everything that follows from oneDNN's choice. */
static lks_status conv2d_adopt(conv2d_state *s, const conv2d_description *d,
                               const_dnnl_primitive_desc_t choice,
                               const_dnnl_primitive_attr_t attributes)
{
    dnnl_query_t which =
        s->pass == LKS_CONV2D_GRAD_WEIGHT ? dnnl_query_diff_weights_md : dnnl_query_weights_md;
    const dnnl_memory_desc_t *chosen = dnnl_primitive_desc_query_md(choice, which, 0);
    const dnnl_memory_desc_t *scratch =
        dnnl_primitive_desc_query_md(choice, dnnl_query_scratchpad_md, 0);
    size_t scratch_bytes = dnnl_memory_desc_get_size(scratch), reorder_bytes = 0;
    LKS_TRY(conv2d_memory(&s->x, s, &d->x));
    LKS_TRY(conv2d_memory(&s->y, s, &d->y));
    LKS_TRY(conv2d_memory(&s->weights, s, chosen));
    LKS_TRY(conv2d_memory(&s->plain, s, &d->plain));
    LKS_TRY(conv2d_memory(&s->scratch, s, scratch));
    if (d->bias.ndims)
        LKS_TRY(conv2d_memory(&s->bias, s, &d->bias));
    LKS_ONEDNN(dnnl_primitive_create(&s->convolution, choice));
    if (!dnnl_memory_desc_equal(chosen, &d->plain)) {
        LKS_TRY(conv2d_make_reorder(s, chosen, &d->plain, attributes, &reorder_bytes));
        s->places.weights = conv2d_take(&s->places, dnnl_memory_desc_get_size(chosen));
    }
    s->places.scratch =
        conv2d_take(&s->places, scratch_bytes > reorder_bytes ? scratch_bytes : reorder_bytes);
    s->places.result = conv2d_take(&s->places, s->result_count * sizeof(float));
    s->places.bias = conv2d_take(&s->places, s->bias_count * sizeof(float));
    return LKS_OK;
}

static lks_status conv2d_make(conv2d_state *s, const conv2d_description *d)
{
    dnnl_primitive_attr_t attributes;
    dnnl_primitive_desc_t choice;
    LKS_ONEDNN(dnnl_primitive_attr_create(&attributes));
    lks_status status = lks_onednn_check(
        dnnl_primitive_attr_set_scratchpad_mode(attributes, dnnl_scratchpad_mode_user),
        "dnnl_primitive_attr_set_scratchpad_mode");
    if (status == LKS_OK)
        status = conv2d_choose(&choice, s, d, attributes);
    if (status == LKS_OK) {
        status = conv2d_adopt(s, d, choice, attributes);
        dnnl_primitive_desc_destroy(choice);
    }
    dnnl_primitive_attr_destroy(attributes);
    return status;
}

static void conv2d_release(void *state)
{
    conv2d_state *s = state;
    dnnl_memory_t memories[] = {s->x,       s->y,     s->bias,           s->scratch,
                                s->weights, s->plain, s->reorder_scratch};
    for (size_t i = 0; i < sizeof memories / sizeof *memories; ++i)
        dnnl_memory_destroy(memories[i]);
    dnnl_primitive_destroy(s->convolution);
    dnnl_primitive_destroy(s->reorder);
    lks_memory_free(s);
}

static lks_status conv2d_create(void **state, lks_device *device, const lks_kernel_spec *spec,
                                size_t *workspace, lks_conv2d_pass pass)
{
    lks_conv2d_tensors t;
    conv2d_description d;
    conv2d_state *s;
    LKS_TRY(lks_shapes_expect_conv2d(spec, pass, &t, NULL));
    LKS_TRY(conv2d_describe(&d, &t, spec->attributes));
    LKS_TRY(LKS_NEW(&s));
    s->pass = pass;
    s->cpu = lks_cpu_of(device);
    if (pass != LKS_CONV2D_FORWARD) {
        s->result_count = lks_shape_elements(&spec->outputs[0].shape);
        s->bias_count = lks_spec_present(t.b) ? lks_shape_elements(&t.b->shape) : 0;
    }
    lks_status status = conv2d_make(s, &d);
    if (status != LKS_OK) {
        conv2d_release(s);
        return status;
    }
    *workspace = s->places.bytes;
    *state = s;
    return LKS_OK;
}

static lks_status conv2d_prepare(void **state, lks_device *device, const lks_kernel_spec *spec,
                                 size_t *workspace)
{
    return conv2d_create(state, device, spec, workspace, LKS_CONV2D_FORWARD);
}

static lks_status conv2d_grad_input_prepare(void **state, lks_device *device,
                                            const lks_kernel_spec *spec, size_t *workspace)
{
    return conv2d_create(state, device, spec, workspace, LKS_CONV2D_GRAD_INPUT);
}

static lks_status conv2d_grad_weight_prepare(void **state, lks_device *device,
                                             const lks_kernel_spec *spec, size_t *workspace)
{
    return conv2d_create(state, device, spec, workspace, LKS_CONV2D_GRAD_WEIGHT);
}

/* --- Running ------------------------------------------------------------------ */

/* oneDNN's handles are not const; it writes to destinations only. */
static lks_status conv2d_point(dnnl_memory_t memory, const void *data)
{
    LKS_ONEDNN(dnnl_memory_set_data_handle(memory, (void *)(uintptr_t)data));
    return LKS_OK;
}

static lks_status conv2d_reorder(const conv2d_state *s, dnnl_memory_t from, dnnl_memory_t to,
                                 char *workspace)
{
    const dnnl_exec_arg_t arguments[] = {
        {DNNL_ARG_FROM, from}, {DNNL_ARG_TO, to}, {DNNL_ARG_SCRATCHPAD, s->reorder_scratch}};
    LKS_TRY(conv2d_point(s->reorder_scratch, workspace + s->places.scratch));
    LKS_ONEDNN(dnnl_primitive_execute(s->reorder, s->cpu->stream, 3, arguments));
    return LKS_OK;
}

/* The memory of weights as the convolution reads them. */
static lks_status conv2d_take_weights(const conv2d_state *s, const void *w, char *workspace)
{
    if (!s->reorder)
        return conv2d_point(s->weights, w);
    LKS_TRY(conv2d_point(s->plain, w));
    LKS_TRY(conv2d_point(s->weights, workspace + s->places.weights));
    return conv2d_reorder(s, s->plain, s->weights, workspace);
}

static lks_status conv2d_run(void *state, const lks_kernel_run *run)
{
    const conv2d_state *s = state;
    char *workspace = run->workspace;
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_SRC, s->x},
                                         {DNNL_ARG_WEIGHTS, s->weights},
                                         {DNNL_ARG_DST, s->y},
                                         {DNNL_ARG_SCRATCHPAD, s->scratch},
                                         {DNNL_ARG_BIAS, s->bias}};
    LKS_TRY(conv2d_take_weights(s, run->inputs[1], workspace));
    LKS_TRY(conv2d_point(s->x, run->inputs[0]));
    LKS_TRY(conv2d_point(s->y, run->outputs[0]));
    LKS_TRY(conv2d_point(s->scratch, workspace + s->places.scratch));
    if (s->bias)
        LKS_TRY(conv2d_point(s->bias, run->inputs[2]));
    LKS_ONEDNN(dnnl_primitive_execute(s->convolution, s->cpu->stream, s->bias ? 5 : 4, arguments));
    return LKS_OK;
}

static lks_status conv2d_grad_input_run(void *state, const lks_kernel_run *run)
{
    const conv2d_state *s = state;
    char *workspace = run->workspace;
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_DIFF_DST, s->y},
                                         {DNNL_ARG_WEIGHTS, s->weights},
                                         {DNNL_ARG_DIFF_SRC, s->x},
                                         {DNNL_ARG_SCRATCHPAD, s->scratch}};
    void *dx = run->accumulate[0] ? workspace + s->places.result : run->outputs[0];
    LKS_TRY(conv2d_take_weights(s, run->inputs[1], workspace));
    LKS_TRY(conv2d_point(s->y, run->inputs[0]));
    LKS_TRY(conv2d_point(s->x, dx));
    LKS_TRY(conv2d_point(s->scratch, workspace + s->places.scratch));
    LKS_ONEDNN(dnnl_primitive_execute(s->convolution, s->cpu->stream, 4, arguments));
    if (run->accumulate[0])
        s->cpu->isa->flat->add(s->result_count, dx, run->outputs[0]);
    return LKS_OK;
}

static lks_status conv2d_grad_weight_run(void *state, const lks_kernel_run *run)
{
    const conv2d_state *s = state;
    char *workspace = run->workspace;
    const dnnl_exec_arg_t arguments[] = {{DNNL_ARG_DIFF_DST, s->y},
                                         {DNNL_ARG_SRC, s->x},
                                         {DNNL_ARG_DIFF_WEIGHTS, s->weights},
                                         {DNNL_ARG_SCRATCHPAD, s->scratch},
                                         {DNNL_ARG_DIFF_BIAS, s->bias}};
    void *dw = run->accumulate[0] ? workspace + s->places.result : run->outputs[0];
    void *db = run->accumulate[1] ? workspace + s->places.bias : run->outputs[1];
    LKS_TRY(conv2d_point(s->y, run->inputs[0]));
    LKS_TRY(conv2d_point(s->x, run->inputs[1]));
    LKS_TRY(conv2d_point(s->weights, s->reorder ? workspace + s->places.weights : dw));
    LKS_TRY(conv2d_point(s->scratch, workspace + s->places.scratch));
    if (s->bias)
        LKS_TRY(conv2d_point(s->bias, db));
    LKS_ONEDNN(dnnl_primitive_execute(s->convolution, s->cpu->stream, s->bias ? 5 : 4, arguments));
    if (s->reorder) {
        LKS_TRY(conv2d_point(s->plain, dw));
        LKS_TRY(conv2d_reorder(s, s->weights, s->plain, workspace));
    }
    if (run->accumulate[0])
        s->cpu->isa->flat->add(s->result_count, dw, run->outputs[0]);
    if (s->bias && run->accumulate[1])
        s->cpu->isa->flat->add(s->bias_count, db, run->outputs[1]);
    return LKS_OK;
}

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_conv2d) = {
    .name = "conv2d",
    .prepare = conv2d_prepare,
    .run = conv2d_run,
    .release = conv2d_release,
};

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_conv2d_grad_input) = {
    .name = "conv2d_grad_input",
    .prepare = conv2d_grad_input_prepare,
    .run = conv2d_grad_input_run,
    .release = conv2d_release,
};

const lks_kernel_driver LKS_ISA_NAME(lks_cpu_kernel_conv2d_grad_weight) = {
    .name = "conv2d_grad_weight",
    .prepare = conv2d_grad_weight_prepare,
    .run = conv2d_grad_weight_run,
    .release = conv2d_release,
};
