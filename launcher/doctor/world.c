/* Whether as many ranks met as were asked for. */
#include "launcher/doctor/check.h"
#include "launcher/launch_hosts.h"

#include <stdlib.h>

static int64_t environment_number(const char *name)
{
    int64_t number = 0;
    const char *text = getenv(name);
    return text && lks_text_parse_integer(text, &number) && number > 0 ? number : 0;
}

static const char *again(const lks_doctor *d, const char *start)
{
    lks_text line = {0};
    lks_text_append(&line, "%s lockstep doctor", start);
    if (d->options->config)
        lks_text_append(&line, " %s", d->options->config);
    if (d->options->hosts)
        lks_text_append(&line, " --hosts %s", d->options->hosts);
    if (d->options->run)
        lks_text_append(&line, " --run %s", d->options->run);
    const char *copy = lks_doctor_say(d, "%s", line.data ? line.data : "");
    lks_text_release(&line);
    return copy;
}

/* What SLURM was asked for; its step's tasks only where srun started the ranks itself. */
static int64_t slurm_tasks(const char **source)
{
    if (!getenv("OMPI_COMM_WORLD_SIZE") && environment_number("SLURM_STEP_NUM_TASKS")) {
        *source = "SLURM_STEP_NUM_TASKS";
        return environment_number(*source);
    }
    *source = "SLURM_NTASKS";
    return environment_number(*source);
}

static const char *start_line(const lks_doctor *d, int64_t ranks)
{
    const char *hostfile = d->options->hosts;
    if (getenv("OMPI_COMM_WORLD_SIZE") || !getenv("SLURM_STEP_ID"))
        return again(d, hostfile ? lks_doctor_say(d, "mpirun --hostfile %s -n %lld", hostfile,
                                                  (long long)ranks)
                                 : lks_doctor_say(d, "mpirun -n %lld", (long long)ranks));
    return again(d, lks_doctor_say(d, "srun --mpi=pmix -n %lld", (long long)ranks));
}

static void judge_slurm(lks_doctor *d, int64_t asked, const char *source)
{
    bool alone = d->size == 1 && !getenv("OMPI_COMM_WORLD_SIZE");
    if (asked == d->size)
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL, "%d ranks, as %s says",
                       d->size, source);
    else
        lks_doctor_row(d, NULL, alone ? LKS_DOCTOR_WARN : LKS_DOCTOR_FAIL, LKS_DOCTOR_ALL,
                       start_line(d, asked), "%d rank%s, but %s asks for %lld%s", d->size,
                       d->size == 1 ? "" : "s", source, (long long)asked,
                       alone ? ": only this machine is looked at" : "");
}

static void judge_slots(lks_doctor *d, const lks_hosts *hosts)
{
    int64_t slots = 0, lanes = (int64_t)lks_doctor_plan(d, 0, "lanes");
    for (size_t i = 0; i < hosts->count; ++i)
        slots += hosts->items[i].slots;
    int64_t wanted = lanes > 0 && lanes < slots ? lanes : slots;
    if (d->size == slots || d->size == wanted)
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL, "%d ranks, %lld slots in %s",
                       d->size, (long long)slots, hosts->source);
    else
        lks_doctor_row(d, NULL, LKS_DOCTOR_WARN, LKS_DOCTOR_ALL, start_line(d, wanted),
                       "%d rank%s, but %s has %lld slots on %zu hosts", d->size,
                       d->size == 1 ? "" : "s", hosts->source, (long long)slots, hosts->count);
}

static void world_judge(lks_doctor *d)
{
    const char *source;
    int64_t asked = slurm_tasks(&source);
    lks_hosts hosts = {0};
    if (d->options->comm_problem) {
        lks_doctor_row(d, NULL, LKS_DOCTOR_FAIL, LKS_DOCTOR_ALL, again(d, "srun --mpi=pmix"), "%s",
                       d->options->comm_problem);
        return;
    }
    if (asked) {
        judge_slurm(d, asked, source);
        return;
    }
    bool listed = lks_hosts_find(&hosts, d->options->hosts) == LKS_OK &&
                  (d->options->hosts || hosts.count > 1 || !lks_host_is_here(&hosts.items[0]));
    if (listed)
        judge_slots(d, &hosts);
    else
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
                       "%d rank%s; no scheduler and no hostfile says how many there should be",
                       d->size, d->size == 1 ? "" : "s");
    lks_hosts_release(&hosts);
}

const lks_doctor_check lks_doctor_check_world = {
    .name = "world",
    .about = "as many ranks as SLURM or the hostfile asks for, connected",
    .judge = world_judge,
};
