/* Run under mpirun: every collective at this world size, in one piece and in many. */
#include "tests/unit/collectives/ranks.h"

#include "collectives/comm_driver.h"
#include "runtime/base/memory.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static unsigned char pattern(int rank, size_t i, int salt)
{
    return (unsigned char)((size_t)(rank * 31 + salt * 17) + i * 7 + i / 251);
}

static void check_world(lks_comm *comm, int nodes)
{
    int rank = lks_comm_rank(comm), size = lks_comm_size(comm), node = rank * nodes / size;
    int local_rank = 0, local_size = 0;
    MUST(strncmp(lks_comm_about(comm), "Open MPI ", 9) == 0);
    MUST(lks_comm_node_count(comm) == nodes && lks_comm_node(comm) == node);
    for (int r = 0; r < size; ++r) {
        bool here = r * nodes / size == node;
        MUST(lks_comm_node_of(comm, r) == r * nodes / size);
        MUST((strcmp(lks_comm_host(comm, r), lks_comm_host(comm, rank)) == 0) == here);
        local_rank += here && r < rank;
        local_size += here;
    }
    MUST(lks_comm_local_rank(comm) == local_rank && lks_comm_local_size(comm) == local_size);
}

static void check_broadcast(lks_comm *comm, size_t bytes)
{
    unsigned char *data = NULL;
    MUST_OK(LKS_NEW_ARRAY(&data, bytes + 1));
    for (int root = 0; root < lks_comm_size(comm); ++root) {
        for (size_t i = 0; i < bytes; ++i)
            data[i] = root == lks_comm_rank(comm) ? pattern(root, i, 1) : 0;
        data[bytes] = 99;
        MUST_OK(lks_comm_broadcast(comm, root, data, bytes));
        for (size_t i = 0; i < bytes; ++i)
            MUST(data[i] == pattern(root, i, 1));
        MUST(data[bytes] == 99);
    }
    lks_memory_free(data);
}

/* Rank r gives r * unit bytes: rank 0 none. */
static void check_all_gather(lks_comm *comm, size_t unit, bool in_place)
{
    int rank = lks_comm_rank(comm), size = lks_comm_size(comm);
    size_t *counts = NULL, total = 0, before = 0;
    unsigned char *all = NULL, *mine = NULL;
    MUST_OK(LKS_NEW_ARRAY(&counts, (size_t)size));
    for (int r = 0; r < size; ++r) {
        counts[r] = (size_t)r * unit;
        before += r < rank ? counts[r] : 0;
        total += counts[r];
    }
    MUST_OK(LKS_NEW_ARRAY(&all, total));
    MUST_OK(LKS_NEW_ARRAY(&mine, counts[rank]));
    unsigned char *source = in_place ? all + before : mine;
    for (size_t i = 0; i < counts[rank]; ++i)
        source[i] = pattern(rank, i, 2);
    MUST_OK(lks_comm_all_gather(comm, source, all, counts));
    const unsigned char *at = all;
    for (int r = 0; r < size; ++r)
        for (size_t i = 0; i < counts[r]; ++i)
            MUST(*at++ == pattern(r, i, 2));
    lks_memory_free(counts);
    lks_memory_free(all);
    lks_memory_free(mine);
}

/* Two messages of one tag under way around the ring, in order. */
static void check_messages(lks_comm *comm, size_t bytes)
{
    int rank = lks_comm_rank(comm), size = lks_comm_size(comm);
    if (size == 1)
        return;
    int to = (rank + 1) % size, from = (rank + size - 1) % size;
    unsigned char *out[2], *in[2];
    lks_comm_request *sends[2], *receives[2];
    for (int k = 0; k < 2; ++k) {
        MUST_OK(LKS_NEW_ARRAY(&out[k], bytes));
        MUST_OK(LKS_NEW_ARRAY(&in[k], bytes));
        for (size_t i = 0; i < bytes; ++i)
            out[k][i] = pattern(rank, i, 3 + k);
        MUST_OK(lks_comm_receive(comm, from, 5, in[k], bytes, &receives[k]));
        MUST_OK(lks_comm_send(comm, to, 5, out[k], bytes, &sends[k]));
    }
    for (int k = 1; k >= 0; --k) {
        MUST_OK(lks_comm_wait(comm, &receives[k], NULL));
        MUST_OK(lks_comm_wait(comm, &sends[k], NULL));
        MUST(!receives[k] && !sends[k]);
    }
    for (int k = 0; k < 2; ++k) {
        for (size_t i = 0; i < bytes; ++i)
            MUST(in[k][i] == pattern(from, i, 3 + k));
        lks_memory_free(out[k]);
        lks_memory_free(in[k]);
    }
}

static void check_peers(lks_comm *comm)
{
    lks_comm_request *request = NULL;
    int rank = lks_comm_rank(comm), size = lks_comm_size(comm);
    char byte = 0;
    MUST(lks_comm_send(comm, rank, 0, &byte, 1, &request) == LKS_ERR_INTERNAL);
    MUST(lks_comm_receive(comm, size, 0, &byte, 1, &request) == LKS_ERR_INTERNAL);
    if (size > 1) {
        int other = (rank + 1) % size;
        MUST(lks_comm_send(comm, other, LKS_TAG_END, &byte, 1, &request) == LKS_ERR_INTERNAL);
        MUST_OK(lks_comm_receive(comm, other, LKS_TAG_END - 1, &byte, 1, &request));
        MUST(lks_comm_cancel(comm, &request) && !request);
    }
}

static void check_agree(lks_comm *comm)
{
    int rank = lks_comm_rank(comm), size = lks_comm_size(comm);
    MUST_OK(lks_comm_agree(comm, LKS_OK));
    for (int failing = 0; failing < size; ++failing) {
        lks_status mine = LKS_OK;
        if (rank == failing)
            mine = LKS_FAIL(LKS_ERR_CORRUPT, "rank %d has it", rank);
        else if (rank == failing + 1)
            mine = LKS_FAIL(LKS_ERR_NOT_FINITE, "so has rank %d", rank);
        MUST(lks_comm_agree(comm, mine) == LKS_ERR_CORRUPT);
        char wanted[32] = "";
        if (rank == failing)
            snprintf(wanted, sizeof wanted, "rank %d has it", rank);
        MUST(strcmp(lks_status_message(), wanted) == 0);
    }
}

static lks_status root_work(void *user)
{
    int *calls = user;
    return ++*calls == 2 ? LKS_FAIL(LKS_ERR_IO, "second call") : LKS_OK;
}

static void check_on_root(lks_comm *comm)
{
    int calls = 0, wanted = lks_comm_rank(comm) == 0 ? 2 : 0;
    MUST_OK(lks_comm_on_root(comm, root_work, &calls));
    MUST(lks_comm_on_root(comm, root_work, &calls) == LKS_ERR_IO);
    MUST(calls == wanted);
    MUST((strcmp(lks_status_message(), "second call") == 0) == (lks_comm_rank(comm) == 0));
}

/* Three at once, while another collective passes them by. */
static void check_max(lks_comm *comm)
{
    int rank = lks_comm_rank(comm), size = lks_comm_size(comm);
    lks_comm_request *requests[3];
    for (int k = 0; k < 3; ++k)
        MUST_OK(lks_comm_max_start(comm, (int64_t)(rank * (k - 1)) - k, &requests[k]));
    MUST_OK(lks_comm_barrier(comm));
    for (int k = 2; k >= 0; --k) {
        int64_t max = -99, wanted = k == 2 ? size - 1 - 2 : -k;
        bool done = false;
        for (unsigned spins = 0; !done; ++spins) {
            MUST_OK(lks_comm_test(comm, &requests[k], &done, &max));
            MUST_OK(lks_comm_progress(comm));
            lks_comm_relax(comm, spins);
        }
        MUST(max == wanted && !requests[k]);
    }
}

/* Nothing in /dev/shm bears this process's number. */
static bool no_name_left(void)
{
    char prefix[64];
    snprintf(prefix, sizeof prefix, "lockstep-%ld-", (long)getpid());
    DIR *directory = opendir("/dev/shm");
    bool none = directory != NULL;
    for (struct dirent *entry; directory && (entry = readdir(directory));)
        none = none && strncmp(entry->d_name, prefix, strlen(prefix)) != 0;
    if (directory)
        closedir(directory);
    return none;
}

static void check_share(lks_comm *comm)
{
    int rank = lks_comm_local_rank(comm), size = lks_comm_local_size(comm);
    size_t bytes = 300001;
    unsigned char *memory = NULL;
    MUST_OK(lks_comm_share(comm, bytes, (void **)&memory));
    MUST(no_name_left());
    for (size_t i = (size_t)rank; i < bytes; i += (size_t)size) {
        MUST(memory[i] == 0);
        memory[i] = pattern(rank, i, 6);
    }
    MUST_OK(lks_comm_barrier(comm));
    for (size_t i = 0; i < bytes; ++i)
        MUST(memory[i] == pattern((int)(i % (size_t)size), i, 6));
    MUST_OK(lks_comm_barrier(comm));
    lks_comm_unshare(comm, memory, bytes);
}

static void check_share_without_room(lks_comm *comm)
{
    if (lks_comm_local_size(comm) == 1)
        return; /* takes ordinary memory */
    void *memory = &memory;
    MUST(lks_comm_share(comm, (size_t)1 << 50, &memory) == LKS_ERR_IO);
    MUST(memory == NULL && no_name_left());
    bool speaks = lks_comm_local_rank(comm) == 0;
    MUST((strstr(lks_status_message(), "1 PiB needed") != NULL) == speaks);
    MUST((strstr(lks_status_message(), "collectives.link=mpi") != NULL) == speaks);
}

static void check_all(lks_comm *comm)
{
    static const size_t sizes[] = {0, 1, 999, 1000, 1001, 70000};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; ++i) {
        check_broadcast(comm, sizes[i]);
        check_all_gather(comm, sizes[i], false);
        check_all_gather(comm, sizes[i], true);
        check_messages(comm, sizes[i]);
    }
    check_agree(comm);
    check_on_root(comm);
    check_max(comm);
}

/* Once warm, messages take their memory from a free list. */
static void check_no_allocation(lks_comm *comm)
{
    int rank = lks_comm_rank(comm), size = lks_comm_size(comm);
    char in[64], out[64] = "";
    uint64_t before = 0;
    for (int round = 0; round < 20; ++round) {
        if (round == 2)
            before = lks_memory_allocation_count();
        MUST_OK(lks_comm_agree(comm, LKS_OK));
        MUST_OK(lks_comm_barrier(comm));
        if (size == 1)
            continue;
        lks_comm_request *send = NULL, *receive = NULL;
        MUST_OK(lks_comm_receive(comm, (rank + size - 1) % size, 0, in, sizeof in, &receive));
        MUST_OK(lks_comm_send(comm, (rank + 1) % size, 0, out, sizeof out, &send));
        MUST_OK(lks_comm_wait(comm, &receive, NULL));
        MUST_OK(lks_comm_wait(comm, &send, NULL));
    }
    MUST(lks_memory_allocation_count() == before);
}

/* test_comm [NODES] */
int main(int argc, char **argv)
{
    lks_comm *comm = NULL;
    lks_status status = lks_comm_open(&comm, "auto");
    if (status != LKS_OK) {
        lks_log_failure(status);
        return (int)status;
    }
    check_world(comm, argc > 1 ? atoi(argv[1]) : 1);
    check_all(comm);
    check_peers(comm);
    check_share(comm);
    check_share_without_room(comm);
    check_no_allocation(comm);
    lks_comm_set_message_limit(comm, 1000);
    check_all(comm);
    check_share(comm);
    lks_comm_close(comm);
    return 0;
}
