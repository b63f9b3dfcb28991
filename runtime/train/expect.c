#include "runtime/train/expect.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/base/memory.h"
#include "runtime/datasets/dataset.h"
#include "runtime/train/experiment.h"
#include "runtime/train/replica.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

struct lks_expect {
    lks_checkpoint_expectation expectation;
    char *source;
    char fingerprint[65];
    lks_experiment experiment;
    lks_dataset *data;
    lks_replica replica;
    json_t *run;
};

static lks_status expect_new(lks_expect **out, const char *source)
{
    LKS_TRY(LKS_NEW(out));
    (*out)->source = strdup(source);
    (*out)->expectation.source = (*out)->source;
    return (*out)->source ? LKS_OK : LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
}

static lks_status expect_settle(lks_expect **out, lks_expect *expect, lks_status status)
{
    *out = status == LKS_OK ? expect : NULL;
    if (status != LKS_OK)
        lks_expect_close(expect);
    return status;
}

static lks_status expect_build(lks_expect *e, lks_config *config)
{
    LKS_TRY(lks_experiment_init(&e->experiment, config));
    const char *directory = e->experiment.settings.data.train;
    if (!*directory)
        return LKS_FAIL(LKS_ERR_USAGE,
                        "data.train is not set: name a dataset that lockstep prepare made");
    LKS_TRY(lks_dataset_open(&e->data, directory, lks_model_context(e->experiment.model)));
    lks_replica_spec spec = {.model = e->experiment.model,
                             .schema = lks_dataset_schema(e->data),
                             .mode = LKS_GRAPH_TRAIN,
                             .micro_batch = 1};
    LKS_TRY(lks_replica_init(&e->replica, &spec));
    e->expectation.layout = lks_graph_layout(e->replica.graph);
    LKS_TRY(lks_layout_fingerprint(e->expectation.layout, e->fingerprint));
    e->expectation.model_fingerprint = e->fingerprint;
    e->expectation.dataset_digest = lks_dataset_digest(e->data);
    return LKS_OK;
}

lks_status lks_expect_config(lks_expect **out, lks_config *config, const char *name)
{
    lks_expect *expect = NULL;
    lks_status status = expect_new(&expect, name);
    if (status == LKS_OK)
        status = expect_build(expect, config);
    return expect_settle(out, expect, status);
}

static lks_status expect_read(lks_expect *e)
{
    LKS_TRY(lks_json_load(e->source, &e->run));
    LKS_TRY(lks_json_get_string(e->run, e->source, "model_fingerprint",
                                &e->expectation.model_fingerprint));
    return lks_json_get_string(e->run, e->source, "dataset_digest", &e->expectation.dataset_digest);
}

/* "<run>/run.json" for "<run>/checkpoints/<name>"; empty: it is not of this form. */
static void expect_run_path(const char *path, char out[PATH_MAX])
{
    char whole[PATH_MAX];
    *out = '\0';
    if (!realpath(path, whole))
        return;
    char *name = strrchr(whole, '/');
    *name = '\0';
    char *folder = strrchr(whole, '/');
    if (folder && !strcmp(folder, "/checkpoints")) {
        *folder = '\0';
        if ((size_t)snprintf(out, PATH_MAX, "%s/run.json", whole) >= PATH_MAX)
            *out = '\0';
    }
}

lks_status lks_expect_run(lks_expect **out, const char *path)
{
    char run[PATH_MAX];
    lks_expect *expect = NULL;
    *out = NULL;
    expect_run_path(path, run);
    if (!*run || !lks_files_exists(run))
        return LKS_OK;
    lks_status status = expect_new(&expect, run);
    if (status == LKS_OK)
        status = expect_read(expect);
    return expect_settle(out, expect, status);
}

void lks_expect_close(lks_expect *expect)
{
    if (!expect)
        return;
    lks_replica_release(&expect->replica);
    lks_dataset_close(expect->data);
    lks_experiment_release(&expect->experiment);
    json_decref(expect->run);
    free(expect->source);
    lks_memory_free(expect);
}

const lks_checkpoint_expectation *lks_expect_get(const lks_expect *expect)
{
    return expect ? &expect->expectation : NULL;
}
