#include "runtime/train/notice.h"
#include "runtime/train/job.h"

#include <math.h>

lks_status lks_job_watch(lks_job *job)
{
    const lks_notice_watch *watch = job->request->watch;
    if (!watch || lks_comm_local_rank(job->comm) > 0)
        return LKS_OK;
    LKS_TRY(watch->start(watch->user, &job->experiment.settings.preemption));
    job->watching = true;
    return LKS_OK;
}

double lks_job_notice(const lks_job *job)
{
    const lks_notice_watch *watch = job->request->watch;
    double watched = job->watching ? watch->check(watch->user) : 0;
    if (watched > 0 || !*job->request->notice)
        return watched;
    double grace = job->experiment.settings.preemption.grace_seconds;
    return grace > 0 ? grace : (double)INFINITY;
}
