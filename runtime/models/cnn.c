/* A residual convolutional network: He et al., "Deep residual learning for image
 * recognition", CVPR 2016, with a 3x3 stem. */
#include "runtime/base/memory.h"
#include "runtime/models/model_driver.h"

#include <math.h>
#include <stddef.h>

typedef struct cnn_options {
    lks_option_integers channels;
    int64_t blocks;
    double dropout;
} cnn_options;

static const lks_option cnn_option_table[] = {
    {"channels", LKS_OPTION_LIST, offsetof(cnn_options, channels), "16,32,64", 1, 65536, NULL,
     LKS_OPTION_FIXED, "channels of each stage; every stage after the first halves the image"},
    {"blocks", LKS_OPTION_INTEGER, offsetof(cnn_options, blocks), "1", 1, 1000, NULL,
     LKS_OPTION_FIXED, "residual blocks per stage"},
    {"dropout", LKS_OPTION_NUMBER, offsetof(cnn_options, dropout), "0", 0, 0.95, NULL,
     LKS_OPTION_FIXED, "rate before the classifier"},
    LKS_OPTIONS_END,
};

/* Convolution without bias, drawn as He et al., ICCV 2015 (fan-out). */
static lks_tensor *cnn_convolution(lks_graph *g, const char *name, lks_tensor *x, int64_t in,
                                   int64_t out, int kernel, int stride)
{
    double deviation = sqrt(2.0 / ((double)out * kernel * kernel));
    lks_tensor *w = lks_parameter(g, lks_name(g, "%s.weight", name),
                                  LKS_SHAPE(out, kernel, kernel, in), lks_init_normal(deviation));
    return lks_op_conv2d(g, x, w, NULL, stride, kernel / 2, 1);
}

static lks_tensor *cnn_norm(lks_graph *g, const char *name, lks_tensor *x, int64_t channels,
                            lks_tensor *residual, lks_activation activation)
{
    lks_shape shape = LKS_SHAPE(channels);
    lks_tensor *gain =
        lks_parameter(g, lks_name(g, "%s.weight", name), shape, lks_init_constant(1));
    lks_tensor *bias = lks_parameter(g, lks_name(g, "%s.bias", name), shape, lks_init_constant(0));
    lks_tensor *mean = lks_buffer(g, lks_name(g, "%s.running_mean", name), shape, 0);
    lks_tensor *variance = lks_buffer(g, lks_name(g, "%s.running_var", name), shape, 1);
    return lks_op_batch_norm(g, x, gain, bias, mean, variance, residual, activation, 1e-5);
}

static lks_tensor *cnn_block(lks_graph *g, const char *name, lks_tensor *x, int64_t in, int64_t out,
                             int stride)
{
    lks_tensor *y = cnn_convolution(g, lks_name(g, "%s.conv1", name), x, in, out, 3, stride);
    y = cnn_norm(g, lks_name(g, "%s.bn1", name), y, out, NULL, LKS_RELU);
    y = cnn_convolution(g, lks_name(g, "%s.conv2", name), y, out, out, 3, 1);
    lks_tensor *shortcut = x;
    if (stride != 1 || in != out) {
        shortcut = cnn_convolution(g, lks_name(g, "%s.shortcut", name), x, in, out, 1, stride);
        shortcut =
            cnn_norm(g, lks_name(g, "%s.shortcut_bn", name), shortcut, out, NULL, LKS_IDENTITY);
    }
    return cnn_norm(g, lks_name(g, "%s.bn2", name), y, out, shortcut, LKS_RELU);
}

/* One over the deviation; the small constant is for channels that never vary. Exact in every precision, which
 * the result of an op would not be. */
static lks_tensor *cnn_scale(lks_graph *g, const lks_schema *schema)
{
    float *scale = NULL;
    if (LKS_NEW_ARRAY(&scale, (size_t)schema->channels) != LKS_OK) {
        lks_graph_refuse(g, "%s", lks_status_message());
        return NULL;
    }
    for (int i = 0; i < schema->channels; ++i)
        scale[i] = 1 / (schema->channel_deviation[i] + 1e-3f);
    lks_tensor *constant = lks_constant(g, LKS_SHAPE(schema->channels), scale);
    lks_memory_free(scale);
    return constant;
}

/* The image with zero mean and unit deviation per channel of the training part. */
static lks_tensor *cnn_input(lks_graph *g, const lks_schema *schema)
{
    lks_tensor *shift = lks_constant(g, LKS_SHAPE(schema->channels), schema->channel_mean);
    return lks_op_image(g, lks_input(g, "image"), shift, cnn_scale(g, schema));
}

static void cnn_build(lks_graph *g, const void *options, const lks_schema *schema)
{
    const cnn_options *o = options;
    if (schema->kind != LKS_DATA_IMAGES) {
        lks_graph_refuse(g, "model cnn learns from images, the dataset is of kind %s",
                         lks_data_kind_name(schema->kind));
        return;
    }
    int64_t channels = o->channels.values[0];
    lks_tensor *x =
        cnn_convolution(g, "stem.conv", cnn_input(g, schema), schema->channels, channels, 3, 1);
    x = cnn_norm(g, "stem.bn", x, channels, NULL, LKS_RELU);
    for (size_t stage = 0; stage < o->channels.count; ++stage)
        for (int64_t block = 0; block < o->blocks; ++block) {
            const char *name = lks_name(g, "stage.%d.%d", (int)stage, (int)block);
            x = cnn_block(g, name, x, channels, o->channels.values[stage], stage && !block ? 2 : 1);
            channels = o->channels.values[stage];
        }
    x = lks_op_dropout(g, lks_op_global_mean(g, x), o->dropout);
    lks_tensor *w = lks_parameter(g, "head.weight", LKS_SHAPE(schema->classes, channels),
                                  lks_init_uniform(1 / sqrt((double)channels)));
    lks_tensor *b = lks_parameter(g, "head.bias", LKS_SHAPE(schema->classes), lks_init_constant(0));
    lks_tensor *logits = lks_op_linear(g, x, w, b, LKS_IDENTITY);
    if (lks_graph_get_mode(g) == LKS_GRAPH_PREDICT)
        lks_graph_output(g, "logits", logits);
    else
        lks_graph_loss(g, lks_op_cross_entropy(g, logits, lks_input(g, "target"), schema->classes));
}

const lks_model_driver lks_model_cnn = {
    .version = LKS_MODEL_DRIVER_VERSION,
    .name = "cnn",
    .about = "residual convolutional network on images",
    .options = cnn_option_table,
    .options_bytes = sizeof(cnn_options),
    .build = cnn_build,
};
