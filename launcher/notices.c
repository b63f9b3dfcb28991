#include "launcher/notices.h"
#include "launcher/notice_source.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"
#include "runtime/base/memory.h"
#include "runtime/base/threads.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { FAILURES_TOLD = 3 }; /* in a row, before they are told */

/* What the thread has to say; the main thread logs it. */
typedef enum { NEWS_NOTICE = 1, NEWS_UNREACHABLE = 2, NEWS_REACHABLE = 4 } news_kind;

struct lks_notices {
    lks_notice_watch watch;
    lks_preemption settings;
    bool file_strange;    /* told */
    bool found;           /* main thread's */
    uint64_t deadline_ns; /* monotonic; 0: not known */

    const lks_notice_source *source; /* NULL: no thread */
    lks_http *http;
    pthread_t thread;
    bool running;
    atomic_int news; /* news_kind bits, raised after what they tell of is written under the lock */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    uint64_t found_ns;
    char text[LKS_NOTICE_TEXT], problem[512];
};

/* --- The thread ----------------------------------------------------------------------- */

static void tell(lks_notices *n, news_kind kind, const char *text)
{
    pthread_mutex_lock(&n->lock);
    if (kind == NEWS_NOTICE) {
        n->found_ns = lks_clock_ns();
        snprintf(n->text, sizeof n->text, "%s", text);
    } else {
        snprintf(n->problem, sizeof n->problem, "%s", text);
    }
    pthread_mutex_unlock(&n->lock);
    atomic_fetch_or(&n->news, kind);
}

/* Until `until_ns`, or the end. */
static void rest(lks_notices *n, uint64_t until_ns)
{
    struct timespec until = {.tv_sec = (time_t)(until_ns / 1000000000),
                             .tv_nsec = (long)(until_ns % 1000000000)};
    pthread_mutex_lock(&n->lock);
    while (!lks_http_stopped(n->http) && lks_clock_ns() < until_ns)
        pthread_cond_timedwait(&n->wake, &n->lock, &until);
    pthread_mutex_unlock(&n->lock);
}

static void *poll_source(void *user)
{
    lks_notices *n = user;
    lks_notice_memory memory = {0};
    const char *base = *n->settings.url ? n->settings.url : n->source->base;
    const lks_notice_question question = {n->http, base, n->settings.poll_seconds, &memory};
    char text[LKS_NOTICE_TEXT];
    bool found = false;
    for (int failures = 0; !found && !lks_http_stopped(n->http);) {
        uint64_t start_ns = lks_clock_ns();
        lks_status status = n->source->ask(&question, &found, text);
        if (lks_http_stopped(n->http))
            break;
        if (status != LKS_OK && ++failures == FAILURES_TOLD)
            tell(n, NEWS_UNREACHABLE, lks_status_message());
        if (status == LKS_OK && failures >= FAILURES_TOLD)
            tell(n, NEWS_REACHABLE, "");
        if (status == LKS_OK)
            failures = 0;
        if (found)
            tell(n, NEWS_NOTICE, text);
        else
            rest(n, start_ns + (uint64_t)(n->settings.poll_seconds * 1e9));
    }
    return NULL;
}

static lks_status start_thread(lks_notices *n)
{
    int error = lks_thread_start(&n->thread, poll_source, n);
    n->running = error == 0;
    return n->running ? LKS_OK
                      : LKS_FAIL(LKS_ERR_INTERNAL, "cannot start a thread for notices: %s",
                                 strerror(error));
}

static lks_status start(void *user, const lks_preemption *preemption)
{
    static const lks_notice_source *const sources[] = {[LKS_NOTICE_AWS] = &lks_notice_aws,
                                                       [LKS_NOTICE_GCP] = &lks_notice_gcp,
                                                       [LKS_NOTICE_AZURE] = &lks_notice_azure};
    lks_notices *n = user;
    n->settings = *preemption;
    n->source = sources[preemption->source];
    if (!n->source)
        return LKS_OK;
    if (*preemption->url && strncmp(preemption->url, "http://", 7) &&
        strncmp(preemption->url, "https://", 8))
        return LKS_FAIL(LKS_ERR_USAGE, "preemption.url is %s, want it to start with http://",
                        preemption->url);
    LKS_TRY(lks_http_open(&n->http));
    return start_thread(n);
}

/* --- The main thread -------------------------------------------------------------------- */

static void set_found(lks_notices *n, uint64_t since_ns, double lead_seconds)
{
    double grace = n->settings.grace_seconds > 0 ? n->settings.grace_seconds : lead_seconds;
    n->found = true;
    n->deadline_ns = grace > 0 ? since_ns + (uint64_t)(grace * 1e9) : 0;
}

static void check_file(lks_notices *n)
{
    struct stat info;
    const char *file = n->settings.file;
    if (!*file)
        return;
    if (!stat(file, &info)) {
        set_found(n, lks_clock_ns(), 0);
        lks_log_warn("preemption.file %s is there: this machine will be taken away", file);
    } else if (errno != ENOENT && !n->file_strange) {
        n->file_strange = true;
        lks_log_warn("preemption.file %s cannot be looked at: %s; notices may be missed", file,
                     strerror(errno));
    }
}

/* The notice may be as old as the question before. */
static void take_notice(lks_notices *n)
{
    double lead = n->source->lead_seconds - n->settings.poll_seconds;
    set_found(n, n->found_ns, lead > 1 ? lead : 1);
    lks_log_warn("notice from %s: %s: this machine will be taken away", n->source->name, n->text);
}

static void take_news(lks_notices *n)
{
    int news = atomic_exchange(&n->news, 0);
    if (!news)
        return;
    pthread_mutex_lock(&n->lock);
    if (news & NEWS_UNREACHABLE)
        lks_log_warn(
            "preemption.source %s: %d questions in a row without an answer, the last: %s; "
            "notices may be missed: look at preemption.url, or set preemption.source: none",
            n->source->name, FAILURES_TOLD, n->problem);
    if (news & NEWS_REACHABLE)
        lks_log_warn("preemption.source %s answers again", n->source->name);
    if (news & NEWS_NOTICE)
        take_notice(n);
    pthread_mutex_unlock(&n->lock);
}

static double check(void *user)
{
    lks_notices *n = user;
    if (!n->found)
        check_file(n);
    if (!n->found && n->source)
        take_news(n);
    if (!n->found)
        return 0;
    if (!n->deadline_ns)
        return (double)INFINITY;
    double left = ((double)n->deadline_ns - (double)lks_clock_ns()) * 1e-9;
    return left > 0.001 ? left : 0.001;
}

lks_status lks_notices_open(lks_notices **out)
{
    lks_notices *n;
    pthread_condattr_t monotonic;
    LKS_TRY(LKS_NEW(&n));
    n->watch = (lks_notice_watch){start, check, n};
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_mutex_init(&n->lock, NULL);
    pthread_cond_init(&n->wake, &monotonic);
    pthread_condattr_destroy(&monotonic);
    *out = n;
    return LKS_OK;
}

const lks_notice_watch *lks_notices_watch(const lks_notices *notices)
{
    return &notices->watch;
}

void lks_notices_close(lks_notices *notices)
{
    if (!notices)
        return;
    if (notices->running) {
        pthread_mutex_lock(&notices->lock);
        lks_http_stop(notices->http);
        pthread_cond_signal(&notices->wake);
        pthread_mutex_unlock(&notices->lock);
        pthread_join(notices->thread, NULL);
    }
    lks_http_close(notices->http);
    pthread_cond_destroy(&notices->wake);
    pthread_mutex_destroy(&notices->lock);
    lks_memory_free(notices);
}
