/* Preloaded into the program: each fsync takes LKS_SLOW_DISK_MS longer, as on a disk that is far away. */
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int fsync(int file)
{
    const char *text = getenv("LKS_SLOW_DISK_MS");
    long ms = text ? atol(text) : 0;
    struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
    while (nanosleep(&pause, &pause) != 0)
        ;
    return (int)syscall(SYS_fsync, file);
}
