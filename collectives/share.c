/* Memory that the ranks of a node share. */
#include "collectives/comm_private.h"
#include "runtime/base/clock.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* What the node's first rank tells the others. */
typedef struct share_offer {
    int32_t status;
    char name[60];
} share_offer;

/* Free is what was free before `file`, which is -1 when there is none yet. */
static lks_status share_no_room(const lks_comm *comm, int file, size_t bytes)
{
    struct statvfs disk;
    struct stat made;
    char has[32], needs[32];
    uint64_t free_bytes = statvfs("/dev/shm", &disk) == 0 ? disk.f_bavail * disk.f_frsize : 0;
    if (file >= 0 && fstat(file, &made) == 0)
        free_bytes += (uint64_t)made.st_blocks * 512;
    return LKS_FAIL(LKS_ERR_IO,
                    "/dev/shm of %s has %s free, %s needed: mount a larger one or set "
                    "collectives.link=mpi",
                    lks_comm_host(comm, comm->rank), lks_text_bytes(has, sizeof has, free_bytes),
                    lks_text_bytes(needs, sizeof needs, bytes));
}

static lks_status share_check_room(const lks_comm *comm, size_t bytes)
{
    struct statvfs disk;
    if (statvfs("/dev/shm", &disk) == 0 && disk.f_blocks > 0 &&
        bytes / disk.f_frsize >= disk.f_bavail)
        return share_no_room(comm, -1, bytes);
    return LKS_OK;
}

/* This rank's part of the pages, at once for all: a full /dev/shm is an error now instead of
 * SIGBUS later, and the kernel's zeroing is shared out. */
static lks_status share_reserve(const lks_comm *comm, int file, size_t bytes)
{
    size_t page = 4096, pages = (bytes + page - 1) / page, count = (size_t)comm->local_size;
    size_t first = pages * (size_t)comm->local_rank / count * page;
    size_t end = pages * ((size_t)comm->local_rank + 1) / count * page;
    int code = 0;
    while (end > first &&
           (code = posix_fallocate(file, (off_t)first, (off_t)(end - first))) == EINTR)
        ;
    if (code == ENOSPC)
        return share_no_room(comm, file, bytes);
    if (code != 0)
        return LKS_FAIL(LKS_ERR_IO,
                        "/dev/shm of %s: reserving %zu bytes: %s; set "
                        "collectives.link=mpi to do without",
                        lks_comm_host(comm, comm->rank), bytes, strerror(code));
    return LKS_OK;
}

static lks_status share_create(const lks_comm *comm, size_t bytes, share_offer *offer, int *file)
{
    uint64_t random = 0;
    LKS_TRY(share_check_room(comm, bytes));
    if (getrandom(&random, sizeof random, GRND_NONBLOCK) != (ssize_t)sizeof random)
        random = (uintptr_t)offer;
    snprintf(offer->name, sizeof offer->name, "/lockstep-%ld-%llx-%llx", (long)getpid(),
             (unsigned long long)lks_clock_ns(), (unsigned long long)random);
    *file = shm_open(offer->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (*file < 0)
        return LKS_FAIL(LKS_ERR_IO,
                        "/dev/shm of %s: creating %s: %s; set collectives.link=mpi to "
                        "do without",
                        lks_comm_host(comm, comm->rank), offer->name, strerror(errno));
    return LKS_OK;
}

static lks_status share_join(const lks_comm *comm, const share_offer *offer, int *file)
{
    *file = shm_open(offer->name, O_RDWR | O_CLOEXEC, 0);
    if (*file < 0)
        return LKS_FAIL(LKS_ERR_IO,
                        "/dev/shm of %s: opening %s of rank %d: %s; do the ranks run "
                        "in containers of their own? set collectives.link=mpi",
                        lks_comm_host(comm, comm->rank), offer->name, comm->local_ranks[0],
                        strerror(errno));
    return LKS_OK;
}

static lks_status share_map(const lks_comm *comm, int file, size_t bytes, void **out)
{
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    if (memory == MAP_FAILED)
        return LKS_FAIL(LKS_ERR_IO, "mapping %zu bytes of /dev/shm on %s: %s", bytes,
                        lks_comm_host(comm, comm->rank), strerror(errno));
    (void)madvise(memory, bytes, MADV_HUGEPAGE); /* a hint: many kernels have it off for shmem */
    *out = memory;
    return LKS_OK;
}

static lks_status share_exchange(lks_comm *comm, bool sending, int peer, void *data, size_t bytes)
{
    lks_comm_request *request = NULL;
    LKS_TRY(sending ? lks_comm_send(comm, peer, LKS_TAG_SHARE, data, bytes, &request)
                    : lks_comm_receive(comm, peer, LKS_TAG_SHARE, data, bytes, &request));
    return lks_comm_wait(comm, &request, NULL);
}

/* As lks_comm_agree, among the ranks of this node. */
static lks_status share_agree(lks_comm *comm, lks_status mine)
{
    struct {
        int32_t status, rank;
    } vote = {(int32_t)mine, comm->rank}, worst = vote;
    int first = comm->local_ranks[0];
    if (comm->local_rank > 0) {
        LKS_TRY(share_exchange(comm, true, first, &vote, sizeof vote));
        LKS_TRY(share_exchange(comm, false, first, &worst, sizeof worst));
    } else {
        for (int i = 1; i < comm->local_size; ++i) {
            LKS_TRY(share_exchange(comm, false, comm->local_ranks[i], &vote, sizeof vote));
            if (worst.status == LKS_OK)
                worst = vote;
        }
        for (int i = 1; i < comm->local_size; ++i)
            LKS_TRY(share_exchange(comm, true, comm->local_ranks[i], &worst, sizeof worst));
    }
    if (worst.status != LKS_OK && worst.rank != comm->rank)
        lks_status_set_message("");
    return (lks_status)worst.status;
}

static lks_status share_tell(lks_comm *comm, share_offer *offer)
{
    for (int i = 1; i < comm->local_size; ++i)
        LKS_TRY(share_exchange(comm, true, comm->local_ranks[i], offer, sizeof *offer));
    return LKS_OK;
}

/* The node's first rank makes a file; its name is gone once all have it open. */
static lks_status share_lead(lks_comm *comm, size_t bytes, int *file)
{
    share_offer offer = {0};
    lks_status created = share_create(comm, bytes, &offer, file);
    offer.status = (int32_t)created;
    lks_status status = share_tell(comm, &offer);
    if (status == LKS_OK)
        status = share_agree(comm, created);
    if (*file >= 0)
        (void)shm_unlink(offer.name);
    return status;
}

static lks_status share_follow(lks_comm *comm, int *file)
{
    share_offer offer = {0};
    LKS_TRY(share_exchange(comm, false, comm->local_ranks[0], &offer, sizeof offer));
    return share_agree(comm, offer.status == LKS_OK ? share_join(comm, &offer, file) : LKS_OK);
}

lks_status lks_comm_share(lks_comm *comm, size_t bytes, void **out)
{
    *out = NULL;
    if (comm->local_size == 1)
        return lks_memory_map(out, bytes);
    int file = -1;
    void *memory = NULL;
    lks_status status =
        comm->local_rank == 0 ? share_lead(comm, bytes, &file) : share_follow(comm, &file);
    if (status == LKS_OK)
        status = share_agree(comm, share_reserve(comm, file, bytes));
    if (status == LKS_OK)
        status = share_agree(comm, share_map(comm, file, bytes, &memory));
    if (file >= 0)
        (void)close(file);
    if (status != LKS_OK && memory)
        (void)munmap(memory, bytes);
    if (status == LKS_OK)
        *out = memory;
    return status;
}

void lks_comm_unshare(lks_comm *comm, void *memory, size_t bytes)
{
    if (!memory)
        return;
    if (comm->local_size == 1)
        lks_memory_unmap(memory, bytes);
    else
        (void)munmap(memory, bytes);
}
