/* Whether the run directory has room for the checkpoints of this job. */
#include "launcher/doctor/check.h"

#include <math.h>

static void disk_judge(lks_doctor *d)
{
    const json_t *run = lks_doctor_facts(d, "run", 0);
    double one = lks_doctor_plan(d, 0, "checkpoint_bytes"), keep = lks_doctor_plan(d, 0, "keep");
    double best = lks_doctor_plan(d, 0, "keep_best");
    double has = json_number_value(json_object_get(run, "free"));
    if (!isfinite(one) || !json_object_get(run, "free"))
        return;
    double count = keep + 1 + best, fit = floor(has / one);
    const char *mend = NULL;
    if (fit >= 2 + best)
        mend = lks_doctor_say(d, "--set checkpoint.keep=%.0f", fit - 1 - best);
    else if (fit >= 2)
        mend = "--set checkpoint.keep=1 --set checkpoint.keep_best=false";
    lks_doctor_row(d, NULL, count * one > has ? LKS_DOCTOR_FAIL : LKS_DOCTOR_OK, LKS_DOCTOR_ALL,
                   count * one > has ? mend : NULL,
                   "%s are free; checkpoints of %s need %s: %.0f kept%s, one being written",
                   lks_doctor_bytes(d, has), lks_doctor_bytes(d, one),
                   lks_doctor_bytes(d, count * one), keep, best > 0 ? ", the best" : "");
}

const lks_doctor_check lks_doctor_check_disk = {
    .name = "disk",
    .about = "room for the checkpoints that are kept",
    .judge = disk_judge,
};
