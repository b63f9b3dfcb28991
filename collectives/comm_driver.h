/* For those who implement a comm. See comm.h for what the calls promise. */
#ifndef LKS_COLLECTIVES_COMM_DRIVER_H
#define LKS_COLLECTIVES_COMM_DRIVER_H

#include "collectives/comm.h"

typedef struct lks_comm_driver {
    const char *name;
    const char *about;
    /* True when this process was started in a way that asks for this driver. */
    bool (*wanted)(void);
    lks_status (*open)(void **instance, int *rank, int *size);
    void (*close)(void *instance);
    void (*abort)(void *instance, int status); /* does not return */
    const char *(*version)(void *instance);
    lks_status (*barrier)(void *instance);
    lks_status (*broadcast)(void *instance, int root, void *data, size_t bytes);
    lks_status (*all_gather)(void *instance, const void *mine, void *all, const size_t *counts);
    lks_status (*send)(void *instance, int to, int tag, const void *data, size_t bytes,
                       void **request);
    lks_status (*receive)(void *instance, int from, int tag, void *data, size_t bytes,
                          void **request);
    lks_status (*max_start)(void *instance, int64_t mine, void **request);
    lks_status (*test)(void *instance, void *request, bool *done, int64_t *value);
    lks_status (*progress)(void *instance);
} lks_comm_driver;

extern const lks_comm_driver *const lks_comm_drivers[]; /* NULL-terminated; written by Meson */

#endif
