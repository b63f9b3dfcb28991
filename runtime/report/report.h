/* What a run tells: metrics.jsonl and progress for people. Rank 0 only. */
#ifndef LKS_REPORT_REPORT_H
#define LKS_REPORT_REPORT_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct lks_report lks_report;

/* One logged step; DESIGN names the keys. Durations are of this step on rank 0. */
typedef struct lks_step_metrics {
    uint64_t step; /* 1-based: steps done */
    double epoch;
    double loss, lr, grad_norm;
    double accuracy;  /* NaN: not applicable */
    uint64_t samples; /* consumed so far */
    uint64_t tokens;  /* of those; 0 where samples are not text */
    int world_size;
    double step_seconds, loader_wait_seconds, reduce_wait_seconds, checkpoint_stall_seconds;
    double
        checkpoint_running_seconds; /* of the save that was being written at the step's end; 0: none */
    double samples_per_second;
    /* Of rank 0: handed over by this step, and how much of it before its last backward ended. */
    uint64_t gradient_bytes, gradient_bytes_early;
} lks_step_metrics;

typedef struct lks_validation_metrics {
    uint64_t step;
    double loss, accuracy /* NaN */;
    uint64_t samples;
    double seconds;
} lks_validation_metrics;

/* Puts a copy in the place of every <run>/<name>.jsonl: a start that still has one open, and was stopped between looking
 * whether the run is still its own and writing, writes where nobody reads. Before lks_report_open. */
lks_status lks_report_fence(const char *run_directory) LKS_MUST_CHECK;

/* Opens the lines of a start that goes on after step `resume_step` (0: from the
 * beginning) towards step `steps`. In every <run>/<name>.jsonl the lines of steps beyond
 * resume_step move to <run>/undone/<name>-<n>.jsonl, and a torn last line is cut off. */
lks_status lks_report_open(lks_report **out, const char *run_directory, uint64_t resume_step,
                           uint64_t steps) LKS_MUST_CHECK;
/* Takes the progress bar away; the last step is told if it was not. NULL is fine. */
void lks_report_close(lks_report *report);

/* To be called at every step, for the progress; appends to <run>/metrics.jsonl when
 * `write_line`. Keys are the members' names; accuracy is left out where it is NaN,
 * other numbers that are not finite are null. */
lks_status lks_report_step(lks_report *report, const lks_step_metrics *metrics,
                           bool write_line) LKS_MUST_CHECK;
/* Appends {"step", "validation_loss", "validation_accuracy", "validation_samples",
 * "validation_seconds"} to metrics.jsonl, and logs it. */
lks_status lks_report_validation(lks_report *report,
                                 const lks_validation_metrics *metrics) LKS_MUST_CHECK;

/* Once it returns LKS_OK every line so far is on disk. From any thread, while others append lines. */
lks_status lks_report_sync(lks_report *report) LKS_MUST_CHECK;

/* Appends `json`, one object on one line with a member "step", to <run>/<name>.jsonl
 * under the same rule for resumed steps. */
lks_status lks_report_line(lks_report *report, const char *name, const char *json) LKS_MUST_CHECK;

#endif
