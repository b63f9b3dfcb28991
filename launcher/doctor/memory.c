/* Whether the hosts have the memory that the job will need. */
#include "launcher/doctor/check.h"
#include "launcher/doctor/gpu.h"
#include "launcher/doctor/host.h"

#include <math.h>

static lks_status memory_look(lks_doctor *d, json_t *facts)
{
    (void)d;
    json_object_set_new(facts, "available", json_real((double)lks_host_available_bytes()));
    return LKS_OK;
}

/* What lies in the device's memory; that of the host when that is one. */
static double device_rest(const lks_doctor *d, int rank)
{
    return lks_doctor_plan(d, rank, "optimizer_bytes") + lks_doctor_plan(d, rank, "private_bytes");
}

static double device_activations(const lks_doctor *d, int rank)
{
    return lks_doctor_plan(d, rank, "activations_bytes") +
           lks_doctor_plan(d, rank, "validation_bytes");
}

/* In the host's memory, without what ranks share, and without activations. */
static double rank_rest(const lks_doctor *d, int rank)
{
    double host =
        lks_doctor_plan(d, rank, "staging_bytes") + lks_doctor_plan(d, rank, "ring_bytes");
    return lks_doctor_plan(d, rank, "on_host") == 1 ? host + device_rest(d, rank) : host;
}

static double rank_activations(const lks_doctor *d, int rank)
{
    return lks_doctor_plan(d, rank, "on_host") == 1 ? device_activations(d, rank) : 0;
}

/* Activations grow with the micro-batch: `share` of what is configured. */
static double node_need(const lks_doctor *d, int first, double share)
{
    double bytes = lks_doctor_plan(d, first, "shared_bytes");
    for (int r = first; r < d->size; ++r)
        if (lks_comm_node_of(d->comm, r) == lks_comm_node_of(d->comm, first))
            bytes += rank_rest(d, r) + share * rank_activations(d, r) +
                     lks_doctor_plan(d, r, "copies_bytes");
    return bytes;
}

static double node_available(const lks_doctor *d, int first)
{
    double least = INFINITY;
    for (int r = first; r < d->size; ++r)
        if (lks_comm_node_of(d->comm, r) == lks_comm_node_of(d->comm, first))
            least = fmin(least, lks_doctor_number(d, r, "available"));
    return least;
}

/* The largest micro-batch with which every host has enough; 0: none. */
static int fitting_micro_batch(const lks_doctor *d)
{
    int micro = (int)lks_doctor_plan(d, 0, "micro_batch");
    int share = micro * (int)lks_doctor_plan(d, 0, "micro_batches");
    for (int b = micro - 1; b > 0; --b) {
        bool fits = share % b == 0;
        for (int r = 0; fits && r < d->size; ++r)
            fits = !lks_doctor_is_first(d, r) ||
                   node_need(d, r, (double)b / micro) < 0.8 * node_available(d, r);
        if (fits)
            return b;
    }
    return 0;
}

static const char *mend_line(const lks_doctor *d, int first)
{
    int micro = fitting_micro_batch(d), ranks = 0;
    if (micro)
        return lks_doctor_say(d, "--set train.micro_batch=%d", micro);
    for (int r = 0; r < d->size; ++r)
        ranks += lks_comm_node_of(d->comm, r) == lks_comm_node_of(d->comm, first);
    double each = node_need(d, first, 1) / ranks;
    int fit = (int)(0.8 * node_available(d, first) / each);
    return fit < 1 ? NULL : lks_doctor_say(d, "mpirun --map-by ppr:%d:node", fit);
}

static void judge_host(lks_doctor *d, int first)
{
    double need = node_need(d, first, 1), has = node_available(d, first);
    lks_severity severity = need > has         ? LKS_DOCTOR_FAIL
                            : need > 0.8 * has ? LKS_DOCTOR_WARN
                                               : LKS_DOCTOR_OK;
    for (int r = first; r < d->size; ++r)
        if (lks_comm_node_of(d->comm, r) == lks_comm_node_of(d->comm, first))
            lks_doctor_row(d, NULL, severity, r,
                           severity == LKS_DOCTOR_OK ? NULL : mend_line(d, first),
                           "the host's ranks need %s, %s can be had", lks_doctor_bytes(d, need),
                           lks_doctor_bytes(d, has));
}

/* What the GPU of a rank has, by the check of GPUs. */
static void judge_device(lks_doctor *d, int rank)
{
    double need = device_rest(d, rank) + device_activations(d, rank);
    double has = lks_doctor_gpu_free(d, rank);
    int micro = (int)lks_doctor_plan(d, rank, "micro_batch"), fit = micro - 1;
    int share = micro * (int)lks_doctor_plan(d, rank, "micro_batches");
    while (fit > 1 && (share % fit != 0 ||
                       device_rest(d, rank) + device_activations(d, rank) * fit / micro > has))
        --fit;
    if (lks_doctor_plan(d, rank, "on_host") == 1 || !isfinite(has))
        return;
    lks_doctor_row(d, "gpu memory", need > has ? LKS_DOCTOR_FAIL : LKS_DOCTOR_OK, rank,
                   need > has && fit > 0 ? lks_doctor_say(d, "--set train.micro_batch=%d", fit)
                                         : NULL,
                   "the rank needs %s, its GPU has %s free", lks_doctor_bytes(d, need),
                   lks_doctor_bytes(d, has));
}

static double total_of(const lks_doctor *d, int rank)
{
    return device_rest(d, rank) + device_activations(d, rank) +
           lks_doctor_plan(d, rank, "staging_bytes") + lks_doctor_plan(d, rank, "ring_bytes");
}

/* The rank that needs most. */
static void tell_rank(lks_doctor *d)
{
    int most = 0;
    for (int r = 1; r < d->size; ++r)
        if (total_of(d, r) > total_of(d, most))
            most = r;
    lks_doctor_row(
        d, "per rank", LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL,
        "%s: activations %s, optimizer %s, checkpoint staging %s, gradients and "
        "parameters %s, loader %s; per host %s shared, and %s of copies in node memory per rank",
        lks_doctor_bytes(d, total_of(d, most)), lks_doctor_bytes(d, device_activations(d, most)),
        lks_doctor_bytes(d, lks_doctor_plan(d, most, "optimizer_bytes")),
        lks_doctor_bytes(d, lks_doctor_plan(d, most, "staging_bytes")),
        lks_doctor_bytes(d, lks_doctor_plan(d, most, "private_bytes")),
        lks_doctor_bytes(d, lks_doctor_plan(d, most, "ring_bytes")),
        lks_doctor_bytes(d, lks_doctor_plan(d, most, "shared_bytes")),
        lks_doctor_bytes(d, lks_doctor_plan(d, most, "copies_bytes")));
}

static void memory_judge(lks_doctor *d)
{
    if (!lks_doctor_is_planned(d)) {
        lks_doctor_row(d, NULL, LKS_DOCTOR_OK, LKS_DOCTOR_ALL, NULL, "%s can be had on %s",
                       lks_doctor_bytes(d, node_available(d, 0)), lks_doctor_host(d, 0));
        return;
    }
    for (int r = 0; r < d->size; ++r) {
        if (lks_doctor_is_first(d, r))
            judge_host(d, r);
        judge_device(d, r);
    }
    tell_rank(d);
}

const lks_doctor_check lks_doctor_check_memory = {
    .name = "memory",
    .about = "what the job will need per rank and host, and what there is",
    .look = memory_look,
    .judge = memory_judge,
};
