#include "launcher/doctor/channel.h"
#include "runtime/base/clock.h"

#include <errno.h>
#include <poll.h>
#include <sys/socket.h>

typedef struct frame_head {
    uint64_t bytes;
    char kind;
} frame_head;

static bool write_all(int channel, const void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        ssize_t part = send(channel, (const char *)data + at, bytes - at, MSG_NOSIGNAL);
        if (part < 0 && errno != EINTR)
            return false;
        at += part > 0 ? (size_t)part : 0;
    }
    return true;
}

bool lks_channel_write(int channel, char kind, const char *text, size_t bytes)
{
    frame_head head = {.bytes = bytes, .kind = kind};
    return write_all(channel, &head, sizeof head) && write_all(channel, text, bytes);
}

static int milliseconds_left(uint64_t deadline_ns)
{
    uint64_t now = lks_clock_ns();
    if (!deadline_ns)
        return -1;
    return now >= deadline_ns ? 0 : (int)((deadline_ns - now) / 1000000 + 1);
}

static int read_all(int channel, uint64_t deadline_ns, void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        struct pollfd ready = {.fd = channel, .events = POLLIN};
        int got = poll(&ready, 1, milliseconds_left(deadline_ns));
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return got;
        ssize_t part = recv(channel, (char *)data + at, bytes - at, MSG_DONTWAIT);
        if (part == 0 || (part < 0 && errno != EINTR && errno != EAGAIN))
            return -1;
        at += part > 0 ? (size_t)part : 0;
    }
    return 1;
}

int lks_channel_read(int channel, uint64_t deadline_ns, char *kind, lks_text *text)
{
    frame_head head = {0};
    char part[16384];
    int got = read_all(channel, deadline_ns, &head, sizeof head);
    lks_text_clear(text);
    lks_text_append(text, "%s", "");
    for (uint64_t left = head.bytes; got == 1 && left;) {
        size_t take = left < sizeof part ? (size_t)left : sizeof part;
        got = read_all(channel, deadline_ns, part, take);
        if (got == 1)
            lks_text_append_bytes(text, part, take);
        left -= take;
    }
    if (got == 1)
        *kind = head.kind;
    return got == 1 && text->failed ? -1 : got;
}
