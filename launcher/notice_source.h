/* A cloud's metadata service, as a source of notices. README.md has what each is asked. */
#ifndef LKS_LAUNCHER_NOTICE_SOURCE_H
#define LKS_LAUNCHER_NOTICE_SOURCE_H

#include "launcher/notice_http.h"

/* What a source keeps between questions. */
typedef struct lks_notice_memory {
    char secret[1024];              /* AWS: the session's token; Azure: this machine's name */
    char etag[LKS_HTTP_ETAG_BYTES]; /* GCP: of the last answer */
} lks_notice_memory;

typedef struct lks_notice_question {
    lks_http *http;
    const char *base;
    double poll_seconds;
    lks_notice_memory *memory;
} lks_notice_question;

enum { LKS_NOTICE_TEXT = 200 };

typedef struct lks_notice_source {
    const char *name, *base;
    double lead_seconds; /* from notice to end, at least */
    /* *found: this machine will be taken away; `text` says what the service said. Not LKS_OK: the question was not
     * answered, which is not the answer no. */
    lks_status (*ask)(const lks_notice_question *question, bool *found, char text[LKS_NOTICE_TEXT]);
} lks_notice_source;

extern const lks_notice_source lks_notice_aws, lks_notice_gcp, lks_notice_azure;

/* A word of an answer, fit to be logged: printable ASCII, cut. */
void lks_notice_text(char *out, size_t size, const char *text);
/* LKS_ERR_IO for an answer that is not understood. */
lks_status lks_notice_strange(const lks_http_question *question,
                              const lks_http_answer *answer) LKS_MUST_CHECK;

#endif
