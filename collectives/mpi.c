/* Ranks that mpirun or srun started. */
#include "collectives/comm_driver.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"

#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct mpi_request {
    MPI_Request handle;
    const char *doing; /* for the message when it fails */
    int64_t mine, max;
    bool is_max;
    struct mpi_request *next_free, *next;
} mpi_request;

typedef struct mpi_comm {
    MPI_Comm comm;
    int rank, size;
    bool must_finalize;
    int *counts, *displacements; /* [size], of the all-gather under way */
    mpi_request *free_requests, *all_requests;
    char version[64];
} mpi_comm;

static lks_status mpi_fail(int code, const char *doing)
{
    char text[MPI_MAX_ERROR_STRING] = "unknown error";
    int length = 0;
    MPI_Error_string(code, text, &length);
    return LKS_FAIL(LKS_ERR_PEER, "MPI failed in %s: %s; see which host or rank went away first",
                    doing, text);
}

#define MPI_TRY(call, doing)                                                                       \
    do {                                                                                           \
        int mpi_try_code_ = (call);                                                                \
        if (mpi_try_code_ != MPI_SUCCESS)                                                          \
            return mpi_fail(mpi_try_code_, (doing));                                               \
    } while (0)

/* Tasks of the job step when srun itself started this process, else 0. mpirun's daemons are
 * started by srun too, and hand its variables on. */
static int64_t mpi_srun_tasks(void)
{
    const char *text = getenv("SLURM_STEP_NUM_TASKS");
    int64_t tasks = 0;
    if (getenv("OMPI_COMM_WORLD_SIZE") || !getenv("SLURM_PROCID") || !text)
        return 0;
    return lks_text_parse_integer(text, &tasks) ? tasks : 0;
}

static bool mpi_wanted(void)
{
    return getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK") || getenv("PMI_RANK") ||
           mpi_srun_tasks() > 1;
}

/* Each of the strangers would say the same: only SLURM's first task does. */
static lks_status mpi_refuse_strangers(int64_t tasks)
{
    lks_status status =
        LKS_FAIL(LKS_ERR_USAGE,
                 "srun started %lld tasks, but MPI does not connect them: each would train alone; "
                 "start with srun --mpi=pmix, or with mpirun",
                 (long long)tasks);
    if (strcmp(getenv("SLURM_PROCID"), "0") != 0)
        lks_status_set_message("");
    return status;
}

/* "Open MPI v4.1.4, package: Debian ..." becomes "Open MPI 4.1.4". */
static void mpi_read_version(mpi_comm *mpi)
{
    char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
    int length = 0, major = 0, minor = 0, patch = 0;
    MPI_Get_library_version(text, &length);
    if (sscanf(text, "Open MPI v%d.%d.%d", &major, &minor, &patch) == 3)
        snprintf(mpi->version, sizeof mpi->version, "Open MPI %d.%d.%d", major, minor, patch);
    else
        snprintf(mpi->version, sizeof mpi->version, "%.*s", (int)strcspn(text, ",\n"), text);
}

static lks_status mpi_start(mpi_comm *mpi)
{
    int started = 0, threads = 0;
    MPI_TRY(MPI_Initialized(&started), "starting");
    if (!started) {
        MPI_TRY(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &threads), "starting");
        mpi->must_finalize = true;
    }
    MPI_TRY(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "starting");
    MPI_TRY(MPI_Comm_dup(MPI_COMM_WORLD, &mpi->comm), "starting");
    MPI_TRY(MPI_Comm_set_errhandler(mpi->comm, MPI_ERRORS_RETURN), "starting");
    MPI_TRY(MPI_Comm_rank(mpi->comm, &mpi->rank), "starting");
    MPI_TRY(MPI_Comm_size(mpi->comm, &mpi->size), "starting");
    return LKS_OK;
}

static lks_status mpi_open(void **instance, int *rank, int *size)
{
    int64_t tasks = mpi_srun_tasks();
    if (tasks > 1 && !getenv("PMIX_RANK") && !getenv("PMI_RANK"))
        return mpi_refuse_strangers(tasks);
    mpi_comm *mpi = NULL;
    LKS_TRY(LKS_NEW(&mpi));
    *instance = mpi;
    mpi->comm = MPI_COMM_NULL;
    LKS_TRY(mpi_start(mpi));
    if (tasks > 1 && mpi->size == 1)
        return mpi_refuse_strangers(tasks);
    LKS_TRY(LKS_NEW_ARRAY(&mpi->counts, (size_t)mpi->size));
    LKS_TRY(LKS_NEW_ARRAY(&mpi->displacements, (size_t)mpi->size));
    mpi_read_version(mpi);
    *rank = mpi->rank;
    *size = mpi->size;
    return LKS_OK;
}

static void mpi_close(void *instance)
{
    mpi_comm *mpi = instance;
    if (mpi->comm != MPI_COMM_NULL)
        MPI_Comm_free(&mpi->comm);
    if (mpi->must_finalize)
        MPI_Finalize();
    while (mpi->all_requests) {
        mpi_request *request = mpi->all_requests;
        mpi->all_requests = request->next;
        lks_memory_free(request);
    }
    lks_memory_free(mpi->counts);
    lks_memory_free(mpi->displacements);
    lks_memory_free(mpi);
}

static void mpi_abort(void *instance, int status)
{
    mpi_comm *mpi = instance;
    MPI_Abort(mpi->comm, status);
    _exit(status);
}

static const char *mpi_version(void *instance)
{
    return ((mpi_comm *)instance)->version;
}

static lks_status mpi_lowest_neighbour(void *instance, int *rank)
{
    mpi_comm *mpi = instance;
    MPI_Comm node = MPI_COMM_NULL;
    static const char doing[] = "finding the ranks of a node";
    MPI_TRY(MPI_Comm_split_type(mpi->comm, MPI_COMM_TYPE_SHARED, mpi->rank, MPI_INFO_NULL, &node),
            doing);
    int code = MPI_Allreduce(&mpi->rank, rank, 1, MPI_INT, MPI_MIN, node);
    MPI_Comm_free(&node);
    MPI_TRY(code, doing);
    return LKS_OK;
}

static lks_status mpi_new(mpi_comm *mpi, mpi_request **out)
{
    LKS_TRY(LKS_NEW(out));
    (*out)->next = mpi->all_requests;
    mpi->all_requests = *out;
    return LKS_OK;
}

static void mpi_give(mpi_comm *mpi, mpi_request *request)
{
    request->next_free = mpi->free_requests;
    mpi->free_requests = request;
}

static lks_status mpi_take(mpi_comm *mpi, const char *doing, void **out)
{
    mpi_request *request = mpi->free_requests;
    if (request)
        mpi->free_requests = request->next_free;
    else
        LKS_TRY(mpi_new(mpi, &request));
    request->doing = doing;
    request->is_max = false;
    request->handle = MPI_REQUEST_NULL;
    *out = request;
    return LKS_OK;
}

static lks_status mpi_reserve(void *instance, size_t requests)
{
    mpi_comm *mpi = instance;
    for (size_t i = 0; i < requests; ++i) {
        mpi_request *request = NULL;
        LKS_TRY(mpi_new(mpi, &request));
        mpi_give(mpi, request);
    }
    return LKS_OK;
}

static lks_status mpi_barrier(void *instance, void **out)
{
    mpi_comm *mpi = instance;
    LKS_TRY(mpi_take(mpi, "a barrier", out));
    mpi_request *request = *out;
    MPI_TRY(MPI_Ibarrier(mpi->comm, &request->handle), request->doing);
    return LKS_OK;
}

static lks_status mpi_broadcast(void *instance, int root, void *data, size_t bytes, void **out)
{
    mpi_comm *mpi = instance;
    LKS_TRY(mpi_take(mpi, "a broadcast", out));
    mpi_request *request = *out;
    MPI_TRY(MPI_Ibcast(data, (int)bytes, MPI_BYTE, root, mpi->comm, &request->handle),
            request->doing);
    return LKS_OK;
}

static lks_status mpi_all_gather(void *instance, const void *mine, void *all, const size_t *counts,
                                 void **out)
{
    mpi_comm *mpi = instance;
    LKS_TRY(mpi_take(mpi, "an all-gather", out));
    mpi_request *request = *out;
    int at = 0;
    for (int r = 0; r < mpi->size; ++r) {
        mpi->counts[r] = (int)counts[r];
        mpi->displacements[r] = at;
        at += mpi->counts[r];
    }
    const char *place = (const char *)all + mpi->displacements[mpi->rank];
    const void *source = mine == place ? MPI_IN_PLACE : mine;
    MPI_TRY(MPI_Iallgatherv(source, mpi->counts[mpi->rank], MPI_BYTE, all, mpi->counts,
                            mpi->displacements, MPI_BYTE, mpi->comm, &request->handle),
            request->doing);
    return LKS_OK;
}

static lks_status mpi_max_start(void *instance, int64_t mine, void **out)
{
    mpi_comm *mpi = instance;
    LKS_TRY(mpi_take(mpi, "an agreement", out));
    mpi_request *request = *out;
    request->is_max = true;
    request->mine = mine;
    MPI_TRY(MPI_Iallreduce(&request->mine, &request->max, 1, MPI_INT64_T, MPI_MAX, mpi->comm,
                           &request->handle),
            request->doing);
    return LKS_OK;
}

static lks_status mpi_send(void *instance, int to, int tag, const void *data, size_t bytes,
                           void **out)
{
    mpi_comm *mpi = instance;
    LKS_TRY(mpi_take(mpi, "a send", out));
    mpi_request *request = *out;
    MPI_TRY(MPI_Isend(data, (int)bytes, MPI_BYTE, to, tag, mpi->comm, &request->handle),
            request->doing);
    return LKS_OK;
}

static lks_status mpi_receive(void *instance, int from, int tag, void *data, size_t bytes,
                              void **out)
{
    mpi_comm *mpi = instance;
    LKS_TRY(mpi_take(mpi, "a receive", out));
    mpi_request *request = *out;
    MPI_TRY(MPI_Irecv(data, (int)bytes, MPI_BYTE, from, tag, mpi->comm, &request->handle),
            request->doing);
    return LKS_OK;
}

static lks_status mpi_test(void *instance, void *handle, bool *done, int64_t *value)
{
    mpi_request *request = handle;
    int flag = 0;
    MPI_TRY(MPI_Test(&request->handle, &flag, MPI_STATUS_IGNORE), request->doing);
    *done = flag != 0;
    if (!flag)
        return LKS_OK;
    if (request->is_max)
        *value = request->max;
    mpi_give(instance, request);
    return LKS_OK;
}

/* A cancelled send may still be read by its receiver: only receives can be given up for sure. */
static bool mpi_cancel(void *instance, void *handle)
{
    mpi_request *request = handle;
    int cancelled = 0, flag = 0;
    MPI_Status status;
    if (request->handle == MPI_REQUEST_NULL || MPI_Cancel(&request->handle) != MPI_SUCCESS ||
        MPI_Test(&request->handle, &flag, &status) != MPI_SUCCESS || !flag)
        return false;
    (void)MPI_Test_cancelled(&status, &cancelled);
    mpi_give(instance, request);
    return true;
}

static lks_status mpi_progress(void *instance)
{
    mpi_comm *mpi = instance;
    int flag = 0;
    MPI_TRY(MPI_Iprobe(MPI_ANY_SOURCE, MPI_ANY_TAG, mpi->comm, &flag, MPI_STATUS_IGNORE),
            "letting messages move");
    return LKS_OK;
}

const lks_comm_driver lks_mpi_comm = {
    .name = "mpi",
    .about = "ranks started by mpirun or srun",
    .wanted = mpi_wanted,
    .open = mpi_open,
    .close = mpi_close,
    .abort = mpi_abort,
    .version = mpi_version,
    .lowest_neighbour = mpi_lowest_neighbour,
    .message_limit = (size_t)1 << 30,
    .barrier = mpi_barrier,
    .broadcast = mpi_broadcast,
    .all_gather = mpi_all_gather,
    .max_start = mpi_max_start,
    .send = mpi_send,
    .receive = mpi_receive,
    .test = mpi_test,
    .reserve = mpi_reserve,
    .cancel = mpi_cancel,
    .progress = mpi_progress,
};
