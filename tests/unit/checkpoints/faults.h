/* Stands between lockstep and the system calls of a save: lets the k-th fail, or be the last. */
#ifndef LKS_TESTS_CHECKPOINTS_FAULTS_H
#define LKS_TESTS_CHECKPOINTS_FAULTS_H

typedef enum fault_kind {
    FAULT_NONE,
    FAULT_FAIL,      /* with fault_set's errno */
    FAULT_KILL,      /* _exit before it is done */
    FAULT_SHORT,     /* a pwrite does half; every one from the k-th on */
    FAULT_INTERRUPT, /* a pwrite fails with EINTR, every second one from the k-th on */
} fault_kind;

enum { FAULT_STATUS = 99 }; /* of a killed process */

/* The `at`-th call from now on, counted from 1, of any kind. */
void fault_set(fault_kind kind, int at, int error);
/* Calls since fault_set. */
int fault_calls(void);
/* The name of the call that failed, NULL if none did. */
const char *fault_victim(void);

/* A disk that stands still: fsync does not return until it is let go. */
void fault_hold(void);
void fault_let_go(void);
/* Until a call is held. */
void fault_await_held(void);

#endif
