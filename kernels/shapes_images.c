#include "kernels/shapes.h"

/* --- Convolutions ------------------------------------------------------------------- */

static lks_status find_tensors(const lks_kernel_spec *spec, lks_conv2d_pass pass,
                               lks_conv2d_tensors *out, lks_dtype *compute)
{
    const lks_kernel_tensor *in = spec->inputs, *to = spec->outputs;
    static const lks_kernel_tensor absent = {.dtype = LKS_NONE};
    switch (pass) {
    case LKS_CONV2D_FORWARD:
        *out = (lks_conv2d_tensors){&in[0], &in[1], &in[2], &to[0]};
        return lks_spec_expect_types(spec, "ttT", "t", compute);
    case LKS_CONV2D_GRAD_INPUT:
        *out = (lks_conv2d_tensors){&to[0], &in[1], &absent, &in[0]};
        return lks_spec_expect_types(spec, "tt", "t", compute);
    default:
        *out = (lks_conv2d_tensors){&in[1], &to[0], &to[1], &in[0]};
        return lks_spec_expect_types(spec, "tt", "fF", compute);
    }
}

lks_status lks_shapes_expect_conv2d(const lks_kernel_spec *spec, lks_conv2d_pass pass,
                                    lks_conv2d_tensors *out, lks_dtype *compute)
{
    LKS_TRY(find_tensors(spec, pass, out, compute));
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_conv2d_attributes *a = spec->attributes;
    const int64_t *x = out->x->shape.size, *w = out->w->shape.size;
    if (out->x->shape.axes != 4 || out->w->shape.axes != 4)
        return lks_spec_refuse(spec, "x is no B,H,W,C or w no Co,KH,KW,C");
    if (a->stride < 1 || a->padding < 0 || a->groups < 1)
        return lks_spec_refuse(spec, "stride %d, padding %d, groups %d", a->stride, a->padding,
                               a->groups);
    if (w[0] % a->groups || w[3] * a->groups != x[3])
        return lks_spec_refuse(spec, "%lld channels to %lld in %d groups", (long long)x[3],
                               (long long)w[0], a->groups);
    int64_t down = x[1] + 2 * a->padding - w[1], across = x[2] + 2 * a->padding - w[2];
    if (down < 0 || across < 0)
        return lks_spec_refuse(spec, "the filter is larger than the image");
    lks_shape y = LKS_SHAPE(x[0], down / a->stride + 1, across / a->stride + 1, w[0]);
    LKS_TRY(lks_spec_expect_elements(spec, "b", out->b, w[0]));
    return lks_spec_expect_shape(spec, "y", out->y, &y);
}

/* --- Batch norm --------------------------------------------------------------------- */

static lks_status expect_activation(const lks_kernel_spec *spec)
{
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_batch_norm_attributes *attributes = spec->attributes;
    if (attributes->activation != LKS_IDENTITY && attributes->activation != LKS_RELU)
        return lks_spec_refuse(spec, "activation %d, identity or relu wanted",
                               (int)attributes->activation);
    return LKS_OK;
}

lks_status lks_shapes_expect_batch_norm(const lks_kernel_spec *spec, lks_dtype *compute)
{
    static const char *const inputs[] = {"x", "gain", "bias", "running_mean", "running_variance"};
    static const char *const outputs[] = {"y", "mean", "rstd", "mean_stat", "variance_stat"};
    LKS_TRY(expect_activation(spec));
    const lks_batch_norm_attributes *attributes = spec->attributes;
    const lks_kernel_tensor *x = &spec->inputs[0];
    LKS_TRY(lks_spec_expect_types(spec, "tttffT", attributes->training ? "tffff" : "t", compute));
    LKS_TRY(lks_spec_expect_shape(spec, "y", &spec->outputs[0], &x->shape));
    LKS_TRY(lks_spec_expect_shape(spec, "residual", &spec->inputs[5], &x->shape));
    for (int i = 1; i < 5; ++i) {
        LKS_TRY(lks_spec_expect_elements(spec, inputs[i], &spec->inputs[i], lks_spec_columns(x)));
        LKS_TRY(lks_spec_expect_elements(spec, outputs[i], &spec->outputs[i], lks_spec_columns(x)));
    }
    return LKS_OK;
}

lks_status lks_shapes_expect_batch_norm_grad(const lks_kernel_spec *spec, lks_dtype *compute)
{
    static const char *const inputs[] = {"x", "gain", "mean", "rstd"};
    static const char *const outputs[] = {"dx", "dgain", "dbias"};
    LKS_TRY(expect_activation(spec));
    const lks_batch_norm_attributes *attributes = spec->attributes;
    const lks_kernel_tensor *x = &spec->inputs[0];
    if (!attributes->training)
        return lks_spec_refuse(spec, "there is a gradient in training only");
    LKS_TRY(lks_spec_expect_types(spec, attributes->activation == LKS_RELU ? "ttfftt" : "ttffTt",
                                  "tffT", compute));
    for (int i = 1; i < 4; ++i)
        LKS_TRY(lks_spec_expect_elements(spec, inputs[i], &spec->inputs[i], lks_spec_columns(x)));
    for (int i = 1; i < 3; ++i)
        LKS_TRY(lks_spec_expect_elements(spec, outputs[i], &spec->outputs[i], lks_spec_columns(x)));
    LKS_TRY(lks_spec_expect_shape(spec, "y", &spec->inputs[4], &x->shape));
    LKS_TRY(lks_spec_expect_shape(spec, "dy", &spec->inputs[5], &x->shape));
    LKS_TRY(lks_spec_expect_shape(spec, "dx", &spec->outputs[0], &x->shape));
    return lks_spec_expect_shape(spec, "dresidual", &spec->outputs[3], &x->shape);
}

/* --- Pooling, bytes ----------------------------------------------------------------- */

static lks_status expect_windows(const lks_kernel_spec *spec, const lks_kernel_tensor *x,
                                 const lks_kernel_tensor *y)
{
    LKS_TRY(lks_spec_expect_attributes(spec));
    const lks_pool2d_attributes *a = spec->attributes;
    const int64_t *size = x->shape.size;
    if (x->shape.axes != 4)
        return lks_spec_refuse(spec, "x is no B,H,W,C");
    if (a->size_h < 1 || a->size_w < 1 || a->stride < 1 || a->padding < 0 ||
        a->padding >= a->size_h || a->padding >= a->size_w)
        return lks_spec_refuse(spec,
                               "window %dx%d, stride %d, padding %d; a window must hold a pixel",
                               a->size_h, a->size_w, a->stride, a->padding);
    int64_t down = size[1] + 2 * a->padding - a->size_h;
    int64_t across = size[2] + 2 * a->padding - a->size_w;
    if (down < 0 || across < 0)
        return lks_spec_refuse(spec, "the window %dx%d is larger than the image", a->size_h,
                               a->size_w);
    lks_shape wanted = LKS_SHAPE(size[0], down / a->stride + 1, across / a->stride + 1, size[3]);
    return lks_spec_expect_shape(spec, "y", y, &wanted);
}

lks_status lks_shapes_expect_pool2d(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "t", "t", compute));
    return expect_windows(spec, &spec->inputs[0], &spec->outputs[0]);
}

lks_status lks_shapes_expect_pool2d_grad(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "ttt", "g", compute));
    LKS_TRY(lks_spec_expect_shape(spec, "dy", &spec->inputs[2], &spec->inputs[1].shape));
    LKS_TRY(lks_spec_expect_shape(spec, "dx", &spec->outputs[0], &spec->inputs[0].shape));
    return expect_windows(spec, &spec->inputs[0], &spec->inputs[1]);
}

lks_status lks_shapes_expect_image(const lks_kernel_spec *spec, lks_dtype *compute)
{
    LKS_TRY(lks_spec_expect_types(spec, "uff", "t", compute));
    const lks_kernel_tensor *x = &spec->inputs[0];
    LKS_TRY(lks_spec_expect_elements(spec, "shift", &spec->inputs[1], lks_spec_columns(x)));
    LKS_TRY(lks_spec_expect_elements(spec, "scale", &spec->inputs[2], lks_spec_columns(x)));
    return lks_spec_expect_shape(spec, "y", &spec->outputs[0], &x->shape);
}
