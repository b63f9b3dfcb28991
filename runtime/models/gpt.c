/* A GPT-2 style decoder: Radford et al., "Language models are unsupervised
 * multitask learners", 2019. Pre-norm, tied embedding and head. */
#include "runtime/models/model_driver.h"

#include <math.h>

typedef struct gpt_options {
    int64_t layers, width, heads, kv_heads, context, hidden, vocabulary, vocabulary_multiple;
    double dropout;
    bool bias, tied;
    int recompute;
} gpt_options;

static const lks_option gpt_option_table[] = {
    {"layers", LKS_OPTION_INTEGER, offsetof(gpt_options, layers), "6", 1, 1e4, NULL,
     LKS_OPTION_FIXED, "transformer blocks"},
    {"width", LKS_OPTION_INTEGER, offsetof(gpt_options, width), "384", 1, 1e6, NULL,
     LKS_OPTION_FIXED, "channels of the residual stream"},
    {"heads", LKS_OPTION_INTEGER, offsetof(gpt_options, heads), "6", 1, 1e4, NULL, LKS_OPTION_FIXED,
     "attention heads; divides width"},
    {"kv_heads", LKS_OPTION_INTEGER, offsetof(gpt_options, kv_heads), "0", 0, 1e4, NULL,
     LKS_OPTION_FIXED, "key and value heads; divides heads; 0: as many as heads"},
    {"context", LKS_OPTION_INTEGER, offsetof(gpt_options, context), "256", 1, 1e7, NULL,
     LKS_OPTION_FIXED, "tokens per sample"},
    {"hidden", LKS_OPTION_INTEGER, offsetof(gpt_options, hidden), "0", 0, 1e7, NULL,
     LKS_OPTION_FIXED, "channels of the feed-forward layer; 0: four times width"},
    {"vocabulary", LKS_OPTION_INTEGER, offsetof(gpt_options, vocabulary), "0", 0, 1e8, NULL,
     LKS_OPTION_FIXED, "token ids; 0: as the data has"},
    {"vocabulary_multiple", LKS_OPTION_INTEGER, offsetof(gpt_options, vocabulary_multiple), "64", 1,
     65536, NULL, LKS_OPTION_FIXED, "the embedding's rows are padded to a multiple of this"},
    {"dropout", LKS_OPTION_NUMBER, offsetof(gpt_options, dropout), "0", 0, 0.95, NULL,
     LKS_OPTION_FIXED, "rate after the embedding, in attention and after both projections"},
    {"bias", LKS_OPTION_BOOL, offsetof(gpt_options, bias), "true", 0, 0, NULL, LKS_OPTION_FIXED,
     "biases in linear layers and norms"},
    {"tied", LKS_OPTION_BOOL, offsetof(gpt_options, tied), "true", 0, 0, NULL, LKS_OPTION_FIXED,
     "the head shares the embedding's weights"},
    {"recompute", LKS_OPTION_CHOICE, offsetof(gpt_options, recompute), "none", 0, 0, "none|blocks",
     LKS_OPTION_FREE, "activations computed again in the backward pass instead of kept"},
    LKS_OPTIONS_END,
};

static int64_t gpt_context(const void *options)
{
    return ((const gpt_options *)options)->context;
}

typedef struct gpt_builder {
    lks_graph *graph;
    const gpt_options *options;
    int kv_heads;
    double residual_deviation; /* of the projections that write to the stream */
} gpt_builder;

static lks_tensor *gpt_bias(gpt_builder *b, const char *name, int64_t size)
{
    if (!b->options->bias)
        return NULL;
    return lks_parameter(b->graph, name, LKS_SHAPE(size), lks_init_constant(0));
}

static lks_tensor *gpt_linear(gpt_builder *b, const char *name, lks_tensor *x, int64_t in,
                              int64_t out, double deviation, lks_activation activation)
{
    lks_graph *g = b->graph;
    lks_tensor *weight = lks_parameter(g, lks_name(g, "%s.weight", name), LKS_SHAPE(out, in),
                                       lks_init_normal(deviation));
    lks_tensor *bias = gpt_bias(b, lks_name(g, "%s.bias", name), out);
    return lks_op_linear(g, x, weight, bias, activation);
}

/* Adds x to *stream (x NULL: the stream as it is) and normalises. */
static lks_tensor *gpt_norm(gpt_builder *b, const char *name, lks_tensor *x, lks_tensor **stream)
{
    lks_graph *g = b->graph;
    int64_t width = b->options->width;
    lks_tensor *gain =
        lks_parameter(g, lks_name(g, "%s.weight", name), LKS_SHAPE(width), lks_init_constant(1));
    lks_tensor *bias = gpt_bias(b, lks_name(g, "%s.bias", name), width);
    if (!x)
        return lks_op_norm(g, LKS_NORM_LAYER, *stream, gain, bias, 1e-5);
    return lks_op_norm_residual(g, LKS_NORM_LAYER, x, *stream, gain, bias, 1e-5, stream);
}

/* One block's attention and feed-forward; both add to the stream through the
 * norm that follows them. */
static lks_tensor *gpt_attention(gpt_builder *b, int64_t layer, lks_tensor *y)
{
    lks_graph *g = b->graph;
    const gpt_options *o = b->options;
    int64_t head = o->width / o->heads;
    lks_tensor *qkv = gpt_linear(b, lks_name(g, "h.%d.attn.qkv", (int)layer), y, o->width,
                                 (o->heads + 2 * b->kv_heads) * head, 0.02, LKS_IDENTITY);
    lks_tensor *a = lks_op_attention(g, qkv, (int)o->heads, b->kv_heads, true, o->dropout);
    a = gpt_linear(b, lks_name(g, "h.%d.attn.proj", (int)layer), a, o->width, o->width,
                   b->residual_deviation, LKS_IDENTITY);
    return lks_op_dropout(g, a, o->dropout);
}

static lks_tensor *gpt_feed_forward(gpt_builder *b, int64_t layer, lks_tensor *y)
{
    lks_graph *g = b->graph;
    const gpt_options *o = b->options;
    int64_t hidden = o->hidden ? o->hidden : 4 * o->width;
    lks_tensor *h =
        gpt_linear(b, lks_name(g, "h.%d.mlp.fc", (int)layer), y, o->width, hidden, 0.02, LKS_GELU);
    h = gpt_linear(b, lks_name(g, "h.%d.mlp.proj", (int)layer), h, hidden, o->width,
                   b->residual_deviation, LKS_IDENTITY);
    return lks_op_dropout(g, h, o->dropout);
}

static bool gpt_fits(lks_graph *g, const gpt_options *o, const lks_schema *schema)
{
    if (schema->kind != LKS_DATA_TEXT)
        lks_graph_refuse(g, "model gpt learns from text, the dataset is of kind %s",
                         lks_data_kind_name(schema->kind));
    else if (o->width % o->heads)
        lks_graph_refuse(g, "model.width is %lld, not a multiple of model.heads %lld",
                         (long long)o->width, (long long)o->heads);
    else if (o->kv_heads && o->heads % o->kv_heads)
        lks_graph_refuse(g, "model.heads is %lld, not a multiple of model.kv_heads %lld",
                         (long long)o->heads, (long long)o->kv_heads);
    else if (o->vocabulary && o->vocabulary < schema->vocabulary)
        lks_graph_refuse(g, "model.vocabulary is %lld, the data has ids up to %lld",
                         (long long)o->vocabulary, (long long)schema->vocabulary - 1);
    else
        return true;
    return false;
}

static void gpt_build(lks_graph *g, const void *options, const lks_schema *schema)
{
    const gpt_options *o = options;
    if (!gpt_fits(g, o, schema))
        return;
    gpt_builder b = {g, o, (int)(o->kv_heads ? o->kv_heads : o->heads),
                     0.02 / sqrt(2.0 * (double)o->layers)};
    int64_t vocabulary = o->vocabulary ? o->vocabulary : schema->vocabulary;
    int64_t rows =
        (vocabulary + o->vocabulary_multiple - 1) / o->vocabulary_multiple * o->vocabulary_multiple;

    lks_tensor *wte =
        lks_parameter(g, "wte.weight", LKS_SHAPE(rows, o->width), lks_init_normal(0.02));
    lks_tensor *wpe =
        lks_parameter(g, "wpe.weight", LKS_SHAPE(o->context, o->width), lks_init_normal(0.02));
    lks_tensor *stream = lks_op_embedding(g, lks_input(g, "tokens"), wte, wpe);
    stream = lks_op_dropout(g, stream, o->dropout);
    lks_tensor *y = gpt_norm(&b, "h.0.ln_1", NULL, &stream);
    for (int64_t layer = 0; layer < o->layers; ++layer) {
        if (o->recompute)
            lks_graph_recompute_begin(g);
        lks_tensor *a = gpt_attention(&b, layer, y);
        y = gpt_norm(&b, lks_name(g, "h.%d.ln_2", (int)layer), a, &stream);
        lks_tensor *h = gpt_feed_forward(&b, layer, y);
        if (o->recompute)
            lks_graph_recompute_end(g);
        const char *next =
            layer + 1 < o->layers ? lks_name(g, "h.%d.ln_1", (int)layer + 1) : "ln_f";
        y = gpt_norm(&b, next, h, &stream);
    }
    lks_tensor *head =
        o->tied ? wte
                : lks_parameter(g, "head.weight", LKS_SHAPE(rows, o->width), lks_init_normal(0.02));
    lks_tensor *logits = lks_op_linear(g, y, head, NULL, LKS_IDENTITY);
    if (lks_graph_get_mode(g) == LKS_GRAPH_PREDICT)
        lks_graph_output(g, "logits", logits);
    else
        lks_graph_loss(g, lks_op_cross_entropy(g, logits, lks_input(g, "targets"), vocabulary));
}

const lks_model_driver lks_model_gpt = {
    .version = LKS_MODEL_DRIVER_VERSION,
    .name = "gpt",
    .about = "GPT-2 style language model on text",
    .options = gpt_option_table,
    .options_bytes = sizeof(gpt_options),
    .context = gpt_context,
    .build = gpt_build,
};
