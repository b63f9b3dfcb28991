/* For those who implement a comm. See comm.h for what the calls promise.
 *
 * Every message is started here and finished by `test`; waiting, splitting and
 * agreeing are comm.h's. A world of one rank never asks for messages: a driver
 * that knows no other leaves everything from `lowest_neighbour` on NULL.
 */
#ifndef LKS_COLLECTIVES_COMM_DRIVER_H
#define LKS_COLLECTIVES_COMM_DRIVER_H

#include "collectives/comm.h"

typedef struct lks_comm_driver {
    const char *name;
    const char *about;
    /* True when this process was started in a way that asks for this driver. */
    bool (*wanted)(void);
    lks_status (*open)(void **instance, int *rank, int *size); /* (collective) */
    void (*close)(void *instance);                             /* (collective) all are here */
    void (*abort)(void *instance, int status);                 /* does not return */
    const char *(*version)(void *instance);

    /* (collective) The lowest rank that may share memory with this one. */
    lks_status (*lowest_neighbour)(void *instance, int *rank);
    size_t message_limit; /* bytes that one call below takes at most */
    /* (collective) One of these at a time is under way. */
    lks_status (*barrier)(void *instance, void **request);
    lks_status (*broadcast)(void *instance, int root, void *data, size_t bytes, void **request);
    /* The sum of counts is within message_limit; counts stays until done. */
    lks_status (*all_gather)(void *instance, const void *mine, void *all, const size_t *counts,
                             void **request);
    lks_status (*max_start)(void *instance, int64_t mine, void **request); /* many at a time */
    lks_status (*send)(void *instance, int to, int tag, const void *data, size_t bytes,
                       void **request);
    lks_status (*receive)(void *instance, int from, int tag, void *data, size_t bytes,
                          void **request);
    /* When *done the request is gone; *value is a max's result. Lets all messages move. */
    lks_status (*test)(void *instance, void *request, bool *done, int64_t *value);
    lks_status (*reserve)(void *instance, size_t requests); /* as lks_comm_reserve */
    bool (*cancel)(void *instance, void *request);          /* as lks_comm_cancel */
    lks_status (*progress)(void *instance);
} lks_comm_driver;

extern const lks_comm_driver *const lks_comm_drivers[]; /* NULL-terminated; written by Meson */

/* For tests: messages are split as if the driver took no more than this. */
void lks_comm_set_message_limit(lks_comm *comm, size_t bytes);

#endif
