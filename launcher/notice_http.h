/* Small questions over HTTP to a metadata service: no proxy, no redirect, bounded in time and size. */
#ifndef LKS_LAUNCHER_NOTICE_HTTP_H
#define LKS_LAUNCHER_NOTICE_HTTP_H

#include "runtime/base/status.h"

#include <stdbool.h>
#include <stddef.h>

enum { LKS_HTTP_BODY_BYTES = 65536, LKS_HTTP_ETAG_BYTES = 128 }; /* a longer answer is a failure */

typedef struct lks_http lks_http;

lks_status lks_http_open(lks_http **out) LKS_MUST_CHECK;
void lks_http_close(lks_http *http); /* NULL is fine */
/* From any thread: ends the question under way and every later one. */
void lks_http_stop(lks_http *http);
bool lks_http_stopped(const lks_http *http);

typedef struct lks_http_question {
    const char *method;     /* "GET" */
    const char *base;       /* "http://169.254.169.254" */
    const char *path;       /* "/latest/..." */
    const char *headers[3]; /* "Metadata: true"; NULL ends */
    double limit_seconds;   /* for all of it; a connection is given one second */
} lks_http_question;

typedef struct lks_http_answer {
    long status;      /* 200 */
    const char *body; /* ends in NUL; valid until the next question */
    size_t bytes;
    char etag[LKS_HTTP_ETAG_BYTES]; /* "" when there is none */
} lks_http_answer;

/* LKS_ERR_IO: no answer. Any HTTP status is an answer. */
lks_status lks_http_ask(lks_http *http, const lks_http_question *question,
                        lks_http_answer *answer) LKS_MUST_CHECK;

#endif
