/* Progress for people: a bar on a terminal, a line now and then elsewhere. */
#ifndef LKS_REPORT_PROGRESS_H
#define LKS_REPORT_PROGRESS_H

#include "runtime/report/report.h"

typedef struct report_progress report_progress;

lks_status report_progress_open(report_progress **out, uint64_t steps) LKS_MUST_CHECK;
void report_progress_close(report_progress *progress); /* NULL is fine */
void report_progress_step(report_progress *progress, const lks_step_metrics *metrics);

#endif
