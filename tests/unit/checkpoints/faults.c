#include "tests/unit/checkpoints/faults.h"

#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
    fault_kind kind;
    int at, error;
    atomic_int calls;
    _Atomic(const char *) victim;
} fault;

void fault_set(fault_kind kind, int at, int error)
{
    fault.kind = kind;
    fault.at = at;
    fault.error = error;
    fault.calls = 0;
    fault.victim = NULL;
}

int fault_calls(void)
{
    return fault.calls;
}

const char *fault_victim(void)
{
    return fault.victim;
}

/* Whether this call shall fail, errno set. */
static bool strikes(const char *call)
{
    int n = ++fault.calls;
    if (n != fault.at)
        return false;
    if (fault.kind == FAULT_KILL)
        _exit(FAULT_STATUS);
    if (fault.kind != FAULT_FAIL)
        return false;
    fault.victim = call;
    errno = fault.error;
    return true;
}

ssize_t pwrite(int file, const void *data, size_t bytes, off_t offset)
{
    if (strikes("pwrite"))
        return -1;
    int n = fault.calls;
    if (fault.kind == FAULT_SHORT && n >= fault.at)
        bytes = (bytes + 1) / 2;
    if (fault.kind == FAULT_INTERRUPT && n >= fault.at && n % 2 == 0) {
        errno = EINTR;
        return -1;
    }
    return syscall(SYS_pwrite64, file, data, bytes, offset);
}

static struct {
    atomic_bool holds;
    sem_t held, go;
} disk;

void fault_hold(void)
{
    sem_init(&disk.held, 0, 0);
    sem_init(&disk.go, 0, 0);
    disk.holds = true;
}

void fault_await_held(void)
{
    while (sem_wait(&disk.held) != 0)
        ;
}

void fault_let_go(void)
{
    disk.holds = false;
    sem_post(&disk.go);
}

int fsync(int file)
{
    if (disk.holds) {
        sem_post(&disk.held);
        while (sem_wait(&disk.go) != 0)
            ;
    }
    return strikes("fsync") ? -1 : (int)syscall(SYS_fsync, file);
}

int ftruncate(int file, off_t length)
{
    return strikes("ftruncate") ? -1 : (int)syscall(SYS_ftruncate, file, length);
}

int rename(const char *from, const char *to)
{
    return strikes("rename") ? -1 : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int mkdir(const char *path, mode_t mode)
{
    return strikes("mkdir") ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int unlink(const char *path)
{
    return strikes("unlink") ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return strikes("rmdir") ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}
