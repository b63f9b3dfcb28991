/* A multilayer perceptron on the features of a table: classes or one number. */
#include "runtime/models/model_driver.h"

#include <math.h>

typedef struct mlp_options {
    lks_option_integers hidden;
    int activation;
    double dropout;
} mlp_options;

static const lks_option mlp_option_table[] = {
    {"hidden", LKS_OPTION_LIST, offsetof(mlp_options, hidden), "64,64", 1, 1e7, NULL,
     LKS_OPTION_FIXED, "channels of each hidden layer"},
    {"activation", LKS_OPTION_CHOICE, offsetof(mlp_options, activation), "relu", 0, 0, "relu|gelu",
     LKS_OPTION_FIXED, "after each hidden layer"},
    {"dropout", LKS_OPTION_NUMBER, offsetof(mlp_options, dropout), "0", 0, 0.95, NULL,
     LKS_OPTION_FIXED, "rate after each hidden layer"},
    LKS_OPTIONS_END,
};

/* Weights drawn with He et al.'s deviation for rectifiers, ICCV 2015 (fan-in). */
static lks_tensor *mlp_layer(lks_graph *g, const char *name, lks_tensor *x, int64_t in, int64_t out,
                             lks_activation activation)
{
    double deviation = sqrt((activation == LKS_IDENTITY ? 1.0 : 2.0) / (double)in);
    lks_tensor *w = lks_parameter(g, lks_name(g, "%s.weight", name), LKS_SHAPE(out, in),
                                  lks_init_normal(deviation));
    lks_tensor *b =
        lks_parameter(g, lks_name(g, "%s.bias", name), LKS_SHAPE(out), lks_init_constant(0));
    return lks_op_linear(g, x, w, b, activation);
}

static void mlp_build(lks_graph *g, const void *options, const lks_schema *schema)
{
    const mlp_options *o = options;
    if (schema->kind != LKS_DATA_TABLE) {
        lks_graph_refuse(g, "model mlp learns from a table, the dataset is of kind %s",
                         lks_data_kind_name(schema->kind));
        return;
    }
    lks_activation activation = o->activation ? LKS_GELU : LKS_RELU;
    int64_t width = schema->features;
    lks_tensor *x = lks_input(g, "features");
    for (size_t i = 0; i < o->hidden.count; ++i) {
        x = mlp_layer(g, lks_name(g, "layer.%d", (int)i), x, width, o->hidden.values[i],
                      activation);
        x = lks_op_dropout(g, x, o->dropout);
        width = o->hidden.values[i];
    }
    bool classes = schema->classes > 0;
    x = mlp_layer(g, "head", x, width, classes ? schema->classes : 1, LKS_IDENTITY);
    if (lks_graph_get_mode(g) == LKS_GRAPH_PREDICT)
        lks_graph_output(g, classes ? "logits" : "prediction", x);
    else if (classes)
        lks_graph_loss(g, lks_op_cross_entropy(g, x, lks_input(g, "target"), schema->classes));
    else
        lks_graph_loss(g, lks_op_squared_error(g, x, lks_input(g, "target")));
}

const lks_model_driver lks_model_mlp = {
    .version = LKS_MODEL_DRIVER_VERSION,
    .name = "mlp",
    .about = "multilayer perceptron on a table: classification or regression",
    .options = mlp_option_table,
    .options_bytes = sizeof(mlp_options),
    .build = mlp_build,
};
