#include "runtime/train/run_directory.h"
#include "runtime/base/clock.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/base/log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
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

static lks_status run_lock(lks_run_directory *run)
{
    char *path = lks_files_join(run->path, "lock");
    if (!path)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    lks_status status = LKS_OK;
    run->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (run->lock < 0)
        status = LKS_FAIL(LKS_ERR_IO, "%s: cannot open: %s", path, strerror(errno));
    else if (flock(run->lock, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK)
        status =
            LKS_FAIL(LKS_ERR_USAGE,
                     "%s: another job is running in this directory; wait for it, or name another "
                     "with --run",
                     run->path);
    free(path);
    return status;
}

static void run_new_id(lks_run_directory *run)
{
    uint64_t number = 0;
    if (getrandom(&number, sizeof number, 0) != sizeof number)
        number = lks_clock_ns() ^ (uint64_t)getpid() << 40;
    for (int i = 0; i < LKS_RUN_ID_SIZE - 1; ++i, number >>= 4)
        run->id[i] = "0123456789abcdef"[number & 15];
}

static lks_status run_load(lks_run_directory *run, const char *path)
{
    const char *id;
    int64_t version;
    if (!lks_files_exists(path)) {
        run_new_id(run);
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

static lks_status run_open(lks_run_directory *run, const char *json, lks_resume resume)
{
    LKS_TRY(check_new(run->path, json, resume));
    LKS_TRY(lks_files_make_directories(run->path));
    LKS_TRY(run_lock(run));
    LKS_TRY(clean_run(run));
    return run_load(run, json);
}

lks_status lks_run_directory_open(lks_run_directory *run, const char *path, lks_resume resume)
{
    *run = (lks_run_directory){.path = path, .lock = -1};
    char *json = lks_files_join(path, "run.json");
    if (!json)
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    lks_status status = run_open(run, json, resume);
    free(json);
    return status;
}

void lks_run_directory_close(lks_run_directory *run)
{
    json_decref(run->json);
    if (run->lock >= 0)
        close(run->lock);
    *run = (lks_run_directory){.lock = -1};
}

static lks_status check_identity(const lks_run_directory *run, const lks_run_identity *identity)
{
    const char *digest, *fingerprint;
    json_t *config;
    lks_text changes = {0};
    LKS_TRY(lks_json_get_object(run->json, "run.json", "config", &config));
    LKS_TRY(lks_config_check_resume(identity->config, config, &changes));
    if (changes.length)
        lks_log_root("changed since the last start:\n%s", changes.data);
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
    return LKS_OK;
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

lks_status lks_run_directory_record(lks_run_directory *run, const lks_run_identity *identity,
                                    uint64_t first_step)
{
    char now[32];
    if (!run->json)
        run->json = identity_json(run, identity);
    else
        json_object_set_new(run->json, "config", lks_config_to_json(identity->config));
    json_t *start = json_pack("{s:I, s:i, s:s, s:s}", "step", (json_int_t)first_step, "world_size",
                              identity->world_size, "arithmetic", identity->arithmetic, "time",
                              lks_clock_wall(now, sizeof now));
    if (!run->json || json_array_append_new(json_object_get(run->json, "starts"), start))
        return LKS_FAIL(LKS_ERR_CORRUPT,
                        "%s/run.json: cannot record this start: no array \"starts\"", run->path);
    lks_text yaml = {0};
    lks_config_print_yaml(identity->config, false, &yaml);
    lks_status status = write_text(run->path, "config.yaml", yaml.data, yaml.length);
    lks_text_release(&yaml);
    LKS_TRY(status);
    LKS_TRY(write_manifest(run->path, lks_dataset_manifest(identity->data)));
    return write_json(run->path, "run.json", run->json);
}
