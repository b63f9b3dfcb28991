#include "runtime/base/status.h"

#include <stdio.h>
#include <string.h>

enum { STATUS_MESSAGE_BYTES = 4096, STATUS_ORIGIN_BYTES = 128 };

static _Thread_local char status_message[STATUS_MESSAGE_BYTES];
static _Thread_local char status_origin[STATUS_ORIGIN_BYTES];

static void status_store(const char *message)
{
    size_t length = strnlen(message, STATUS_MESSAGE_BYTES - 1);
    memcpy(status_message, message, length);
    status_message[length] = '\0';
    for (size_t i = 0; i < length; ++i) /* one line, whatever a user's text contains */
        if ((unsigned char)status_message[i] < 0x20 || status_message[i] == 0x7f)
            status_message[i] = ' ';
}

lks_status lks_status_fail(lks_status status, const char *file, int line, const char *format, ...)
{
    /* The arguments may be the old message, so it is replaced at the end. */
    char message[STATUS_MESSAGE_BYTES];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    if (length >= (int)sizeof message)
        memcpy(message + sizeof message - 4, "...", 4);
    status_store(message);

    const char *base = strrchr(file, '/');
    snprintf(status_origin, sizeof status_origin, "%s:%d", base ? base + 1 : file, line);
    return status;
}

const char *lks_status_message(void)
{
    return status_message;
}

const char *lks_status_origin(void)
{
    return status_origin;
}

void lks_status_set_message(const char *message)
{
    char copy[STATUS_MESSAGE_BYTES]; /* it may be part of the old one */
    size_t length = strnlen(message, sizeof copy - 1);
    memcpy(copy, message, length);
    copy[length] = '\0';
    status_store(copy);
    if (length == 0)
        status_origin[0] = '\0';
}

const char *lks_status_name(lks_status status)
{
    switch (status) {
    case LKS_OK:
        return "ok";
    case LKS_WARNED:
        return "warned";
    case LKS_ERR_USAGE:
        return "usage";
    case LKS_ERR_CORRUPT:
        return "corrupt";
    case LKS_ERR_INTERNAL:
        return "internal";
    case LKS_ERR_IO:
        return "io";
    case LKS_STOPPED:
        return "stopped";
    case LKS_ERR_PEER:
        return "peer";
    case LKS_ERR_NOT_FINITE:
        return "not-finite";
    }
    return "unknown";
}
