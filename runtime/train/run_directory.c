#include "runtime/train/run_directory.h"
#include "runtime/base/clock.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/base/log.h"
#include "runtime/train/run_owner.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* A directory with nothing in it but what an unfinished save or probe left. */
static bool holds_leftovers_alone(const char *parent, const char *name)
{
    lks_file_list files = {0};
    char *path = lks_files_join(parent, name);
    bool alone = path && lks_files_is_directory(path) && lks_files_list(path, &files) == LKS_OK;
    for (size_t i = 0; alone && i < files.count; ++i)
        alone = strstr(files.names[i], ".partial-") != NULL;
    lks_file_list_release(&files);
    free(path);
    return alone;
}

/* What a start that ended early may have left. */
static bool is_early_file(const char *path, const char *name)
{
    return !strcmp(name, "lock") || !strcmp(name, "config.yaml") || !strcmp(name, "dataset") ||
           strstr(name, ".tmp-") ||
           (!strcmp(name, "checkpoints") && holds_leftovers_alone(path, name));
}

static lks_status refuse_foreign(const char *path)
{
    lks_file_list files;
    LKS_TRY(lks_files_list(path, &files));
    lks_status status = LKS_OK;
    for (size_t i = 0; i < files.count && status == LKS_OK; ++i)
        if (!is_early_file(path, files.names[i]))
            status =
                LKS_FAIL(LKS_ERR_USAGE,
                         "%s holds %s and no run.json: it is not a run directory; name another "
                         "with --run",
                         path, files.names[i]);
    lks_file_list_release(&files);
    return status;
}

static lks_status run_load(lks_run_directory *run, const char *path)
{
    const char *id;
    int64_t version;
    if (!lks_files_exists(path)) {
        lks_run_new_id(run->id);
        return refuse_foreign(run->path);
    }
    LKS_TRY(lks_json_load(path, &run->json));
    LKS_TRY(lks_json_get_integer(run->json, path, "version", 1, INT64_MAX, &version));
    if (version > 1)
        return LKS_FAIL(
            LKS_ERR_CORRUPT,
            "%s: made by a newer lockstep, as version %lld, this one reads 1: use that one", path,
            (long long)version);
    LKS_TRY(lks_json_get_string(run->json, path, "run_id", &id));
    snprintf(run->id, sizeof run->id, "%s", id);
    run->epoch = lks_run_owner_of(run->json).epoch;
    return LKS_OK;
}

/* Before anything is made: a new job's directory is empty, or not there yet. */
static lks_status check_new(const char *path, const char *json, lks_resume resume)
{
    if (lks_files_exists(json))
        return LKS_OK;
    if (resume == LKS_RESUME_MUST)
        return LKS_FAIL(LKS_ERR_USAGE, "%s holds no job, and --resume must was given: check --run",
                        path);
    return lks_files_is_directory(path) ? refuse_foreign(path) : LKS_OK;
}

/* What a writer that was killed left of a file; under the lock. */
static lks_status remove_unfinished(const char *path)
{
    lks_file_list files;
    LKS_TRY(lks_files_list(path, &files));
    lks_status status = LKS_OK;
    for (size_t i = 0; i < files.count && status == LKS_OK; ++i) {
        char *file = strstr(files.names[i], ".tmp-") ? lks_files_join(path, files.names[i]) : NULL;
        if (file)
            status = lks_files_remove_tree(file);
        free(file);
    }
    lks_file_list_release(&files);
    return status;
}

static lks_status clean_run(const lks_run_directory *run)
{
    char *dataset = lks_files_join(run->path, "dataset");
    if (!dataset)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    lks_status status = remove_unfinished(run->path);
    if (status == LKS_OK && lks_files_is_directory(dataset))
        status = remove_unfinished(dataset);
    free(dataset);
    return status;
}

/* Only what a start makes before it is recorded: whatever else is there stays. */
static bool holds_early_files_alone(const char *path)
{
    lks_file_list files;
    if (lks_files_list(path, &files) != LKS_OK)
        return false;
    bool alone = true;
    for (size_t i = 0; i < files.count && alone; ++i)
        alone = is_early_file(path, files.names[i]);
    lks_file_list_release(&files);
    return alone;
}

/* Why the start has ended early stays the message. */
static void remove_unrecorded(const lks_run_directory *run)
{
    if (!run->made || !lks_run_lock_is_held(run->path, run->lock))
        return;
    char *why = strdup(lks_status_message());
    if (holds_early_files_alone(run->path) && lks_files_remove_tree(run->path) != LKS_OK)
        lks_log_warn("%s", lks_status_message());
    lks_status_set_message(why ? why : "");
    free(why);
}

static lks_status run_open(lks_run_directory *run, const char *json, lks_resume resume,
                           bool take_over)
{
    LKS_TRY(check_new(run->path, json, resume));
    run->made = !lks_files_exists(run->path);
    LKS_TRY(lks_files_make_directories(run->path));
    LKS_TRY(lks_run_lock(run->path, take_over, &run->lock));
    LKS_TRY(clean_run(run));
    return run_load(run, json);
}

lks_status lks_run_directory_open(lks_run_directory *run, const char *path, lks_resume resume,
                                  bool take_over)
{
    *run = (lks_run_directory){.path = path, .lock = -1};
    char *json = lks_files_join(path, "run.json");
    if (!json)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    lks_status status = run_open(run, json, resume, take_over);
    free(json);
    return status;
}

void lks_run_directory_close(lks_run_directory *run)
{
    remove_unrecorded(run);
    json_decref(run->json);
    if (run->lock >= 0)
        close(run->lock);
    *run = (lks_run_directory){.lock = -1};
}

static json_t *order_json(const lks_order *order)
{
    return json_pack("{s:I, s:I, s:I, s:I}", "samples", (json_int_t)order->samples, "seed",
                     (json_int_t)order->seed, "run_samples", (json_int_t)order->run_samples,
                     "window_runs", (json_int_t)order->window_runs);
}

/* Sample k of the job must be the same one for ever. */
static lks_status check_order(const lks_run_directory *run, const lks_order *order)
{
    const json_t *recorded = json_object_get(run->json, "order");
    json_t *now = order_json(order);
    bool same = !recorded || json_equal(recorded, now);
    json_decref(now);
    return same ? LKS_OK
                : LKS_FAIL(LKS_ERR_USAGE,
                           "%s: this lockstep reads the samples in another order than the job "
                           "began with: use the version that it began with, or start a new job "
                           "with --run",
                           run->path);
}

static lks_status check_identity(const lks_run_directory *run, const lks_run_identity *identity)
{
    const char *digest, *fingerprint;
    json_t *config;
    lks_text changes = {0};
    LKS_TRY(lks_json_get_object(run->json, "run.json", "config", &config));
    LKS_TRY(lks_config_check_resume(identity->config, config, &changes));
    if (changes.length)
        lks_log_root("changed since the last start: %s", changes.data);
    lks_text_release(&changes);
    LKS_TRY(lks_json_get_string(run->json, "run.json", "dataset_digest", &digest));
    LKS_TRY(lks_json_get_string(run->json, "run.json", "model_fingerprint", &fingerprint));
    if (strcmp(digest, lks_dataset_digest(identity->data)))
        return LKS_FAIL(
            LKS_ERR_USAGE,
            "%s: the job learns from the dataset %.12s, data.train (%s) is %.12s: point it "
            "at the same data, or start a new job with --run",
            run->path, digest, lks_dataset_directory(identity->data),
            lks_dataset_digest(identity->data));
    if (strcmp(fingerprint, identity->fingerprint))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%s: the job trains another model: its parameters hash to %.12s, these to "
                        "%.12s: start a new job with --run",
                        run->path, fingerprint, identity->fingerprint);
    return check_order(run, identity->order);
}

lks_status lks_run_directory_check(const lks_run_directory *run, const lks_run_identity *identity,
                                   lks_resume resume)
{
    if (run->json && resume == LKS_RESUME_NEVER)
        return LKS_FAIL(
            LKS_ERR_USAGE,
            "%s holds a job already: leave out --resume never to go on with it, or name "
            "another directory with --run",
            run->path);
    return run->json ? check_identity(run, identity) : LKS_OK;
}

static lks_status write_text(const char *directory, const char *name, const char *text,
                             size_t bytes)
{
    char *path = lks_files_join(directory, name);
    if (!path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    lks_status status = lks_files_write_atomically(path, text, bytes);
    free(path);
    return status;
}

static lks_status write_json(const char *directory, const char *name, const json_t *json)
{
    char *path = lks_files_join(directory, name);
    if (!path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    lks_status status = lks_json_save(path, json);
    free(path);
    return status;
}

/* What predict needs to know of the data, when the data is no longer there. */
static lks_status write_manifest(const char *directory, const json_t *manifest)
{
    char *path = lks_files_join(directory, "dataset");
    if (!path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    lks_status status = lks_files_make_directories(path);
    if (status == LKS_OK)
        status = write_json(path, "manifest.json", manifest);
    free(path);
    return status;
}

static json_t *identity_json(const lks_run_directory *run, const lks_run_identity *identity)
{
    return json_pack("{s:s, s:i, s:s, s:i, s:s, s:s, s:o, s:[]}", "format", "lockstep-run",
                     "version", 1, "run_id", run->id, "lanes", identity->lanes, "dataset_digest",
                     lks_dataset_digest(identity->data), "model_fingerprint", identity->fingerprint,
                     "config", lks_config_to_json(identity->config), "starts");
}

static json_t *start_json(const lks_run_directory *run, const lks_run_identity *identity,
                          uint64_t first_step)
{
    char now[32];
    return json_pack("{s:I, s:I, s:i, s:s, s:s, s:s}", "step", (json_int_t)first_step, "epoch",
                     (json_int_t)run->epoch, "world_size", identity->world_size, "host",
                     identity->host, "arithmetic", identity->arithmetic, "time",
                     lks_clock_wall(now, sizeof now));
}

/* run.json as this start leaves it. */
static lks_status update_json(lks_run_directory *run, const lks_run_identity *identity,
                              uint64_t first_step)
{
    if (!run->json)
        run->json = identity_json(run, identity);
    json_object_set_new(run->json, "config", lks_config_to_json(identity->config));
    json_object_set_new(run->json, "order", order_json(identity->order));
    json_object_set_new(run->json, "global_batch", json_integer(identity->global_batch));
    json_object_set_new(run->json, "epoch", json_integer((json_int_t)run->epoch));
    json_object_set_new(run->json, "owner",
                        json_pack("{s:s, s:s}", "start", run->start, "host", identity->host));
    if (json_array_append_new(json_object_get(run->json, "starts"),
                              start_json(run, identity, first_step)))
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s/run.json: cannot record this start: no array \"starts\"", run->path);
    return LKS_OK;
}

/* Nobody has written run.json since it was read, lock or no lock. */
static lks_status check_epoch(const lks_run_directory *run, const char *path)
{
    struct stat info;
    lks_run_owner owner;
    if (!run->json && !lks_files_exists(path))
        return LKS_OK;
    LKS_TRY(lks_run_owner_read(path, &info, &owner));
    lks_run_owner seen = lks_run_owner_of(run->json);
    if (run->json && owner.epoch == seen.epoch && !strcmp(owner.start, seen.start))
        return LKS_OK;
    return lks_run_owner_fail(run->path, &owner);
}

static lks_status write_run_json(lks_run_directory *run, const lks_run_identity *identity,
                                 uint64_t first_step, const char *path)
{
    lks_run_owner owner;
    LKS_TRY(check_epoch(run, path));
    ++run->epoch;
    lks_run_new_id(run->start);
    LKS_TRY(update_json(run, identity, first_step));
    LKS_TRY(lks_json_save(path, run->json));
    LKS_TRY(lks_run_owner_read(path, &run->written, &owner));
    return strcmp(owner.start, run->start) ? lks_run_owner_fail(run->path, &owner) : LKS_OK;
}

static lks_status guard(const lks_run_directory *run, const char *path)
{
    struct stat now;
    lks_run_owner owner;
    LKS_TRY(lks_run_owner_read(path, &now, NULL));
    if (now.st_dev == run->written.st_dev && now.st_ino == run->written.st_ino &&
        now.st_size == run->written.st_size &&
        !memcmp(&now.st_ctim, &run->written.st_ctim, sizeof now.st_ctim))
        return LKS_OK;
    LKS_TRY(lks_run_owner_read(path, &now, &owner));
    return strcmp(owner.start, run->start) ? lks_run_owner_fail(run->path, &owner) : LKS_OK;
}

lks_status lks_run_directory_guard(const lks_run_directory *run)
{
    char *path = lks_files_join(run->path, "run.json");
    if (!path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    lks_status status = guard(run, path);
    free(path);
    return status;
}

lks_status lks_run_directory_record(lks_run_directory *run, const lks_run_identity *identity,
                                    uint64_t first_step)
{
    lks_text yaml = {0};
    lks_config_print_yaml(identity->config, false, &yaml);
    lks_status status = write_text(run->path, "config.yaml", yaml.data, yaml.length);
    lks_text_release(&yaml);
    LKS_TRY(status);
    LKS_TRY(write_manifest(run->path, lks_dataset_manifest(identity->data)));
    char *path = lks_files_join(run->path, "run.json");
    if (!path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    status = write_run_json(run, identity, first_step, path);
    free(path);
    return status;
}
