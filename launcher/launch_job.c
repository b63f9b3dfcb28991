#include "launcher/launch_job.h"
#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/base/text.h"
#include "runtime/train/geometry.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

extern char **environ;

enum { TAIL_BYTES = 65536 };

/* --- The arguments -------------------------------------------------------- */

/* The value of the last `name value` or `name=value` before "--". */
static const char *option_value(const lks_texts *train, const char *name)
{
    const char *found = NULL;
    size_t length = strlen(name);
    for (size_t i = 1; i < train->count && strcmp(train->items[i], "--"); ++i) {
        const char *item = train->items[i];
        if (!strcmp(item, name) && i + 1 < train->count)
            found = train->items[i + 1];
        else if (!strncmp(item, name, length) && item[length] == '=')
            found = item + length + 1;
    }
    return found;
}

static bool takes_value(const char *option)
{
    return !strcmp(option, "--set") || !strcmp(option, "--run") || !strcmp(option, "--resume");
}

const char *lks_launch_job_config(const lks_texts *train)
{
    for (size_t i = 1; i < train->count; ++i) {
        if (takes_value(train->items[i]))
            ++i;
        else if (strncmp(train->items[i], "--", 2))
            return train->items[i];
    }
    return NULL;
}

/* As train chooses it: "runs/gpt" for "examples/gpt.yaml". */
static char *run_path(const lks_texts *train, const char *config)
{
    const char *run = option_value(train, "--run");
    if (run || !config)
        return strdup(run ? run : "");
    const char *name = strrchr(config, '/') ? strrchr(config, '/') + 1 : config;
    const char *dot = strrchr(name, '.');
    size_t length = dot && dot != name ? (size_t)(dot - name) : strlen(name);
    char *path = NULL;
    return asprintf(&path, "runs/%.*s", (int)length, name) < 0 ? NULL : path;
}

lks_status lks_launch_job_lanes(const lks_texts *train, int *lanes)
{
    lks_config *config;
    lks_settings settings;
    lks_geometry geometry;
    LKS_TRY(lks_config_create(&config));
    lks_status status = lks_config_read_file(config, lks_launch_job_config(train));
    if (status == LKS_OK)
        status = lks_config_use_environment(config, environ);
    for (size_t i = 1; i < train->count && status == LKS_OK; ++i) {
        if (!strcmp(train->items[i], "--set") && i + 1 < train->count)
            status = lks_config_set(config, train->items[++i], "--set");
        else if (!strncmp(train->items[i], "--set=", 6))
            status = lks_config_set(config, train->items[i] + 6, "--set");
    }
    if (status == LKS_OK)
        status = lks_settings_bind(&settings, config);
    if (status == LKS_OK)
        status = lks_geometry_init(&geometry, &settings, 0, 1);
    if (status == LKS_OK)
        *lanes = geometry.lanes;
    lks_config_destroy(config);
    return status;
}

/* --- run.json ------------------------------------------------------------- */

static json_t *load_run(const lks_launch_job *job)
{
    json_t *json = NULL;
    char *path = lks_files_join(job->run, "run.json");
    if (path && lks_files_exists(path) && lks_json_load(path, &json) != LKS_OK)
        json = NULL;
    free(path);
    return json;
}

size_t lks_launch_job_starts(const lks_launch_job *job, int64_t *first_step)
{
    json_t *json = load_run(job), *starts = json_object_get(json, "starts");
    size_t count = json_array_size(starts);
    *first_step = 0;
    if (count)
        *first_step =
            json_integer_value(json_object_get(json_array_get(starts, count - 1), "step"));
    json_decref(json);
    return count;
}

lks_status lks_launch_job_open(lks_launch_job *out, const lks_texts *train)
{
    const char *config = lks_launch_job_config(train);
    *out = (lks_launch_job){.run = run_path(train, config)};
    if (out->run) {
        out->metrics = lks_files_join(out->run, "metrics.jsonl");
        out->lock = lks_files_join(out->run, "lock");
    }
    if (!out->run || !out->metrics || !out->lock) {
        lks_launch_job_close(out);
        return LKS_FAIL(LKS_ERR_INTERNAL, "no memory");
    }
    json_t *json = load_run(out);
    out->lanes = (int)json_integer_value(json_object_get(json, "lanes"));
    json_decref(json);
    if (!out->lanes && config && lks_launch_job_lanes(train, &out->lanes) != LKS_OK)
        out->lanes = 0;
    return LKS_OK;
}

void lks_launch_job_close(lks_launch_job *job)
{
    free(job->run);
    free(job->metrics);
    free(job->lock);
    *job = (lks_launch_job){0};
}

/* --- Steps ---------------------------------------------------------------- */

static int64_t last_logged_step(const char *path)
{
    char tail[TAIL_BYTES + 1];
    struct stat file;
    int64_t newest = 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    off_t from = fstat(fd, &file) == 0 && file.st_size > TAIL_BYTES ? file.st_size - TAIL_BYTES : 0;
    ssize_t got = pread(fd, tail, TAIL_BYTES, from);
    close(fd);
    tail[got > 0 ? got : 0] = '\0';
    for (char *at = tail; (at = strstr(at, "\"step\": ")) && strchr(at, '\n'); ++at) {
        long long step = strtoll(at + strlen("\"step\": "), NULL, 10);
        newest = step > newest ? step : newest;
    }
    return newest;
}

static int64_t newest_checkpoint(const lks_launch_job *job)
{
    int64_t newest = 0;
    lks_file_list names = {0};
    char *path = lks_files_join(job->run, "checkpoints");
    if (path && lks_files_is_directory(path) && lks_files_list(path, &names) == LKS_OK) {
        for (size_t i = 0; i < names.count; ++i) {
            int64_t step;
            if (!strncmp(names.names[i], "step-", 5) && !strchr(names.names[i], '.') &&
                (step = strtoll(names.names[i] + 5, NULL, 10)) > newest)
                newest = step;
        }
        lks_file_list_release(&names);
    }
    free(path);
    return newest;
}

bool lks_launch_job_has_checkpoint(const lks_launch_job *job)
{
    return newest_checkpoint(job) > 0;
}

int64_t lks_launch_job_newest_step(const lks_launch_job *job)
{
    int64_t logged = last_logged_step(job->metrics), saved = newest_checkpoint(job);
    return logged > saved ? logged : saved;
}

uint64_t lks_launch_job_pulse(const lks_launch_job *job)
{
    struct stat file;
    if (stat(job->metrics, &file))
        return 0;
    return ((uint64_t)file.st_size << 20) ^ (uint64_t)file.st_mtim.tv_sec * 1000000007 ^
           (uint64_t)file.st_mtim.tv_nsec;
}

bool lks_launch_job_is_free(const lks_launch_job *job)
{
    int fd = open(job->lock, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return true;
    bool is_free = flock(fd, LOCK_EX | LOCK_NB) == 0;
    close(fd);
    return is_free;
}
