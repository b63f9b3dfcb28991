/* Whether every rank has a core to itself. */
#include "launcher/doctor/check.h"
#include "launcher/doctor/host.h"

#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static lks_status cores_look(lks_doctor *d, json_t *facts)
{
    cpu_set_t set;
    json_t *cpus = json_array();
    (void)d;
    json_object_set_new(facts, "cpus", cpus);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        for (int i = 0; i < CPU_SETSIZE; ++i)
            if (CPU_ISSET(i, &set))
                json_array_append_new(cpus, json_integer(i));
    json_object_set_new(facts, "cores", json_integer(sysconf(_SC_NPROCESSORS_ONLN)));
    if (isfinite(lks_host_group_cores()))
        json_object_set_new(facts, "group", json_real(lks_host_group_cores()));
    const char *yields = getenv("OMPI_MCA_mpi_yield_when_idle");
    json_object_set_new(facts, "yields", json_boolean(yields && strcmp(yields, "0") != 0));
    static const char *const lists[] = {"OMPI_MCA_hwloc_base_cpu_list",
                                        "OMPI_MCA_hwloc_base_cpu_set"};
    for (int i = 0; i < 2; ++i)
        if (getenv(lists[i]))
            json_object_set_new(facts, "list", json_string(lists[i]));
    return LKS_OK;
}

typedef struct host_cores {
    const lks_doctor *d;
    int node;
    int taken[CPU_SETSIZE]; /* by which rank, -1: nobody */
    bool visited[CPU_SETSIZE];
} host_cores;

/* Gives `rank` a core of its own, moving others to where they may go, too. */
static bool place(host_cores *h, int rank)
{
    const json_t *cpus = json_object_get(lks_doctor_facts(h->d, "cores", rank), "cpus");
    json_t *value;
    size_t i;
    json_array_foreach(cpus, i, value)
    {
        int cpu = (int)json_integer_value(value);
        if (h->visited[cpu])
            continue;
        h->visited[cpu] = true;
        if (h->taken[cpu] < 0 || place(h, h->taken[cpu])) {
            h->taken[cpu] = rank;
            return true;
        }
    }
    return false;
}

/* How many ranks of a host can have a core each; *ranks: how many there are. */
static int placed(const lks_doctor *d, int node, int *ranks)
{
    host_cores *h = NULL;
    int count = 0;
    *ranks = 0;
    if (LKS_NEW(&h) != LKS_OK)
        return 0;
    *h = (host_cores){.d = d, .node = node};
    for (int i = 0; i < CPU_SETSIZE; ++i)
        h->taken[i] = -1;
    for (int r = 0; r < d->size; ++r) {
        if (lks_comm_node_of(d->comm, r) != node)
            continue;
        memset(h->visited, 0, sizeof h->visited);
        ++*ranks;
        count += place(h, r);
    }
    lks_memory_free(h);
    return count;
}

/* As many as the host has and the control group allows. */
static int capacity(const lks_doctor *d, int rank)
{
    double cores = lks_doctor_number(d, rank, "cores"), group = lks_doctor_number(d, rank, "group");
    if (isfinite(group) && group < cores)
        cores = group < 1 ? 1 : floor(group);
    return (int)cores;
}

static void row_per_host(lks_doctor *d, int first, lks_severity severity, const char *mend,
                         const char *found)
{
    for (int r = first; r < d->size; ++r)
        if (lks_comm_node_of(d->comm, r) == lks_comm_node_of(d->comm, first))
            lks_doctor_row(d, NULL, severity, r, mend, "%s", found);
}

static void judge_crowd(lks_doctor *d, int first, int ranks, int total)
{
    int cores = capacity(d, first);
    bool yields = lks_doctor_number(d, first, "yields") == 1;
    const char *group = lks_doctor_has(d, first, "group") ? " that the control group allows" : "";
    row_per_host(d, first, LKS_DOCTOR_WARN,
                 yields ? lks_doctor_say(d, "mpirun -n %d", total)
                        : "export OMPI_MCA_mpi_yield_when_idle=1 "
                          "OMPI_MCA_hwloc_base_binding_policy=none",
                 lks_doctor_say(d, "%d ranks on %d core%s%s%s", ranks, cores, cores == 1 ? "" : "s",
                                group,
                                yields ? ": a rank is one core, so each step takes longer"
                                       : ", and waiting ranks do not give theirs away"));
}

static void judge_binding(lks_doctor *d, int first, int ranks, int count)
{
    const char *list = lks_doctor_text(d, first, "list");
    row_per_host(d, first, LKS_DOCTOR_WARN,
                 *list ? lks_doctor_say(d, "unset %s", list)
                       : "export OMPI_MCA_hwloc_base_binding_policy=core "
                         "OMPI_MCA_rmaps_base_mapping_policy=core",
                 lks_doctor_say(d, "%d ranks are bound to %d core%s, of %d that are there", ranks,
                                count, count == 1 ? "" : "s", capacity(d, first)));
}

static void cores_judge(lks_doctor *d)
{
    int total = 0, count, ranks;
    for (int r = 0; r < d->size; ++r)
        if (lks_doctor_is_first(d, r)) {
            count = placed(d, lks_comm_node_of(d->comm, r), &ranks);
            total += ranks < capacity(d, r) ? ranks : capacity(d, r);
        }
    for (int r = 0; r < d->size; ++r) {
        if (!lks_doctor_is_first(d, r) || !lks_doctor_has(d, r, "cores"))
            continue;
        count = placed(d, lks_comm_node_of(d->comm, r), &ranks);
        if (ranks > capacity(d, r))
            judge_crowd(d, r, ranks, total);
        else if (count < ranks)
            judge_binding(d, r, ranks, count);
        else
            row_per_host(d, r, LKS_DOCTOR_OK, NULL,
                         lks_doctor_say(d, "a core for each rank, of %d", capacity(d, r)));
    }
}

const lks_doctor_check lks_doctor_check_cores = {
    .name = "cores",
    .about = "ranks that share a core: binding, more ranks than cores, limits of control groups",
    .look = cores_look,
    .judge = cores_judge,
};
