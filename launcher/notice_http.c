#include "launcher/notice_http.h"
#include "runtime/base/memory.h"
#include "runtime/base/text.h"

#include <curl/curl.h>
#include <stdatomic.h>
#include <string.h>
#include <strings.h>

struct lks_http {
    CURLM *multi;
    atomic_bool stopped;
    size_t bytes;
    bool too_long;
    char etag[LKS_HTTP_ETAG_BYTES];
    char body[LKS_HTTP_BODY_BYTES + 1];
};

lks_status lks_http_open(lks_http **out)
{
    lks_http *http;
    *out = NULL;
    LKS_TRY(LKS_NEW(&http));
    http->multi = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? curl_multi_init() : NULL;
    if (!http->multi) {
        lks_memory_free(http);
        return LKS_FAIL(LKS_ERR_INTERNAL, "libcurl does not start");
    }
    *out = http;
    return LKS_OK;
}

void lks_http_close(lks_http *http)
{
    if (!http)
        return;
    curl_multi_cleanup(http->multi);
    lks_memory_free(http);
}

void lks_http_stop(lks_http *http)
{
    http->stopped = true;
    curl_multi_wakeup(http->multi);
}

bool lks_http_stopped(const lks_http *http)
{
    return http->stopped;
}

static size_t take_body(char *data, size_t size, size_t count, void *user)
{
    lks_http *http = user;
    size_t bytes = size * count;
    if (bytes > LKS_HTTP_BODY_BYTES - http->bytes) {
        http->too_long = true;
        return 0;
    }
    memcpy(http->body + http->bytes, data, bytes);
    http->bytes += bytes;
    return bytes;
}

/* Keeps the etag, when it is text that a URL can carry. */
static size_t take_header(char *data, size_t size, size_t count, void *user)
{
    lks_http *http = user;
    size_t bytes = size * count, length = 0;
    if (bytes > 5 && !strncasecmp(data, "etag:", 5)) {
        for (size_t i = 5; i < bytes && length < sizeof http->etag - 1; ++i)
            if (strchr("0123456789abcdefABCDEF", data[i]) && data[i])
                http->etag[length++] = data[i];
        http->etag[length] = '\0';
    }
    return bytes;
}

static bool set_options(lks_http *http, CURL *easy, const lks_http_question *q, const char *url,
                        const struct curl_slist *headers)
{
    long limit_ms = (long)(q->limit_seconds * 1000);
    return curl_easy_setopt(easy, CURLOPT_URL, url) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, q->method) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_PROXY, "") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOPROXY, "*") == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, 1000L) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, limit_ms) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_WRITEDATA, http) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header) == CURLE_OK &&
           curl_easy_setopt(easy, CURLOPT_HEADERDATA, http) == CURLE_OK;
}

static CURLcode run(lks_http *http, CURL *easy)
{
    int running = 1, left;
    if (curl_multi_add_handle(http->multi, easy) != CURLM_OK)
        return CURLE_FAILED_INIT;
    while (running && !http->stopped) {
        if (curl_multi_perform(http->multi, &running) != CURLM_OK)
            break;
        if (running && curl_multi_poll(http->multi, NULL, 0, 1000, NULL) != CURLM_OK)
            break;
    }
    CURLMsg *message = running ? NULL : curl_multi_info_read(http->multi, &left);
    CURLcode code = message ? message->data.result : CURLE_ABORTED_BY_CALLBACK;
    curl_multi_remove_handle(http->multi, easy);
    return code;
}

static lks_status ask(lks_http *http, CURL *easy, const lks_http_question *q, const char *url,
                      struct curl_slist *headers)
{
    http->bytes = 0;
    http->too_long = false;
    http->etag[0] = '\0';
    CURLcode code = set_options(http, easy, q, url, headers) ? run(http, easy) : CURLE_FAILED_INIT;
    http->body[http->bytes] = '\0';
    if (http->too_long)
        return LKS_FAIL(LKS_ERR_IO, "%s: the answer is longer than %d bytes", url,
                        LKS_HTTP_BODY_BYTES);
    return code == CURLE_OK ? LKS_OK
                            : LKS_FAIL(LKS_ERR_IO, "%s: %s", url, curl_easy_strerror(code));
}

lks_status lks_http_ask(lks_http *http, const lks_http_question *question, lks_http_answer *answer)
{
    struct curl_slist *headers = NULL;
    lks_text url = {0};
    CURL *easy = curl_easy_init();
    bool whole = easy != NULL;
    lks_text_append(&url, "%s%s", question->base, question->path);
    for (int i = 0; i < 3 && question->headers[i] && whole; ++i) {
        struct curl_slist *longer = curl_slist_append(headers, question->headers[i]);
        whole = longer != NULL;
        headers = longer ? longer : headers;
    }
    lks_status status = whole && !url.failed
                            ? ask(http, easy, question, url.data, headers)
                            : LKS_FAIL(LKS_ERR_INTERNAL, "no memory for a question over HTTP");
    if (status == LKS_OK) {
        *answer = (lks_http_answer){.body = http->body, .bytes = http->bytes};
        memcpy(answer->etag, http->etag, sizeof answer->etag);
        curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &answer->status);
    }
    curl_slist_free_all(headers);
    curl_easy_cleanup(easy);
    lks_text_release(&url);
    return status;
}
