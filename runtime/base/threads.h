/* Threads of lockstep's own. */
#ifndef LKS_BASE_THREADS_H
#define LKS_BASE_THREADS_H

#include <pthread.h>

/* As pthread_create, with all signals blocked in the new thread: they are the main thread's, and a write past a
 * file size limit fails with EFBIG there instead of ending the process. 0, or an errno. */
int lks_thread_start(pthread_t *thread, void *(*run)(void *user), void *user);

#endif
