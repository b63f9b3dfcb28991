/* A model of one's own: text is mixed over time by learned causal averages instead of attention,
 * then each position goes through a small network. Build it and name it by its path:
 *
 *     cc -shared -fPIC -o my_model.so my_model.c $(pkg-config --cflags --libs lockstep)
 *     model: {name: ./my_model.so, width: 64, context: 64}
 */
#include "runtime/models/model_driver.h"

typedef struct mixer_options {
    int64_t layers, width, context;
} mixer_options;

static const lks_option mixer_option_table[] = {
    {"layers", LKS_OPTION_INTEGER, offsetof(mixer_options, layers), "2", 1, 1e4, NULL,
     LKS_OPTION_FIXED, "mixing layers"},
    {"width", LKS_OPTION_INTEGER, offsetof(mixer_options, width), "64", 1, 1e6, NULL,
     LKS_OPTION_FIXED, "channels"},
    {"context", LKS_OPTION_INTEGER, offsetof(mixer_options, context), "64", 1, 1e5, NULL,
     LKS_OPTION_FIXED, "tokens per sample"},
    LKS_OPTIONS_END};

static int64_t mixer_context(const void *options)
{
    return ((const mixer_options *)options)->context;
}

static lks_tensor *mixer_linear(lks_graph *g, const char *name, lks_tensor *x, int64_t in,
                                int64_t out, lks_activation activation)
{
    lks_tensor *weight = lks_parameter(g, name, LKS_SHAPE(out, in), lks_init_normal(0.05));
    return lks_op_linear(g, x, weight, NULL, activation);
}

/* Position t becomes an average over positions 0 to t, with learned weights. */
static lks_tensor *mixer_over_time(lks_graph *g, int layer, lks_tensor *x, int64_t context)
{
    const int swap[] = {0, 2, 1};
    lks_tensor *scores = lks_parameter(g, lks_name(g, "h.%d.time.scores", layer),
                                       LKS_SHAPE(context, context), lks_init_normal(1.0));
    lks_tensor *averages = lks_op_softmax(g, scores, true);
    x = lks_op_linear(g, lks_op_permute(g, x, swap), averages, NULL, LKS_IDENTITY);
    return lks_op_permute(g, x, swap);
}

static void mixer_build(lks_graph *g, const void *options, const lks_schema *schema)
{
    const mixer_options *o = options;
    int64_t hidden = 4 * o->width;
    if (schema->kind != LKS_DATA_TEXT)
        lks_graph_refuse(g, "model mixer learns from text, the dataset is not text");
    lks_shape shape = LKS_SHAPE(schema->vocabulary, o->width);
    lks_tensor *table = lks_parameter(g, "embedding", shape, lks_init_normal(0.1));
    lks_tensor *gain = lks_parameter(g, "norm.gain", LKS_SHAPE(o->width), lks_init_constant(1));
    lks_tensor *x = lks_op_embedding(g, lks_input(g, "tokens"), table, NULL);
    for (int i = 0; i < (int)o->layers; ++i) {
        lks_tensor *mixed = mixer_over_time(g, i, x, o->context), *sum;
        x = lks_op_norm_residual(g, LKS_NORM_RMS, mixed, x, gain, NULL, 1e-5, &sum);
        x = mixer_linear(g, lks_name(g, "h.%d.up", i), x, o->width, hidden, LKS_GELU);
        x = mixer_linear(g, lks_name(g, "h.%d.down", i), x, hidden, o->width, LKS_IDENTITY);
        x = lks_op_binary(g, LKS_BINARY_ADD, sum, x);
    }
    lks_tensor *logits = mixer_linear(g, "head", x, o->width, schema->vocabulary, LKS_IDENTITY);
    if (lks_graph_get_mode(g) == LKS_GRAPH_PREDICT)
        lks_graph_output(g, "logits", logits);
    else
        lks_graph_loss(g, lks_op_cross_entropy(g, logits, lks_input(g, "targets"), shape.size[0]));
}

const lks_model_driver *lks_model_driver_export(void)
{
    static const lks_model_driver mixer = {.version = LKS_MODEL_DRIVER_VERSION,
                                           .name = "mixer",
                                           .about = "language model of learned averages",
                                           .options = mixer_option_table,
                                           .options_bytes = sizeof(mixer_options),
                                           .context = mixer_context,
                                           .build = mixer_build};
    return &mixer;
}
