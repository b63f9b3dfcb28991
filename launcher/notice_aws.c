/* EC2, IMDSv2: a token first; then 404 means no notice, 200 carries {"action", "time"}. */
#include "launcher/notice_source.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { LIMIT_SECONDS = 2 };

/* It will travel in a header. */
static bool is_token(const lks_http_answer *answer)
{
    for (size_t i = 0; i < answer->bytes; ++i)
        if (answer->body[i] <= ' ' || answer->body[i] > '~')
            return false;
    return answer->status == 200 && answer->bytes > 0 &&
           answer->bytes < sizeof((lks_notice_memory *)0)->secret;
}

static lks_status get_token(const lks_notice_question *q)
{
    lks_http_answer answer;
    const lks_http_question token = {.method = "PUT",
                                     .base = q->base,
                                     .path = "/latest/api/token",
                                     .headers = {"X-aws-ec2-metadata-token-ttl-seconds: 21600"},
                                     .limit_seconds = LIMIT_SECONDS};
    LKS_TRY(lks_http_ask(q->http, &token, &answer));
    if (!is_token(&answer))
        return lks_notice_strange(&token, &answer);
    memcpy(q->memory->secret, answer.body, answer.bytes + 1);
    return LKS_OK;
}

static lks_status read_action(const lks_http_question *question, const lks_http_answer *answer,
                              bool *found, char text[LKS_NOTICE_TEXT])
{
    json_t *json = json_loadb(answer->body, answer->bytes, 0, NULL);
    const char *action = json_string_value(json_object_get(json, "action"));
    const char *time = json_string_value(json_object_get(json, "time"));
    char what[32], when[64];
    *found = action && (!strcmp(action, "terminate") || !strcmp(action, "stop") ||
                        !strcmp(action, "hibernate"));
    if (*found) {
        lks_notice_text(what, sizeof what, action);
        lks_notice_text(when, sizeof when, time ? time : "a time it does not say");
        snprintf(text, LKS_NOTICE_TEXT, "%s at %s", what, when);
    }
    json_decref(json);
    return *found ? LKS_OK : lks_notice_strange(question, answer);
}

static lks_status ask_once(const lks_notice_question *q, lks_http_answer *answer,
                           lks_http_question *question)
{
    char header[sizeof q->memory->secret + 64];
    if (!*q->memory->secret)
        LKS_TRY(get_token(q));
    snprintf(header, sizeof header, "X-aws-ec2-metadata-token: %s", q->memory->secret);
    *question = (lks_http_question){.method = "GET",
                                    .base = q->base,
                                    .path = "/latest/meta-data/spot/instance-action",
                                    .headers = {header},
                                    .limit_seconds = LIMIT_SECONDS};
    lks_status status = lks_http_ask(q->http, question, answer);
    question->headers[0] = NULL;
    return status;
}

static lks_status aws_ask(const lks_notice_question *q, bool *found, char text[LKS_NOTICE_TEXT])
{
    lks_http_answer answer;
    lks_http_question question;
    *found = false;
    LKS_TRY(ask_once(q, &answer, &question));
    if (answer.status == 401) { /* the token has run out */
        q->memory->secret[0] = '\0';
        LKS_TRY(ask_once(q, &answer, &question));
    }
    if (answer.status == 404)
        return LKS_OK;
    if (answer.status == 200)
        return read_action(&question, &answer, found, text);
    return lks_notice_strange(&question, &answer);
}

const lks_notice_source lks_notice_aws = {"aws", "http://169.254.169.254", 120, aws_ask};
