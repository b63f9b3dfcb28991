/* Files of lines that grow: <run>/<name>.jsonl. */
#ifndef LKS_REPORT_LINES_H
#define LKS_REPORT_LINES_H

#include "runtime/base/status.h"
#include "runtime/base/text.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct report_lines {
    char *name, *path;
    int file;         /* O_APPEND */
    lks_text waiting; /* lines that could not be written yet */
    bool failing;     /* that was told */
} report_lines;

/* Creates the file where there is none. */
lks_status report_lines_open(report_lines *out, const char *run_directory,
                             const char *name) LKS_MUST_CHECK;
void report_lines_close(report_lines *lines); /* tries once more to write what waits */

/* Appends `text` and a newline, whole. A full disk does not end a job: lines that cannot be written wait in
 * memory, in order, and go with the next; warned of once. Too many of them are LKS_ERR_IO. */
lks_status report_lines_append(report_lines *lines, const char *text) LKS_MUST_CHECK;
/* Writes what waits. LKS_ERR_IO: it waits on. */
lks_status report_lines_flush(report_lines *lines) LKS_MUST_CHECK;

/* Takes back what was written after step `resume_step` in each *.jsonl of the run. */
lks_status report_undo(const char *run_directory, uint64_t resume_step) LKS_MUST_CHECK;

#endif
