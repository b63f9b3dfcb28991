#include "checkpoints/worker.h"

#include "runtime/base/memory.h"
#include "runtime/base/threads.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

typedef enum worker_state { WORKER_IDLE, WORKER_ASKED, WORKER_DONE, WORKER_LEAVING } worker_state;

struct lks_worker {
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    worker_state state;
    lks_status (*task)(void *user);
    void *user;
    lks_status status;
    char message[LKS_WORKER_MESSAGE];
};

static void *worker_run(void *user)
{
    lks_worker *worker = user;
    pthread_mutex_lock(&worker->mutex);
    while (worker->state != WORKER_LEAVING) {
        if (worker->state != WORKER_ASKED) {
            pthread_cond_wait(&worker->changed, &worker->mutex);
            continue;
        }
        pthread_mutex_unlock(&worker->mutex);
        lks_status status = worker->task(worker->user);
        pthread_mutex_lock(&worker->mutex);
        worker->status = status;
        snprintf(worker->message, sizeof worker->message, "%s",
                 status == LKS_OK ? "" : lks_status_message());
        worker->state = WORKER_DONE;
        pthread_cond_broadcast(&worker->changed);
    }
    pthread_mutex_unlock(&worker->mutex);
    return NULL;
}

lks_status lks_worker_open(lks_worker **out)
{
    lks_worker *worker;
    LKS_TRY(LKS_NEW(&worker));
    pthread_mutex_init(&worker->mutex, NULL);
    pthread_cond_init(&worker->changed, NULL);
    int error = lks_thread_start(&worker->thread, worker_run, worker);
    if (error != 0) {
        pthread_cond_destroy(&worker->changed);
        pthread_mutex_destroy(&worker->mutex);
        lks_memory_free(worker);
        return LKS_FAIL(LKS_ERR_INTERNAL, "cannot start the checkpoints' writer thread: %s",
                        strerror(error));
    }
    *out = worker;
    return LKS_OK;
}

void lks_worker_close(lks_worker *worker)
{
    if (worker == NULL)
        return;
    pthread_mutex_lock(&worker->mutex);
    while (worker->state == WORKER_ASKED)
        pthread_cond_wait(&worker->changed, &worker->mutex);
    worker->state = WORKER_LEAVING;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->mutex);
    pthread_join(worker->thread, NULL);
    pthread_cond_destroy(&worker->changed);
    pthread_mutex_destroy(&worker->mutex);
    lks_memory_free(worker);
}

void lks_worker_start(lks_worker *worker, lks_status (*task)(void *user), void *user)
{
    pthread_mutex_lock(&worker->mutex);
    worker->task = task;
    worker->user = user;
    worker->state = WORKER_ASKED;
    pthread_cond_broadcast(&worker->changed);
    pthread_mutex_unlock(&worker->mutex);
}

bool lks_worker_collect(lks_worker *worker, lks_status *status, char *message)
{
    pthread_mutex_lock(&worker->mutex);
    bool done = worker->state == WORKER_DONE;
    if (done) {
        worker->state = WORKER_IDLE;
        *status = worker->status;
        memcpy(message, worker->message, LKS_WORKER_MESSAGE);
    }
    pthread_mutex_unlock(&worker->mutex);
    return done;
}

void lks_worker_rest(lks_worker *worker)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_nsec -= 1000000000;
        ++until.tv_sec;
    }
    pthread_mutex_lock(&worker->mutex);
    if (worker->state == WORKER_ASKED)
        pthread_cond_timedwait(&worker->changed, &worker->mutex, &until);
    pthread_mutex_unlock(&worker->mutex);
}
