/* Preloaded into one rank, or loaded instead of the real library: HDF5, Open MPI and NCCL of other versions; a lock that nobody
 * else sees with LKS_FREE_LOCKS; a disk that takes LKS_SYNC_MS longer for each fdatasync. */
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int H5get_libversion(unsigned *major, unsigned *minor, unsigned *patch);
int MPI_Get_library_version(char *version, int *length);
int ncclGetVersion(int *version);
int flock(int file, int operation);
int fdatasync(int file);

int H5get_libversion(unsigned *major, unsigned *minor, unsigned *patch)
{
    *major = 1;
    *minor = 8;
    *patch = getenv("LKS_OLD_HDF5") ? 4 : 10;
    return 0;
}

int MPI_Get_library_version(char *version, int *length)
{
    strcpy(version, "Open MPI v3.1.6, package: another");
    *length = (int)strlen(version);
    return 0;
}

int ncclGetVersion(int *version)
{
    *version = 21602;
    return 0;
}

int flock(int file, int operation)
{
    return getenv("LKS_FREE_LOCKS") ? 0 : (int)syscall(SYS_flock, file, operation);
}

int fdatasync(int file)
{
    const char *text = getenv("LKS_SYNC_MS");
    long ms = text ? atol(text) : 0;
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    nanosleep(&pause, NULL);
    return (int)syscall(SYS_fdatasync, file);
}
