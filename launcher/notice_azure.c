/* Azure: scheduled events of all machines of a set; those that name this one count. They are never
 * acknowledged: that would let the machine go before the state is saved. */
#include "launcher/notice_source.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { LIMIT_SECONDS = 2 };

static lks_status ask(const lks_notice_question *q, const char *path, lks_http_question *question,
                      lks_http_answer *answer)
{
    *question = (lks_http_question){.method = "GET",
                                    .base = q->base,
                                    .path = path,
                                    .headers = {"Metadata: true"},
                                    .limit_seconds = LIMIT_SECONDS};
    return lks_http_ask(q->http, question, answer);
}

/* The name under which events know this machine. */
static lks_status learn_name(const lks_notice_question *q)
{
    lks_http_question question;
    lks_http_answer answer;
    LKS_TRY(ask(q, "/metadata/instance/compute/name?api-version=2020-09-01&format=text", &question,
                &answer));
    if (answer.status != 200 || !answer.bytes || answer.bytes >= sizeof q->memory->secret ||
        strcspn(answer.body, "\r\n{\"") != answer.bytes)
        return lks_notice_strange(&question, &answer);
    memcpy(q->memory->secret, answer.body, answer.bytes + 1);
    return LKS_OK;
}

static bool names_me(const json_t *event, const char *name)
{
    const json_t *resources = json_object_get(event, "Resources"), *resource;
    size_t i;
    json_array_foreach(resources, i, resource)
    {
        const char *text = json_string_value(resource);
        if (text && !strcasecmp(text, name))
            return true;
    }
    return false;
}

static bool ends_me(const json_t *event, const char *name)
{
    const char *type = json_string_value(json_object_get(event, "EventType"));
    return type && (!strcmp(type, "Preempt") || !strcmp(type, "Terminate")) &&
           names_me(event, name);
}

static void describe(const json_t *event, char text[LKS_NOTICE_TEXT])
{
    char type[16], when[64];
    const char *before = json_string_value(json_object_get(event, "NotBefore"));
    lks_notice_text(type, sizeof type, json_string_value(json_object_get(event, "EventType")));
    lks_notice_text(when, sizeof when, before && *before ? before : "now");
    snprintf(text, LKS_NOTICE_TEXT, "%s, not before %s", type, when);
}

static lks_status azure_ask(const lks_notice_question *q, bool *found, char text[LKS_NOTICE_TEXT])
{
    lks_http_question question;
    lks_http_answer answer;
    json_t *event;
    size_t i;
    *found = false;
    if (!*q->memory->secret)
        LKS_TRY(learn_name(q));
    LKS_TRY(ask(q, "/metadata/scheduledevents?api-version=2020-07-01", &question, &answer));
    json_t *json = json_loadb(answer.body, answer.bytes, 0, NULL);
    const json_t *events = json_object_get(json, "Events");
    bool whole = answer.status == 200 && json_is_array(events);
    json_array_foreach(events, i, event)
    {
        if (whole && !*found && ends_me(event, q->memory->secret)) {
            *found = true;
            describe(event, text);
        }
    }
    json_decref(json);
    return whole ? LKS_OK : lks_notice_strange(&question, &answer);
}

const lks_notice_source lks_notice_azure = {"azure", "http://169.254.169.254", 30, azure_ask};
