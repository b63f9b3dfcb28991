/* For those who write a model: one C file, the forward pass alone. */
#ifndef LKS_MODELS_MODEL_DRIVER_H
#define LKS_MODELS_MODEL_DRIVER_H

#include "runtime/base/options.h"
#include "runtime/datasets/schema.h"
#include "runtime/graph/graph.h"

enum { LKS_MODEL_DRIVER_VERSION = 1 };

typedef struct lks_model_driver lks_model_driver;
struct lks_model_driver {
    int version; /* LKS_MODEL_DRIVER_VERSION */
    const char *name;
    const char *about; /* one line */
    const lks_option *options;
    size_t options_bytes; /* of the struct that `options` fills */
    /* Tokens per sample; NULL when the model is not for text. */
    int64_t (*context)(const void *options);
    /* Complains with lks_graph_refuse when the schema does not fit. */
    void (*build)(lks_graph *graph, const void *options, const lks_schema *schema);
};

/* NULL-terminated; written by Meson. */
extern const lks_model_driver *const lks_model_drivers[];

/* What a shared object exports: const lks_model_driver *lks_model_driver_export(void); */

#endif
