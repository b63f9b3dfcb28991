/* Status codes, and the message that explains a failure.
 *
 * Every function that can fail returns an lks_status, whose value is also the
 * exit status of the program (see README.md). Whoever decides the error words
 * it, once, with LKS_FAIL; callers pass it on with LKS_TRY. The message lives
 * in thread-local storage until the thread's next LKS_FAIL.
 */
#ifndef LKS_BASE_STATUS_H
#define LKS_BASE_STATUS_H

#include <stdarg.h>

typedef enum lks_status {
    LKS_OK = 0,
    LKS_WARNED = 1,          /* done, with warnings */
    LKS_ERR_USAGE = 2,       /* command line or configuration */
    LKS_ERR_CORRUPT = 65,    /* data or checkpoint unusable */
    LKS_ERR_INTERNAL = 70,   /* a defect of lockstep, or no memory */
    LKS_ERR_IO = 74,         /* input or output failed */
    LKS_STOPPED = 75,        /* stopped by a notice, checkpoint saved */
    LKS_ERR_PEER = 76,       /* a peer was lost */
    LKS_ERR_NOT_FINITE = 77, /* NaN or infinity in the numbers */
} lks_status;

#define LKS_MUST_CHECK __attribute__((warn_unused_result))
#define LKS_PRINTF(at, first) __attribute__((format(printf, at, first)))

/* Records the message and returns `status`. A message is one line without a
 * final stop or newline: what was found, what was wanted, what to do. */
#define LKS_FAIL(status, ...) lks_status_fail((status), __FILE__, __LINE__, __VA_ARGS__)

/* Returns from the calling function when `expression` is not LKS_OK. */
#define LKS_TRY(expression)                                                                        \
    do {                                                                                           \
        lks_status lks_try_status_ = (expression);                                                 \
        if (lks_try_status_ != LKS_OK)                                                             \
            return lks_try_status_;                                                                \
    } while (0)

/* As LKS_TRY, but stores the status and jumps to the function's unwinding. */
#define LKS_TRY_GOTO(status, expression, label)                                                    \
    do {                                                                                           \
        (status) = (expression);                                                                   \
        if ((status) != LKS_OK)                                                                    \
            goto label;                                                                            \
    } while (0)

lks_status lks_status_fail(lks_status status, const char *file, int line, const char *format, ...)
    LKS_PRINTF(4, 5);

/* The calling thread's last message, "" if none. Valid until its next failure. */
const char *lks_status_message(void);

/* Where it was raised: "file.c:12", "" if none. For --verbose. */
const char *lks_status_origin(void);

/* Replaces the message: "" silences it (another rank speaks). */
void lks_status_set_message(const char *message);

/* "usage", "corrupt", ...: for logs and JSON. */
const char *lks_status_name(lks_status status);

#endif
