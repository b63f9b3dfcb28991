#include "checkpoints/save.h"

lks_status lks_save_poll(lks_checkpoints *c, lks_save_messages *messages, bool *done)
{
    *done = true;
    for (int i = 0; i < messages->count; ++i) {
        bool one = true;
        if (messages->requests[i] != NULL)
            LKS_TRY(lks_comm_test(c->comm, &messages->requests[i], &one, NULL));
        *done = *done && one;
    }
    return LKS_OK;
}

/* To every other rank from the root. */
lks_status lks_save_send_to_all(lks_checkpoints *c, lks_save_messages *messages, int tag,
                                const void *data, size_t bytes)
{
    for (int i = 0; i < messages->count; ++i)
        LKS_TRY(lks_comm_send(c->comm, i + 1, tag, data, bytes, &messages->requests[i]));
    return LKS_OK;
}

size_t lks_save_report_bytes(const lks_checkpoints *c, int rank)
{
    size_t blocks = c->first_blocks[rank + 1] - c->first_blocks[rank];
    return sizeof(lks_save_report) + (size_t)c->map.group_count * blocks * sizeof(uint64_t);
}

static bool cancel_messages(lks_checkpoints *c, lks_save_messages *messages)
{
    bool all = true;
    for (int i = 0; i < messages->count; ++i) {
        if (messages->requests[i] != NULL)
            all = lks_comm_cancel(c->comm, &messages->requests[i]) && all;
    }
    return all;
}

bool lks_save_cancel(lks_checkpoints *c)
{
    bool plans = cancel_messages(c, &c->plans);
    bool reports = cancel_messages(c, &c->report_messages);
    return cancel_messages(c, &c->results) && plans && reports;
}
