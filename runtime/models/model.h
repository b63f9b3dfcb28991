/* Models by name. A model turns its options and the data's schema into a graph. */
#ifndef LKS_MODELS_MODEL_H
#define LKS_MODELS_MODEL_H

#include "runtime/base/options.h"
#include "runtime/datasets/schema.h"
#include "runtime/graph/graph.h"

typedef struct lks_model lks_model;

/* `name` is a registered model, or the path of a shared object that exports
 * `lks_model_driver_export` (model_driver.h). Unknown: LKS_ERR_USAGE with the
 * nearest. */
lks_status lks_model_open(lks_model **out, const char *name) LKS_MUST_CHECK;
void lks_model_close(lks_model *model); /* NULL is fine */
const char *lks_model_name(const lks_model *model);
/* The table and the struct it fills, for lks_config_bind(config, "model", ...). */
const lks_option *lks_model_options(const lks_model *model);
void *lks_model_option_values(lks_model *model);
/* Those of the index-th registered model; NULL: there are no more. */
const lks_option *lks_model_options_at(size_t index);
/* Tokens per sample that a text model wants (0: not a text model). After binding. */
int64_t lks_model_context(const lks_model *model);
/* Checks that the model can learn from this data (else LKS_ERR_USAGE says what
 * it wants), then builds. */
lks_status lks_model_build(lks_model *model, const lks_schema *schema,
                           lks_graph *graph) LKS_MUST_CHECK;

#endif
