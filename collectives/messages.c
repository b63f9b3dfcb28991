/* Requests and collectives: what every driver's messages have in common. */
#include "collectives/comm_private.h"
#include "runtime/base/memory.h"

#include <string.h>

static lks_status take_request(lks_comm *comm, lks_comm_request **out)
{
    lks_comm_request *request = comm->free_requests;
    if (request) {
        comm->free_requests = request->next_free;
    } else {
        LKS_TRY(LKS_NEW(&request));
        request->next = comm->all_requests;
        comm->all_requests = request;
    }
    request->part_count = 0;
    request->value = 0;
    ++comm->under_way;
    *out = request;
    return LKS_OK;
}

static size_t parts_of(const lks_comm *comm, size_t bytes)
{
    return bytes == 0 ? 1 : (bytes - 1) / comm->message_limit + 1;
}

static void give_request(lks_comm *comm, lks_comm_request *request)
{
    request->next_free = comm->free_requests;
    comm->free_requests = request;
    --comm->under_way;
}

/* A request with room for one part. */
static lks_status take_single(lks_comm *comm, lks_comm_request **out)
{
    LKS_TRY(take_request(comm, out));
    return LKS_GROW(&(*out)->parts, &(*out)->capacity, 1);
}

void lks_comm_release_requests(lks_comm *comm)
{
    while (comm->all_requests) {
        lks_comm_request *request = comm->all_requests;
        comm->all_requests = request->next;
        lks_memory_free(request->parts);
        lks_memory_free(request);
    }
}

lks_status lks_comm_reserve(lks_comm *comm, size_t messages, size_t bytes)
{
    if (comm->size == 1)
        return LKS_OK;
    size_t parts = parts_of(comm, bytes);
    for (size_t i = 0; i < messages; ++i) {
        lks_comm_request *request = NULL;
        LKS_TRY(LKS_NEW(&request));
        request->next = comm->all_requests;
        comm->all_requests = request;
        give_request(comm, request);
        LKS_TRY(LKS_GROW(&request->parts, &request->capacity, parts));
    }
    return comm->driver->reserve(comm->instance, messages * parts);
}

static lks_status check_peer(const lks_comm *comm, int peer, int tag)
{
    if (peer < 0 || peer >= comm->size || peer == comm->rank)
        return LKS_FAIL(LKS_ERR_INTERNAL, "rank %d of %d has no peer %d to exchange messages with",
                        comm->rank, comm->size, peer);
    if (tag < 0 || tag >= LKS_TAG_END)
        return LKS_FAIL(LKS_ERR_INTERNAL, "message tag %d is not in 0..%d", tag, LKS_TAG_END - 1);
    return LKS_OK;
}

/* `data` is only read when sending. */
static lks_status start_parts(lks_comm *comm, bool sending, int peer, int tag, char *data,
                              size_t bytes, lks_comm_request **out)
{
    LKS_TRY(check_peer(comm, peer, tag));
    lks_comm_request *request = NULL;
    LKS_TRY(take_request(comm, &request));
    *out = request;
    size_t limit = comm->message_limit, count = parts_of(comm, bytes);
    LKS_TRY(LKS_GROW(&request->parts, &request->capacity, count));
    for (size_t i = 0; i < count; ++i) {
        size_t at = i * limit, part = bytes - at < limit ? bytes - at : limit;
        void **place = &request->parts[i];
        LKS_TRY(sending ? comm->driver->send(comm->instance, peer, tag, data + at, part, place)
                        : comm->driver->receive(comm->instance, peer, tag, data + at, part, place));
        ++request->part_count;
    }
    return LKS_OK;
}

lks_status lks_comm_send(lks_comm *comm, int to, int tag, const void *data, size_t bytes,
                         lks_comm_request **out)
{
    return start_parts(comm, true, to, tag, (char *)data, bytes, out);
}

lks_status lks_comm_receive(lks_comm *comm, int from, int tag, void *data, size_t bytes,
                            lks_comm_request **out)
{
    return start_parts(comm, false, from, tag, data, bytes, out);
}

lks_status lks_comm_max_start(lks_comm *comm, int64_t mine, lks_comm_request **out)
{
    LKS_TRY(take_single(comm, out));
    (*out)->value = mine;
    if (comm->size > 1) {
        LKS_TRY(comm->driver->max_start(comm->instance, mine, &(*out)->parts[0]));
        (*out)->part_count = 1;
    }
    return LKS_OK;
}

lks_status lks_comm_test(lks_comm *comm, lks_comm_request **request, bool *done, int64_t *value)
{
    lks_comm_request *it = *request;
    *done = false;
    while (it->part_count > 0) {
        bool part_done = false;
        void *part = it->parts[it->part_count - 1];
        LKS_TRY(comm->driver->test(comm->instance, part, &part_done, &it->value));
        if (!part_done)
            return LKS_OK;
        --it->part_count;
    }
    if (value)
        *value = it->value;
    give_request(comm, it);
    *request = NULL;
    *done = true;
    return LKS_OK;
}

lks_status lks_comm_wait(lks_comm *comm, lks_comm_request **request, int64_t *value)
{
    bool done = false;
    for (unsigned spins = 0;; ++spins) {
        LKS_TRY(lks_comm_test(comm, request, &done, value));
        if (done)
            return LKS_OK;
        lks_comm_relax(comm, spins);
    }
}

bool lks_comm_cancel(lks_comm *comm, lks_comm_request **request)
{
    lks_comm_request *it = *request;
    bool all = true;
    for (; it->part_count > 0; --it->part_count)
        all = comm->driver->cancel(comm->instance, it->parts[it->part_count - 1]) && all;
    give_request(comm, it);
    *request = NULL;
    return all;
}

lks_status lks_comm_progress(lks_comm *comm)
{
    return comm->size > 1 ? comm->driver->progress(comm->instance) : LKS_OK;
}

lks_status lks_comm_barrier(lks_comm *comm)
{
    if (comm->size == 1)
        return LKS_OK;
    lks_comm_request *request = NULL;
    LKS_TRY(take_single(comm, &request));
    LKS_TRY(comm->driver->barrier(comm->instance, &request->parts[0]));
    request->part_count = 1;
    return lks_comm_wait(comm, &request, NULL);
}

lks_status lks_comm_broadcast(lks_comm *comm, int root, void *data, size_t bytes)
{
    if (comm->size == 1)
        return LKS_OK;
    for (size_t at = 0; at < bytes;) {
        size_t part = bytes - at < comm->message_limit ? bytes - at : comm->message_limit;
        lks_comm_request *request = NULL;
        LKS_TRY(take_single(comm, &request));
        LKS_TRY(comm->driver->broadcast(comm->instance, root, (char *)data + at, part,
                                        &request->parts[0]));
        request->part_count = 1;
        LKS_TRY(lks_comm_wait(comm, &request, NULL));
        at += part;
    }
    return LKS_OK;
}

/* Too much for one message: every rank in turn. */
static lks_status gather_in_turn(lks_comm *comm, const void *mine, char *all, const size_t *counts)
{
    size_t at = 0;
    for (int r = 0; r < comm->size; ++r) {
        if (r == comm->rank && counts[r] > 0 && all + at != mine)
            memcpy(all + at, mine, counts[r]);
        LKS_TRY(lks_comm_broadcast(comm, r, all + at, counts[r]));
        at += counts[r];
    }
    return LKS_OK;
}

lks_status lks_comm_all_gather_equal(lks_comm *comm, const void *mine, void *all, size_t bytes)
{
    for (int r = 0; r < comm->size; ++r)
        comm->equal_counts[r] = bytes;
    return lks_comm_all_gather(comm, mine, all, comm->equal_counts);
}

lks_status lks_comm_all_gather(lks_comm *comm, const void *mine, void *all, const size_t *counts)
{
    size_t total = 0;
    for (int r = 0; r < comm->size; ++r)
        total += counts[r];
    if (total == 0)
        return LKS_OK;
    if (comm->size == 1 || total > comm->message_limit)
        return gather_in_turn(comm, mine, all, counts);
    lks_comm_request *request = NULL;
    LKS_TRY(take_single(comm, &request));
    LKS_TRY(comm->driver->all_gather(comm->instance, mine, all, counts, &request->parts[0]));
    request->part_count = 1;
    return lks_comm_wait(comm, &request, NULL);
}
