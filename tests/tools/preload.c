/* Preloaded into the program: counts its system calls on files below one directory, and lets
 * the k-th be its last or fail. From the environment:
 *
 *   LKS_FAULT_UNDER   the directory, absolute; without it nothing is counted
 *   LKS_FAULT_RANK    only in this rank (of OMPI_COMM_WORLD_RANK; a program alone is 0)
 *   LKS_FAULT_THREAD  main or other: only calls of the first thread, or of all others
 *   LKS_FAULT_CALLS   only calls of these names, with commas; default all
 *   LKS_FAULT_AT      k, from 1; without it the calls are only counted
 *   LKS_FAULT_TIMES   how many calls from the k-th on fail; default 1
 *   LKS_FAULT_KIND    kill     SIGKILL to this process, before the call
 *                          node     to all ranks on this host, to mpirun and to this process
 *                          short    a write does half
 *                          ENOSPC EDQUOT EIO EINTR   the call fails so
 *   LKS_FAULT_LOG     a file that gets a line "k call path" for each call counted
 */
#undef _FILE_OFFSET_BITS /* both names of each call are defined here */

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef enum fault_kind { FAULT_COUNT, FAULT_KILL, FAULT_NODE, FAULT_SHORT, FAULT_FAIL } fault_kind;

static struct {
    const char *under, *calls, *thread;
    fault_kind kind;
    int error, log;
    unsigned long at, times;
    atomic_ulong count;
} fault = {.log = -1};

/* --- Set-up ----------------------------------------------------------------------- */

static void fault_read_kind(const char *kind)
{
    static const struct {
        const char *name;
        fault_kind kind;
        int error;
    } kinds[] = {
        {"kill", FAULT_KILL, 0},        {"node", FAULT_NODE, 0},        {"short", FAULT_SHORT, 0},
        {"ENOSPC", FAULT_FAIL, ENOSPC}, {"EDQUOT", FAULT_FAIL, EDQUOT}, {"EIO", FAULT_FAIL, EIO},
        {"EINTR", FAULT_FAIL, EINTR},
    };
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; ++i) {
        if (strcmp(kinds[i].name, kind) == 0) {
            fault.kind = kinds[i].kind;
            fault.error = kinds[i].error;
            return;
        }
    }
    fprintf(stderr, "preload: unknown LKS_FAULT_KIND %s\n", kind);
    exit(EXIT_FAILURE);
}

static unsigned long fault_number(const char *name, unsigned long otherwise)
{
    const char *text = getenv(name);
    return text ? strtoul(text, NULL, 10) : otherwise;
}

__attribute__((constructor)) static void fault_open(void)
{
    const char *under = getenv("LKS_FAULT_UNDER"), *log = getenv("LKS_FAULT_LOG");
    const char *kind = getenv("LKS_FAULT_KIND");
    unsigned long rank = fault_number("OMPI_COMM_WORLD_RANK", 0);
    if (!under || fault_number("LKS_FAULT_RANK", rank) != rank)
        return;
    if (kind)
        fault_read_kind(kind);
    if (log)
        fault.log = (int)syscall(SYS_openat, AT_FDCWD, log,
                                 O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    fault.calls = getenv("LKS_FAULT_CALLS");
    fault.thread = getenv("LKS_FAULT_THREAD");
    fault.at = fault_number("LKS_FAULT_AT", 0);
    fault.times = fault_number("LKS_FAULT_TIMES", 1);
    fault.under = under;
}

/* --- Counting --------------------------------------------------------------------- */

static bool fault_watches_path(const char *path)
{
    size_t length = fault.under ? strlen(fault.under) : 0;
    return length && strncmp(path, fault.under, length) == 0 &&
           (path[length] == '/' || path[length] == '\0');
}

static bool fault_watches_call(const char *call)
{
    size_t length = strlen(call);
    for (const char *at = fault.calls; at; at = strchr(at, ',') ? strchr(at, ',') + 1 : NULL) {
        if (strncmp(at, call, length) == 0 && (at[length] == ',' || at[length] == '\0'))
            return true;
    }
    return !fault.calls;
}

static bool fault_watches_thread(void)
{
    bool first = syscall(SYS_gettid) == getpid();
    return !fault.thread || first == (strcmp(fault.thread, "main") == 0);
}

/* The path of an open file; false where it has none. */
static bool fault_path_of(int file, char path[PATH_MAX])
{
    char link[64];
    if (!fault.under)
        return false;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    path[length > 0 ? length : 0] = '\0';
    return length > 0;
}

/* As when a host goes away: every process that mpirun started here, and mpirun. */
static void fault_kill_node(void)
{
    char name[64];
    long peer;
    pid_t parent = getppid();
    snprintf(name, sizeof name, "/proc/%ld/task/%ld/children", (long)parent, (long)parent);
    FILE *children = fopen(name, "r");
    while (children && fscanf(children, "%ld", &peer) == 1) {
        if (peer != getpid())
            kill((pid_t)peer, SIGKILL);
    }
    if (getenv("OMPI_COMM_WORLD_RANK"))
        kill(parent, SIGKILL);
}

/* Counts a call. True: it is not to be done as asked. */
static bool fault_strikes(const char *call, const char *path)
{
    if (!fault_watches_path(path) || !fault_watches_call(call) || !fault_watches_thread())
        return false;
    unsigned long n = atomic_fetch_add(&fault.count, 1) + 1;
    if (fault.log >= 0) {
        char line[PATH_MAX + 64];
        int length =
            snprintf(line, sizeof line, "%lu %s %s\n", n, call, path + strlen(fault.under));
        syscall(SYS_write, fault.log, line, (size_t)length);
    }
    if (fault.at == 0 || n < fault.at || n - fault.at >= fault.times)
        return false;
    if (fault.kind == FAULT_NODE)
        fault_kill_node();
    if (fault.kind == FAULT_KILL || fault.kind == FAULT_NODE)
        kill(getpid(), SIGKILL);
    errno = fault.error;
    return fault.kind == FAULT_FAIL || fault.kind == FAULT_SHORT;
}

/* For calls that cannot be done by half. */
static bool fault_fails(const char *call, const char *path)
{
    return fault_strikes(call, path) && fault.kind == FAULT_FAIL;
}

static bool fault_fails_on(const char *call, int file)
{
    char path[PATH_MAX];
    return fault_path_of(file, path) && fault_fails(call, path);
}

/* How much of a write is done; 0: it fails. */
static size_t fault_share(const char *call, int file, size_t bytes)
{
    char path[PATH_MAX];
    if (bytes == 0 || !fault_path_of(file, path) || !fault_strikes(call, path))
        return bytes;
    return fault.kind == FAULT_SHORT ? (bytes + 1) / 2 : 0;
}

/* --- Opening ---------------------------------------------------------------------- */

static int fault_open_at(int directory, const char *path, int flags, mode_t mode)
{
    bool writes = (flags & O_ACCMODE) != O_RDONLY;
    if (fault_fails(writes ? "open" : "open-to-read", path))
        return -1;
    return (int)syscall(SYS_openat, directory, path, flags | O_LARGEFILE, mode);
}

/* The third argument, where the flags ask for one. */
#define FAULT_MODE(flags, mode)                                                                    \
    mode_t mode = 0;                                                                               \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {                                                       \
        va_list rest;                                                                              \
        va_start(rest, flags);                                                                     \
        mode = va_arg(rest, mode_t);                                                               \
        va_end(rest);                                                                              \
    }

int open(const char *path, int flags, ...)
{
    FAULT_MODE(flags, mode)
    return fault_open_at(AT_FDCWD, path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    FAULT_MODE(flags, mode)
    return fault_open_at(AT_FDCWD, path, flags, mode);
}

int openat(int directory, const char *path, int flags, ...)
{
    FAULT_MODE(flags, mode)
    return fault_open_at(directory, path, flags, mode);
}

int openat64(int directory, const char *path, int flags, ...)
{
    FAULT_MODE(flags, mode)
    return fault_open_at(directory, path, flags, mode);
}

int creat(const char *path, mode_t mode)
{
    return fault_open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

int creat64(const char *path, mode_t mode)
{
    return fault_open_at(AT_FDCWD, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
}

/* As with Linux, a file whose close fails is closed. */
int close(int file)
{
    int flags = fault.under ? fcntl(file, F_GETFL) : -1;
    bool failed = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && fault_fails_on("close", file);
    int result = (int)syscall(SYS_close, file);
    if (failed)
        errno = fault.error;
    return failed ? -1 : result;
}

/* --- Writing ---------------------------------------------------------------------- */

ssize_t write(int file, const void *data, size_t bytes)
{
    size_t share = fault_share("write", file, bytes);
    return share == 0 && bytes > 0 ? -1 : syscall(SYS_write, file, data, share);
}

static ssize_t fault_pwrite(int file, const void *data, size_t bytes, off64_t offset)
{
    size_t share = fault_share("pwrite", file, bytes);
    return share == 0 && bytes > 0 ? -1 : syscall(SYS_pwrite64, file, data, share, offset);
}

ssize_t pwrite(int file, const void *data, size_t bytes, off_t offset)
{
    return fault_pwrite(file, data, bytes, offset);
}

ssize_t pwrite64(int file, const void *data, size_t bytes, off64_t offset)
{
    return fault_pwrite(file, data, bytes, offset);
}

int fsync(int file)
{
    return fault_fails_on("fsync", file) ? -1 : (int)syscall(SYS_fsync, file);
}

int fdatasync(int file)
{
    return fault_fails_on("fdatasync", file) ? -1 : (int)syscall(SYS_fdatasync, file);
}

int ftruncate(int file, off_t length)
{
    return fault_fails_on("ftruncate", file) ? -1 : (int)syscall(SYS_ftruncate, file, length);
}

int ftruncate64(int file, off64_t length)
{
    return fault_fails_on("ftruncate", file) ? -1 : (int)syscall(SYS_ftruncate, file, length);
}

int fallocate(int file, int mode, off_t offset, off_t length)
{
    return fault_fails_on("fallocate", file)
               ? -1
               : (int)syscall(SYS_fallocate, file, mode, offset, length);
}

int fallocate64(int file, int mode, off64_t offset, off64_t length)
{
    return fault_fails_on("fallocate", file)
               ? -1
               : (int)syscall(SYS_fallocate, file, mode, offset, length);
}

/* --- Names ------------------------------------------------------------------------ */

int mkdir(const char *path, mode_t mode)
{
    return fault_fails("mkdir", path) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}

int rename(const char *from, const char *to)
{
    return fault_fails("rename", from)
               ? -1
               : (int)syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
}

int unlink(const char *path)
{
    return fault_fails("unlink", path) ? -1 : (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
}

int rmdir(const char *path)
{
    return fault_fails("rmdir", path) ? -1
                                      : (int)syscall(SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR);
}
