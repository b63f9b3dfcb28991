#include "runtime/base/log.h"

#include "runtime/base/text.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static struct {
    pthread_mutex_t mutex; /* guards before_line and the order of wipe and line */
    char prefix[320];      /* "lockstep: host rank N: " */
    int rank;
    lks_log_level level;
    void (*before_line)(void *user);
    void *before_user;
} log_state = {.mutex = PTHREAD_MUTEX_INITIALIZER, .prefix = "lockstep: ", .level = LKS_LOG_NORMAL};

void lks_log_identify(const char *host, int rank, int world_size)
{
    log_state.rank = rank;
    if (world_size == 1)
        snprintf(log_state.prefix, sizeof log_state.prefix, "lockstep: ");
    else
        snprintf(log_state.prefix, sizeof log_state.prefix, "lockstep: %.255s rank %d: ", host,
                 rank);
}

void lks_log_set_level(lks_log_level level)
{
    log_state.level = level;
}

lks_log_level lks_log_get_level(void)
{
    return log_state.level;
}

void lks_log_set_before_line(void (*wipe)(void *user), void *user)
{
    pthread_mutex_lock(&log_state.mutex);
    log_state.before_line = wipe;
    log_state.before_user = user;
    pthread_mutex_unlock(&log_state.mutex);
}

static void log_write(const char *line, size_t length)
{
    pthread_mutex_lock(&log_state.mutex);
    if (log_state.before_line)
        log_state.before_line(log_state.before_user);
    /* One call carries the line; the loop only serves interruptions. */
    while (length > 0) {
        ssize_t written = write(STDERR_FILENO, line, length);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            break;
        line += written;
        length -= (size_t)written;
    }
    pthread_mutex_unlock(&log_state.mutex);
}

static void log_line(const char *label, const char *format, va_list arguments)
{
    char fixed[2048]; /* longer lines go to the heap */
    int prefix = snprintf(fixed, sizeof fixed, "%s%s", log_state.prefix, label);
    va_list again;
    va_copy(again, arguments);
    int body = vsnprintf(fixed + prefix, sizeof fixed - (size_t)prefix, format, arguments);
    size_t length = (size_t)prefix + (body > 0 ? (size_t)body : 0);
    lks_text longer = {0};
    char *line = fixed;
    if (length + 2 > sizeof fixed) {
        lks_text_append_bytes(&longer, fixed, (size_t)prefix);
        lks_text_append_format(&longer, format, again);
        if (longer.failed || !longer.data)
            length = sizeof fixed - 2;
        else
            line = longer.data;
    }
    va_end(again);
    for (size_t i = 0; i < length; ++i)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    line[length] = '\n';
    log_write(line, length + 1);
    lks_text_release(&longer);
}

void lks_log_root(const char *format, ...)
{
    if (log_state.rank != 0 || log_state.level == LKS_LOG_QUIET)
        return;
    va_list arguments;
    va_start(arguments, format);
    log_line("", format, arguments);
    va_end(arguments);
}

void lks_log_warn(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line("warning: ", format, arguments);
    va_end(arguments);
}

void lks_log_error(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    log_line("", format, arguments);
    va_end(arguments);
}

void lks_log_verbose(const char *format, ...)
{
    if (log_state.level != LKS_LOG_VERBOSE)
        return;
    va_list arguments;
    va_start(arguments, format);
    log_line("", format, arguments);
    va_end(arguments);
}

void lks_log_failure(lks_status status)
{
    const char *message = lks_status_message();
    bool failed = status != LKS_OK && status != LKS_STOPPED; /* else it is of what was only tried */
    if (!failed || message[0] == '\0')
        return;
    if (log_state.level == LKS_LOG_VERBOSE && lks_status_origin()[0] != '\0')
        lks_log_error("%s (%s, at %s)", message, lks_status_name(status), lks_status_origin());
    else
        lks_log_error("%s", message);
}
