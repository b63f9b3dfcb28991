#include "checkpoints/directory.h"
#include "checkpoints/manifest.h"
#include "checkpoints/save.h"
#include "checkpoints/state_file.h"
#include "runtime/base/clock.h"
#include "runtime/base/files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

lks_status lks_save_set_partial(lks_checkpoints *c)
{
    lks_step_partial_name(c->partial, c->plan->step, c->plan->nonce);
    free(c->partial_path);
    c->partial_path = lks_files_join(c->directory, c->partial);
    if (c->partial_path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    return LKS_OK;
}

/* Whether this run's checkpoint of that step is there already, whole. One that was committed by this
 * process is not read again. */
static bool is_saved_already(const lks_checkpoints *c, const lks_checkpoint_info *info)
{
    char name[LKS_STEP_NAME];
    char *path = lks_files_join(c->directory, lks_step_name(name, info->step));
    bool own = c->stats.saved > 0 && c->stats.last_step == info->step;
    lks_checkpoint *there = NULL;
    if (path == NULL || !lks_files_exists(path) ||
        lks_checkpoint_open(&there, path, own ? LKS_CHECK_MANIFEST : LKS_CHECK_ALL) != LKS_OK) {
        free(path);
        return false;
    }
    const json_t *run = json_object_get(lks_checkpoint_manifest(there), "run_id");
    bool same = strcmp(json_string_value(run), info->run_id) == 0;
    lks_checkpoint_close(there);
    free(path);
    return same;
}

/* The file at its full size, so that every rank finds it. Its bytes are the workers' to write. */
static lks_status create_state(const lks_checkpoints *c)
{
    char *path = lks_files_join(c->partial_path, LKS_STATE_NAME);
    if (path == NULL)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a path");
    lks_status status = LKS_OK;
    int file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (file < 0 || ftruncate(file, (off_t)c->map.file_bytes) != 0)
        status = LKS_FAIL(LKS_ERR_IO, "cannot create %s with %llu bytes: %s", path,
                          (unsigned long long)c->map.file_bytes, strerror(errno));
    if (file >= 0 && close(file) != 0 && status == LKS_OK)
        status = LKS_FAIL(LKS_ERR_IO, "cannot close %s: %s", path, strerror(errno));
    free(path);
    return status;
}

/* All of a state file's metadata but step, position and ledger. */
static void write_identity(lks_text *out, const lks_checkpoint_info *info)
{
    lks_text_append(out, "%s\n%s\n%s\n%s\n%s\n%llu %d", info->run_id, info->config_yaml,
                    info->model_fingerprint, info->dataset_digest, info->arithmetic,
                    (unsigned long long)info->seed, info->ledger != NULL);
}

/* Saves of one run differ in their place alone: the image is made for the first. */
static lks_status prepare_image(lks_checkpoints *c, const lks_checkpoint_info *info)
{
    lks_text identity = {0};
    write_identity(&identity, info);
    bool same = c->image >= 0 && !identity.failed && !c->identity.failed &&
                strcmp(identity.data, c->identity.data) == 0;
    lks_status status = same ? lks_state_image_update(c->image, info, &c->map) : LKS_OK;
    if (!same || status != LKS_OK) {
        if (c->image >= 0)
            close(c->image);
        lks_text_release(&c->identity);
        status = lks_state_image_create(&c->image, info, &c->map);
        c->identity = identity;
        identity = (lks_text){0};
    }
    lks_text_release(&identity);
    return status;
}

lks_status lks_checkpoints_prepare(lks_checkpoints *checkpoints, const lks_checkpoint_info *info)
{
    return checkpoints->root ? prepare_image(checkpoints, info) : LKS_OK;
}

static lks_status create_files(lks_checkpoints *c, const lks_checkpoint_info *info)
{
    LKS_TRY(lks_save_set_partial(c));
    LKS_TRY(lks_checkpoint_manifest_begin(&c->manifest, info, c->layout, lks_comm_size(c->comm)));
    LKS_TRY(prepare_image(c, info));
    if (mkdir(c->partial_path, 0777) != 0)
        return LKS_FAIL(LKS_ERR_IO, "cannot make %s: %s", c->partial_path, strerror(errno));
    return create_state(c);
}

void lks_save_remember(lks_checkpoints *c, lks_status status, int rank, const char *message)
{
    if (c->result != LKS_OK)
        return;
    c->result = status;
    snprintf(c->failure, sizeof c->failure, "%s: %s", lks_comm_host(c->comm, rank), message);
}

/* Root: what everybody shall do. */
static void make_plan(lks_checkpoints *c, const lks_checkpoint_info *info)
{
    c->plan->step = info->step;
    c->plan->nonce = lks_step_nonce();
    if (is_saved_already(c, info)) {
        c->plan->verdict = LKS_SAVE_SKIP;
        return;
    }
    c->plan->verdict = LKS_SAVE_WRITE;
    lks_status status = create_files(c, info);
    if (status != LKS_OK) {
        c->plan->verdict = LKS_SAVE_FAIL;
        lks_save_remember(c, status, 0, lks_status_message());
        lks_status discarded = c->partial_path == NULL ? LKS_OK : lks_save_discard(c);
        (void)discarded; /* the first failure is told; the next open removes what is left */
    }
    c->plan->file_bytes = c->map.file_bytes;
    for (int g = 0; g < c->map.group_count; ++g)
        memcpy(c->plan->offsets + (size_t)g * c->layout->tensor_count, c->map.groups[g].offsets,
               c->layout->tensor_count * sizeof(uint64_t));
}

static lks_status exchange_plan(lks_checkpoints *c)
{
    if (!c->root)
        return lks_comm_receive(c->comm, 0, LKS_SAVE_TAG_PLAN, c->plan, c->plan_bytes,
                                &c->plans.requests[0]);
    for (int i = 0; c->plan->verdict == LKS_SAVE_WRITE && i < c->report_messages.count; ++i)
        LKS_TRY(lks_comm_receive(c->comm, i + 1, LKS_SAVE_TAG_REPORT, c->reports[i + 1],
                                 lks_save_report_bytes(c, i + 1), &c->report_messages.requests[i]));
    return lks_save_send_to_all(c, &c->plans, LKS_SAVE_TAG_PLAN, c->plan, c->plan_bytes);
}

lks_status lks_save_begin(lks_checkpoints *c)
{
    c->start_ns = lks_clock_ns();
    c->saved = false;
    c->result = LKS_OK;
    if (c->root)
        make_plan(c, &lks_save_first(c)->info);
    LKS_TRY(exchange_plan(c));
    c->phase = LKS_SAVE_PLANNING;
    return LKS_OK;
}
