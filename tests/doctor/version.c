/* Preloaded into one rank, or loaded instead of the real library: HDF5, Open MPI and NCCL of other versions; a lock that nobody
 * else sees with LKS_FREE_LOCKS. */
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

int H5get_libversion(unsigned *major, unsigned *minor, unsigned *patch);
int MPI_Get_library_version(char *version, int *length);
int ncclGetVersion(int *version);
int flock(int file, int operation);

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
