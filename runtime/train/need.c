#include "runtime/train/need.h"
#include "collectives/lane_tree.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"

/* --- Before it is allocated --------------------------------------------------------- */

/* What all ranks of this node need, at least. Copies in node memory are left out: without room there are none. */
typedef struct node_need {
    uint64_t parameters, gradients, optimizer, staging, activations;
} node_need;

/* The gradient arrays of all ranks of this node. */
static uint64_t count_gradients(const lks_job *job)
{
    uint64_t count = 0;
    int size = lks_comm_size(job->comm), lanes = job->geometry.lanes;
    for (int rank = 0; rank < size; ++rank) {
        int first, end;
        lks_lanes_of(lanes, rank, size, &first, &end);
        if (lks_comm_node_of(job->comm, rank) == lks_comm_node(job->comm))
            count += (uint64_t)lks_lane_levels(lanes, first, end);
    }
    return count;
}

static node_need plan_need(const lks_job *job, const lks_layout *layout, uint64_t activations)
{
    uint64_t ranks = (uint64_t)lks_comm_local_size(job->comm);
    uint64_t array = layout->flat_elements * sizeof(float);
    uint64_t share = array / (uint64_t)lks_comm_size(job->comm) * ranks; /* own blocks */
    uint64_t states = (uint64_t)lks_optimizer_state_count(job->experiment.optimizer);
    return (node_need){
        .parameters = array,
        .gradients = array * count_gradients(job),
        .optimizer = share * states,
        .staging = share * (1 + states) * (uint64_t)job->experiment.settings.checkpoint.buffers,
        .activations = activations * ranks,
    };
}

/* What needs most, and what makes it less. */
static uint64_t largest_need(const node_need *need, const char **what, const char **remedy)
{
    const struct {
        uint64_t bytes;
        const char *what, *remedy;
    } parts[] = {
        {need->activations, "the activations of a micro-batch",
         "lower train.micro_batch (or train.global_batch), or the sizes of model.*"},
        {need->staging, "the staging of checkpoints",
         "set checkpoint.buffers=1, or lower the sizes of model.*"},
        {need->gradients, "the gradients",
         "lower the sizes of model.*, or train.lanes to the number of ranks"},
        {need->optimizer, "the optimizer's states",
         "lower the sizes of model.*, or start ranks on more nodes"},
        {need->parameters, "the parameters", "lower the sizes of model.*"},
    };
    size_t most = 0;
    for (size_t i = 1; i < sizeof parts / sizeof *parts; ++i)
        if (parts[i].bytes > parts[most].bytes)
            most = i;
    *what = parts[most].what;
    *remedy = parts[most].remedy;
    return parts[most].bytes;
}

lks_status lks_need_check(void *user, const lks_layout *layout, uint64_t activations_bytes)
{
    const lks_job *job = user;
    char t[4][32];
    const char *what, *remedy;
    node_need need = plan_need(job, layout, activations_bytes);
    uint64_t total =
        need.parameters + need.gradients + need.optimizer + need.staging + need.activations;
    if (total <= job->memory_available)
        return LKS_OK;
    uint64_t most = largest_need(&need, &what, &remedy);
    uint64_t ranks = (uint64_t)lks_comm_local_size(job->comm);
    return LKS_FAIL(
        LKS_ERR_USAGE,
        "the job needs at least %s of memory for %s on %s, which has %s available; %s "
        "need%s %s of it: %s",
        lks_text_bytes(t[0], sizeof t[0], total), lks_text_count(t[3], sizeof t[3], ranks, "rank"),
        lks_comm_host(job->comm, lks_comm_rank(job->comm)),
        lks_text_bytes(t[1], sizeof t[1], job->memory_available), what,
        most == need.staging ? "s" : "", lks_text_bytes(t[2], sizeof t[2], most), remedy);
}

/* --- As it is ------------------------------------------------------------------------ */

/* What a rank needs, by use; in bytes. */
typedef struct memory_need {
    uint64_t optimizer, activations, validation, staging, copies, loader, links;
} memory_need;

static uint64_t need_total(const memory_need *need)
{
    return need->optimizer + need->activations + need->validation + need->staging + need->copies +
           need->loader + need->links;
}

static memory_need rank_need(const lks_job *job, const lks_reducer_stats *reducer)
{
    lks_executor_memory executor = lks_executor_get_memory(job->replica.executor);
    return (memory_need){
        .optimizer = job->state_elements * sizeof(float) *
                     (uint64_t)lks_optimizer_state_count(job->experiment.optimizer),
        .activations =
            executor.activations_bytes + executor.workspace_bytes + executor.constants_bytes,
        .validation = job->validation ? lks_evaluator_bytes(job->validation) : 0,
        .staging = lks_checkpoints_get_stats(job->checkpoints).staging_bytes,
        .copies = lks_memory_copies_get_stats(job->memory).bytes,
        .loader = job->loader ? lks_loader_bytes(job->loader) : 0,
        .links = reducer->private_bytes,
    };
}

static void log_need(const lks_job *job, const lks_reducer_stats *reducer, const memory_need *need,
                     uint64_t node_bytes)
{
    char t[11][32];
    uint64_t buffers = (uint64_t)lks_checkpoints_get_stats(job->checkpoints).buffers;
    lks_log_root(
        "memory per rank: optimizer %s, activations %s, validation %s, checkpoint staging %s (%s), "
        "copies in node memory %s, loader %s, gradients and parameters not shared %s",
        lks_text_bytes(t[0], sizeof t[0], need->optimizer),
        lks_text_bytes(t[1], sizeof t[1], need->activations),
        lks_text_bytes(t[2], sizeof t[2], need->validation),
        lks_text_bytes(t[3], sizeof t[3], need->staging),
        lks_text_count(t[9], sizeof t[9], buffers, "buffer"),
        lks_text_bytes(t[8], sizeof t[8], need->copies),
        lks_text_bytes(t[4], sizeof t[4], need->loader),
        lks_text_bytes(t[5], sizeof t[5], need->links));
    lks_log_root(
        "memory per node: %s for %s, of which parameters and gradients shared %s",
        lks_text_bytes(t[6], sizeof t[6], node_bytes),
        lks_text_count(t[10], sizeof t[10], (uint64_t)lks_comm_local_size(job->comm), "rank"),
        lks_text_bytes(t[7], sizeof t[7], reducer->shared_bytes));
}

lks_status lks_need_print(const lks_job *job)
{
    int world_size = lks_comm_size(job->comm);
    lks_reducer_stats reducer = lks_reducer_get_stats(job->reducer);
    memory_need mine = rank_need(job, &reducer), *all;
    size_t *bytes;
    LKS_TRY(LKS_NEW_ARRAY(&all, (size_t)world_size));
    LKS_TRY(LKS_NEW_ARRAY(&bytes, (size_t)world_size));
    for (int rank = 0; rank < world_size; ++rank)
        bytes[rank] = sizeof mine;
    lks_status status = lks_comm_all_gather(job->comm, &mine, all, bytes);
    uint64_t node = reducer.shared_bytes;
    for (int rank = 0; rank < world_size; ++rank)
        if (lks_comm_node_of(job->comm, rank) == lks_comm_node(job->comm))
            node += need_total(&all[rank]);
    if (status == LKS_OK)
        log_need(job, &reducer, &mine, node);
    lks_memory_free(all);
    lks_memory_free(bytes);
    return status;
}
