/* Compute Engine: TRUE or FALSE; after the first answer the service holds the question until it changes. */
#include "launcher/notice_source.h"

#include <stdio.h>
#include <string.h>

enum { LIMIT_SECONDS = 2, HOLD_SECONDS_MAX = 60 };
#define PREEMPTED "/computeMetadata/v1/instance/preempted"

/* The whole body is the word, but for space around it. */
static bool says(const lks_http_answer *answer, const char *word)
{
    size_t at = strspn(answer->body, " \r\n"), length = strlen(word);
    const char *body = answer->body + at;
    return !strncmp(body, word, length) && !body[length + strspn(body + length, " \r\n")];
}

static lks_status gcp_ask(const lks_notice_question *q, bool *found, char text[LKS_NOTICE_TEXT])
{
    lks_http_answer answer;
    char path[sizeof PREEMPTED + LKS_HTTP_ETAG_BYTES + 80] = PREEMPTED;
    double hold = q->poll_seconds < 1 ? 1 : q->poll_seconds;
    bool holds = *q->memory->etag != '\0';
    if (hold > HOLD_SECONDS_MAX)
        hold = HOLD_SECONDS_MAX;
    if (holds)
        snprintf(path, sizeof path, PREEMPTED "?wait_for_change=true&timeout_sec=%d&last_etag=%s",
                 (int)hold, q->memory->etag);
    const lks_http_question question = {.method = "GET",
                                        .base = q->base,
                                        .path = path,
                                        .headers = {"Metadata-Flavor: Google"},
                                        .limit_seconds = LIMIT_SECONDS + (holds ? (int)hold : 0)};
    *found = false;
    q->memory->etag[0] = '\0'; /* after a failure the next question is not held */
    LKS_TRY(lks_http_ask(q->http, &question, &answer));
    *found = answer.status == 200 && says(&answer, "TRUE");
    if (answer.status != 200 || (!*found && !says(&answer, "FALSE")))
        return lks_notice_strange(&question, &answer);
    memcpy(q->memory->etag, answer.etag, sizeof answer.etag);
    snprintf(text, LKS_NOTICE_TEXT, "preempted");
    return LKS_OK;
}

const lks_notice_source lks_notice_gcp = {"gcp", "http://169.254.169.254", 30, gcp_ask};
