#include "launcher/doctor/network_link.h"
#include "runtime/base/clock.h"
#include "runtime/base/threads.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { PINGS = 20, POURS = 2, CHUNK = 256 << 10 };
static const double rate_seconds = 0.1;
static const uint64_t rate_bytes_max = (uint64_t)256 << 20;

typedef struct server {
    int socket;
    uint64_t nonce;
} server;

typedef struct visit {
    int socket;
    uint64_t nonce;
} visit;

static bool send_all(int to, const void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        ssize_t part = send(to, (const char *)data + at, bytes - at, MSG_NOSIGNAL);
        if (part < 0 && errno == EINTR)
            continue;
        if (part <= 0)
            return false;
        at += (size_t)part;
    }
    return true;
}

static bool receive_all(int from, void *data, size_t bytes)
{
    for (size_t at = 0; at < bytes;) {
        ssize_t part = recv(from, (char *)data + at, bytes - at, 0);
        if (part < 0 && errno == EINTR)
            continue;
        if (part <= 0)
            return false;
        at += (size_t)part;
    }
    return true;
}

/* --- The server -------------------------------------------------------------------- */

/* Each message says how many bytes follow; when all are there, 8 go back. */
static void *visit_run(void *user)
{
    visit v = *(visit *)user;
    uint64_t follow;
    char *buffer = malloc(CHUNK);
    free(user);
    bool alive = buffer && send_all(v.socket, &v.nonce, sizeof v.nonce);
    while (alive && receive_all(v.socket, &follow, sizeof follow)) {
        for (uint64_t left = follow; alive && left;) {
            size_t part = left < CHUNK ? (size_t)left : CHUNK;
            alive = receive_all(v.socket, buffer, part);
            left -= part;
        }
        alive = alive && send_all(v.socket, &follow, sizeof follow);
    }
    free(buffer);
    close(v.socket);
    return NULL;
}

static void *server_run(void *user)
{
    server s = *(server *)user;
    int one = 1;
    free(user);
    for (;;) {
        pthread_t thread;
        visit *v = malloc(sizeof *v);
        int from = accept4(s.socket, NULL, NULL, SOCK_CLOEXEC);
        if (!v || from < 0) {
            free(v);
            if (from >= 0)
                close(from);
            continue;
        }
        setsockopt(from, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        *v = (visit){from, s.nonce};
        if (lks_thread_start(&thread, visit_run, v) == 0) {
            pthread_detach(thread);
        } else {
            close(from);
            free(v);
        }
    }
    return NULL;
}

lks_status lks_network_serve(uint64_t nonce, int *port)
{
    struct sockaddr_in address = {.sin_family = AF_INET};
    socklen_t length = sizeof address;
    struct sockaddr *any = (struct sockaddr *)(void *)&address;
    pthread_t thread;
    server *s = malloc(sizeof *s);
    int in = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (!s || in < 0 || bind(in, any, sizeof address) || listen(in, 128) ||
        getsockname(in, any, &length))
        return LKS_FAIL(LKS_ERR_IO, "cannot listen on a TCP port: %s", strerror(errno));
    *port = ntohs(address.sin_port);
    *s = (server){in, nonce};
    int error = lks_thread_start(&thread, server_run, s);
    return error ? LKS_FAIL(LKS_ERR_INTERNAL, "cannot start a thread: %s", strerror(error))
                 : LKS_OK;
}

/* --- The visitor ------------------------------------------------------------------- */

static void set_limits(int to, double seconds)
{
    int one = 1;
    struct timeval limit = {.tv_sec = (time_t)seconds,
                            .tv_usec = (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
    setsockopt(to, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    setsockopt(to, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(to, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
}

static const char *word_of(int error)
{
    switch (error) {
    case ENETUNREACH:
        return "no route";
    case EHOSTUNREACH:
        return "no such host on that network";
    case ECONNREFUSED:
        return "refused";
    case ETIMEDOUT:
        return "no answer";
    case EADDRNOTAVAIL:
        return "address gone";
    case 0:
        return NULL;
    default:
        return "failed";
    }
}

static const char *connect_within(int to, const struct sockaddr_in *peer, double seconds)
{
    int error = 0;
    socklen_t length = sizeof error;
    struct pollfd ready = {.fd = to, .events = POLLOUT};
    if (connect(to, (const struct sockaddr *)(const void *)peer, sizeof *peer) == 0)
        return NULL;
    if (errno != EINPROGRESS)
        return word_of(errno);
    if (poll(&ready, 1, (int)(seconds * 1e3)) <= 0)
        return word_of(ETIMEDOUT);
    getsockopt(to, SOL_SOCKET, SO_ERROR, &error, &length);
    return word_of(error);
}

/* From that address, as Open MPI does; the routing table has its say. */
static const char *open_link(const lks_network_try *it, int *out)
{
    struct sockaddr_in own = {.sin_family = AF_INET}, peer = {.sin_family = AF_INET};
    peer.sin_port = htons((uint16_t)it->port);
    inet_pton(AF_INET, it->from, &own.sin_addr);
    inet_pton(AF_INET, it->to, &peer.sin_addr);
    int to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    *out = to;
    if (to < 0 || bind(to, (const struct sockaddr *)(const void *)&own, sizeof own))
        return word_of(errno);
    const char *problem = connect_within(to, &peer, it->seconds);
    fcntl(to, F_SETFL, fcntl(to, F_GETFL) & ~O_NONBLOCK);
    set_limits(to, it->seconds);
    return problem;
}

static bool ping(int to, double *least_us)
{
    for (int i = 0; i < PINGS; ++i) {
        uint64_t none = 0, start = lks_clock_ns();
        if (!send_all(to, &none, sizeof none) || !receive_all(to, &none, sizeof none))
            return false;
        double us = lks_clock_seconds_since(start) * 1e6;
        *least_us = i == 0 || us < *least_us ? us : *least_us;
    }
    return true;
}

/* Batches that double until one takes long enough. */
static bool pour_once(int to, double *bytes_per_second)
{
    char *buffer = calloc(1, CHUNK);
    bool alive = buffer != NULL;
    double seconds = 0;
    for (uint64_t bytes = CHUNK; alive && seconds < rate_seconds / 2 && bytes <= rate_bytes_max;
         bytes *= 2) {
        uint64_t back, start = lks_clock_ns();
        alive = send_all(to, &bytes, sizeof bytes);
        for (uint64_t at = 0; alive && at < bytes; at += CHUNK)
            alive = send_all(to, buffer, CHUNK);
        alive = alive && receive_all(to, &back, sizeof back);
        seconds = lks_clock_seconds_since(start);
        *bytes_per_second = (double)bytes / seconds;
    }
    free(buffer);
    return alive;
}

/* The better of some: a busy host is no slow network. */
static bool pour(int to, double *bytes_per_second)
{
    for (int i = 0; i < POURS; ++i) {
        double rate = 0;
        if (!pour_once(to, &rate))
            return false;
        *bytes_per_second = rate > *bytes_per_second ? rate : *bytes_per_second;
    }
    return true;
}

lks_network_link lks_network_measure(const lks_network_try *it)
{
    lks_network_link link = {0};
    int to = -1;
    uint64_t nonce = 0;
    link.problem = open_link(it, &to);
    if (!link.problem && !receive_all(to, &nonce, sizeof nonce))
        link.problem = "connects, and then nothing comes";
    else if (!link.problem && nonce != it->nonce)
        link.problem = "answered by another machine";
    if (!link.problem && (!ping(to, &link.latency_us) || !pour(to, &link.bytes_per_second)))
        link.problem = "connects, and then stalls";
    if (to >= 0)
        close(to);
    return link;
}
