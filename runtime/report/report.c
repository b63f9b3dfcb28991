#include "runtime/report/report.h"

#include "runtime/base/log.h"
#include "runtime/base/memory.h"
#include "runtime/report/lines.h"
#include "runtime/report/progress.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct lks_report {
    char *run_directory;
    report_progress *progress;
    report_lines *files; /* those written so far */
    size_t file_count, file_capacity;
    pthread_mutex_t mutex; /* guards the files, but for fsync */
};

/* --- Files ---------------------------------------------------------------- */

static lks_status report_find(lks_report *report, const char *name, report_lines **out)
{
    for (size_t i = 0; i < report->file_count; ++i) {
        *out = &report->files[i];
        if (strcmp((*out)->name, name) == 0)
            return LKS_OK;
    }
    LKS_TRY(LKS_GROW(&report->files, &report->file_capacity, report->file_count + 1));
    *out = &report->files[report->file_count];
    LKS_TRY(report_lines_open(*out, report->run_directory, name));
    ++report->file_count;
    return LKS_OK;
}

lks_status lks_report_line(lks_report *report, const char *name, const char *json)
{
    report_lines *lines;
    pthread_mutex_lock(&report->mutex);
    lks_status status = report_find(report, name, &lines);
    if (status == LKS_OK)
        status = report_lines_append(lines, json);
    pthread_mutex_unlock(&report->mutex);
    return status;
}

/* Flushes the file of that index; false: there is none. */
static bool report_flush(lks_report *report, size_t index, int *file, lks_status *status)
{
    pthread_mutex_lock(&report->mutex);
    bool there = index < report->file_count;
    if (there) {
        *status = report_lines_flush(&report->files[index]);
        *file = report->files[index].file;
    }
    pthread_mutex_unlock(&report->mutex);
    return there;
}

lks_status lks_report_sync(lks_report *report)
{
    int file = -1;
    lks_status status = LKS_OK;
    for (size_t i = 0; report_flush(report, i, &file, &status); ++i) {
        LKS_TRY(status);
        if (fsync(file) != 0)
            return LKS_FAIL(LKS_ERR_IO, "%s: cannot fsync its lines: %s", report->run_directory,
                            strerror(errno));
    }
    return LKS_OK;
}

static lks_status report_write(lks_report *report, const json_t *line)
{
    char *text = json_dumps(line, JSON_REAL_PRECISION(17));
    if (!text)
        return LKS_FAIL(LKS_ERR_INTERNAL, "%s/metrics.jsonl: no memory", report->run_directory);
    lks_status status = lks_report_line(report, "metrics", text);
    free(text);
    return status;
}

/* --- Metrics -------------------------------------------------------------- */

static void report_add_number(json_t *line, const char *key, double value)
{
    json_object_set_new(line, key, isfinite(value) ? json_real(value) : json_null());
}

static void report_add_count(json_t *line, const char *key, uint64_t value)
{
    json_object_set_new(line, key, json_integer((json_int_t)value));
}

static json_t *report_step_to_json(const lks_step_metrics *m)
{
    json_t *line = json_object();
    report_add_count(line, "step", m->step);
    report_add_number(line, "epoch", m->epoch);
    report_add_number(line, "loss", m->loss);
    if (!isnan(m->accuracy))
        report_add_number(line, "accuracy", m->accuracy);
    report_add_number(line, "lr", m->lr);
    report_add_number(line, "grad_norm", m->grad_norm);
    report_add_count(line, "samples", m->samples);
    report_add_count(line, "tokens", m->tokens);
    report_add_count(line, "world_size", (uint64_t)m->world_size);
    report_add_number(line, "step_seconds", m->step_seconds);
    report_add_number(line, "loader_wait_seconds", m->loader_wait_seconds);
    report_add_number(line, "reduce_wait_seconds", m->reduce_wait_seconds);
    report_add_number(line, "checkpoint_stall_seconds", m->checkpoint_stall_seconds);
    report_add_number(line, "checkpoint_running_seconds", m->checkpoint_running_seconds);
    report_add_number(line, "samples_per_second", m->samples_per_second);
    report_add_count(line, "gradient_bytes", m->gradient_bytes);
    report_add_count(line, "gradient_bytes_early", m->gradient_bytes_early);
    return line;
}

lks_status lks_report_step(lks_report *report, const lks_step_metrics *metrics, bool write_line)
{
    report_progress_step(report->progress, metrics);
    if (!write_line)
        return LKS_OK;
    json_t *line = report_step_to_json(metrics);
    lks_status status = report_write(report, line);
    json_decref(line);
    return status;
}

lks_status lks_report_validation(lks_report *report, const lks_validation_metrics *metrics)
{
    json_t *line = json_object();
    report_add_count(line, "step", metrics->step);
    report_add_number(line, "validation_loss", metrics->loss);
    if (!isnan(metrics->accuracy))
        report_add_number(line, "validation_accuracy", metrics->accuracy);
    report_add_count(line, "validation_samples", metrics->samples);
    report_add_number(line, "validation_seconds", metrics->seconds);
    lks_status status = report_write(report, line);
    json_decref(line);
    unsigned long long step = metrics->step;
    if (isnan(metrics->accuracy))
        lks_log_root("step %llu: validation loss %.4f", step, metrics->loss);
    else
        lks_log_root("step %llu: validation loss %.4f, accuracy %.2f%%", step, metrics->loss,
                     100 * metrics->accuracy);
    return status;
}

/* --- Opening -------------------------------------------------------------- */

lks_status lks_report_open(lks_report **out, const char *run_directory, uint64_t resume_step,
                           uint64_t steps)
{
    LKS_TRY(report_undo(run_directory, resume_step));
    lks_report *report;
    LKS_TRY(LKS_NEW(&report));
    pthread_mutex_init(&report->mutex, NULL);
    lks_status status = LKS_OK;
    report_lines *metrics;
    report->run_directory = strdup(run_directory);
    if (!report->run_directory)
        status = LKS_FAIL(LKS_ERR_INTERNAL, "%s: no memory", run_directory);
    if (status == LKS_OK) /* now, so that a directory that cannot be written fails at the start */
        status = report_find(report, "metrics", &metrics);
    if (status == LKS_OK)
        status = report_progress_open(&report->progress, steps);
    if (status != LKS_OK)
        lks_report_close(report);
    else
        *out = report;
    return status;
}

void lks_report_close(lks_report *report)
{
    if (!report)
        return;
    report_progress_close(report->progress);
    for (size_t i = 0; i < report->file_count; ++i)
        report_lines_close(&report->files[i]);
    lks_memory_free(report->files);
    pthread_mutex_destroy(&report->mutex);
    free(report->run_directory);
    lks_memory_free(report);
}
