/* Notices of a machine's end that are not signals: a file, and the cloud's metadata service. */
#ifndef LKS_LAUNCHER_NOTICES_H
#define LKS_LAUNCHER_NOTICES_H

#include "runtime/train/notice.h"

typedef struct lks_notices lks_notices;

lks_status lks_notices_open(lks_notices **out) LKS_MUST_CHECK;
/* For lks_train_request.watch. */
const lks_notice_watch *lks_notices_watch(const lks_notices *notices);
void lks_notices_close(lks_notices *notices); /* joins the thread; NULL is fine */

#endif
