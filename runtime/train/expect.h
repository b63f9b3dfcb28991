/* What a checkpoint should be of: a configuration's model and data, or those of its run directory. */
#ifndef LKS_TRAIN_EXPECT_H
#define LKS_TRAIN_EXPECT_H

#include "checkpoints/checkpoint.h"
#include "runtime/base/config.h"

typedef struct lks_expect lks_expect;

/* The configuration's model on its data (data.train), `name` its file's. Not collective. */
lks_status lks_expect_config(lks_expect **out, lks_config *config, const char *name) LKS_MUST_CHECK;
/* The job of the run directory that the checkpoint directory `path` lies in: <run>/checkpoints/<name>. *out
 * NULL: it lies in none. */
lks_status lks_expect_run(lks_expect **out, const char *path) LKS_MUST_CHECK;
void lks_expect_close(lks_expect *expect); /* NULL is fine */

/* Valid until close; NULL for NULL. */
const lks_checkpoint_expectation *lks_expect_get(const lks_expect *expect);

#endif
