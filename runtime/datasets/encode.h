/* Raw inputs for predict, converted as prepare converted the training data.
 *
 * A file is read in a stream: rows of a CSV (which need not have the target column), images of
 * an IDX file (.gz or not), lines of a text (a prompt each). What comes out has the fields of
 * the dataset's schema (schema.h), every target masked. Not thread-safe.
 */
#ifndef LKS_DATASETS_ENCODE_H
#define LKS_DATASETS_ENCODE_H

#include "runtime/base/status.h"

#include <jansson.h>
#include <stdint.h>

typedef struct lks_encoder lks_encoder;

/* `manifest` is that of the training data (lks_dataset_manifest) and must outlive the encoder;
 * `context` is the tokens per sample for text (>= 1), ignored otherwise. A missing file is LKS_ERR_USAGE, one that does not
 * fit the manifest LKS_ERR_CORRUPT. `path` NULL: no input, only the two functions at the end. */
lks_status lks_encoder_open(lks_encoder **out, const json_t *manifest, const char *path,
                            int64_t context) LKS_MUST_CHECK;
void lks_encoder_close(lks_encoder *encoder); /* NULL is fine */

/* The next at most `max_count` samples into fields[i], max_count x shape each; *count is
 * smaller only at the end, 0 after it. */
lks_status lks_encoder_next(lks_encoder *encoder, int64_t max_count, void *const *fields,
                            int64_t *count) LKS_MUST_CHECK;

/* Text: bytes of prompt i of the last call that stand in its "tokens", from the front; the rest is 0. A
 * prompt longer than the context gives its last bytes. */
int64_t lks_encoder_prompt_length(const lks_encoder *encoder, int64_t i);
/* Text: the whole of prompt i of the last call, without its line end. */
const char *lks_encoder_prompt(const lks_encoder *encoder, int64_t i);

/* The name of a class: the text in the table's target column, the label of images. NULL out of
 * range, or when there are no classes. */
const char *lks_encoder_class_name(const lks_encoder *encoder, int64_t i);
/* A regression's output in the target's own units. */
double lks_encoder_number(const lks_encoder *encoder, double standardised);

#endif
