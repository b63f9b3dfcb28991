/* A world of one process. */
#include "collectives/comm_driver.h"

#include <unistd.h>

static bool self_wanted(void)
{
    return true;
}

static lks_status self_open(void **instance, int *rank, int *size)
{
    *instance = NULL;
    *rank = 0;
    *size = 1;
    return LKS_OK;
}

static void self_close(void *instance)
{
    (void)instance;
}

static void self_abort(void *instance, int status)
{
    (void)instance;
    _exit(status);
}

static const char *self_version(void *instance)
{
    (void)instance;
    return "self";
}

const lks_comm_driver lks_self_comm = {
    .name = "self",
    .about = "one process, no messages",
    .wanted = self_wanted,
    .open = self_open,
    .close = self_close,
    .abort = self_abort,
    .version = self_version,
};
