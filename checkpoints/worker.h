/* One thread that does one task at a time, for its owner. */
#ifndef LKS_CHECKPOINTS_WORKER_H
#define LKS_CHECKPOINTS_WORKER_H

#include "runtime/base/status.h"

#include <stdbool.h>

enum { LKS_WORKER_MESSAGE = 512 }; /* bytes; a longer message is cut */

typedef struct lks_worker lks_worker;

lks_status lks_worker_open(lks_worker **out) LKS_MUST_CHECK;
void lks_worker_close(lks_worker *worker); /* after its task; NULL is fine */

/* The worker must be idle: its last task was collected. */
void lks_worker_start(lks_worker *worker, lks_status (*task)(void *user), void *user);
/* Collects a finished task. False: it is still at work. `message` (LKS_WORKER_MESSAGE bytes) gets
 * its failure's text, "" when there was none. */
bool lks_worker_collect(lks_worker *worker, lks_status *status, char *message);
/* Until the task is done, or about a millisecond. */
void lks_worker_rest(lks_worker *worker);

#endif
