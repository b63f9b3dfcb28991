/* A copy under way: own blocks are hashed and published, sent to the neighbour, and what others send is checked
 * and published. Whether it is whole everywhere is agreed on at steps that follow from the steps alone. */
#include "checkpoints/memory_state.h"
#include "runtime/base/clock.h"
#include "runtime/base/log.h"

#include <string.h>

typedef enum copy_state { COPY_WHOLE, COPY_FAILED, COPY_BUSY } copy_state;

lks_status lks_memory_all_well(lks_memory_copies *c, lks_status mine, bool *well)
{
    lks_comm_request *request;
    int64_t worst = 0;
    if (mine != LKS_OK)
        lks_log_warn("copies in node memory are given up: %s; training goes on",
                     lks_status_message());
    LKS_TRY(lks_comm_max_start(c->comm, mine != LKS_OK, &request));
    LKS_TRY(lks_comm_wait(c->comm, &request, &worst));
    *well = worst == 0;
    return LKS_OK;
}

/* --- Tasks of the worker ------------------------------------------------------------ */

static lks_status publish(const lks_memory_copies *c, lks_memory_series *series)
{
    char name[LKS_MEMORY_NAME];
    lks_memory_copy_name(c, c->header.step, (int)c->header.world_size, series->rank, name);
    return lks_memory_slot_publish(c, &series->slots[c->slot], name);
}

static lks_status seal_own(void *user)
{
    lks_memory_copies *c = user;
    lks_memory_series *own = &c->series[0];
    lks_memory_seal(&c->identity, &own->shape, own->slots[c->slot].map, &c->header);
    return publish(c, own);
}

static lks_status verify_received(void *user)
{
    lks_memory_copies *c = user;
    for (int i = 1; i < c->series_count; ++i) {
        lks_memory_series *series = &c->series[i];
        lks_memory_slot *slot = &series->slots[c->slot];
        const lks_memory_header *h = slot->map;
        LKS_TRY(lks_memory_check_header(&c->identity, slot->map, slot->bytes, slot->name));
        if (h->step != c->header.step || h->start != c->start || (int)h->rank != series->rank)
            return LKS_FAIL(LKS_ERR_CORRUPT, "rank %d sent step %llu, want %llu", series->rank,
                            (unsigned long long)h->step, (unsigned long long)c->header.step);
        LKS_TRY(lks_memory_check_data(&c->identity, slot->map, slot->name));
        LKS_TRY(publish(c, series));
    }
    return LKS_OK;
}

/* --- Local progress ------------------------------------------------------------------ */

static void start_task(lks_memory_copies *c, lks_memory_stage stage, lks_status (*task)(void *))
{
    c->stage = stage;
    c->working = true;
    lks_worker_start(c->worker, task, c);
}

void lks_memory_slots_start(lks_memory_copies *c)
{
    c->untried = true;
    start_task(c, LKS_MEMORY_WARMING, lks_memory_slots_warm);
}

static lks_status collect_task(lks_memory_copies *c)
{
    char message[LKS_WORKER_MESSAGE];
    lks_status status;
    if (!lks_worker_collect(c->worker, &status, message))
        return LKS_OK;
    c->working = false;
    if (status != LKS_OK && !c->failed)
        lks_log_warn("a copy in node memory is given up: %s; training goes on", message);
    c->failed = c->failed || status != LKS_OK;
    if (c->stage != LKS_MEMORY_SEALING) {
        c->stage = LKS_MEMORY_READY;
        return LKS_OK;
    }
    /* Sent even after a failure: the neighbour waits for it, and sees that it does not hold. */
    const lks_memory_slot *own = &c->series[0].slots[c->slot];
    c->stage = LKS_MEMORY_SENDING;
    return c->to < 0
               ? LKS_OK
               : lks_comm_send(c->comm, c->to, LKS_MEMORY_TAG, own->map, own->bytes, &c->send);
}

static lks_status poll_messages(lks_memory_copies *c)
{
    bool all = true, one;
    if (c->send != NULL) {
        LKS_TRY(lks_comm_test(c->comm, &c->send, &one, NULL));
        all = one;
    }
    for (int i = 1; i < c->series_count; ++i) {
        if (c->series[i].receive == NULL)
            continue;
        LKS_TRY(lks_comm_test(c->comm, &c->series[i].receive, &one, NULL));
        all = all && one;
    }
    if (all && c->series_count > 1)
        start_task(c, LKS_MEMORY_VERIFYING, verify_received);
    else if (all)
        c->stage = LKS_MEMORY_READY;
    return LKS_OK;
}

lks_status lks_memory_tick(lks_memory_copies *c)
{
    if (c->working)
        LKS_TRY(collect_task(c));
    return !c->working && c->stage == LKS_MEMORY_SENDING ? poll_messages(c) : LKS_OK;
}

lks_status lks_memory_drain(lks_memory_copies *c)
{
    for (unsigned spins = 0;; ++spins) {
        LKS_TRY(lks_memory_tick(c));
        if (c->stage == LKS_MEMORY_READY)
            return LKS_OK;
        if (c->working)
            lks_worker_rest(c->worker);
        else
            lks_comm_relax(c->comm, spins);
    }
}

/* --- Agreement ------------------------------------------------------------------------- */

/* The copy that the job was resumed from has had its day: its room is the second generation's. */
static lks_status drop_former(lks_memory_copies *c)
{
    bool well;
    if (!c->keeps_former)
        return LKS_OK;
    c->keeps_former = false;
    if (lks_memory_leads(c) && lks_memory_clean_own(c, NULL) != LKS_OK)
        lks_log_verbose("node memory: %s", lks_status_message());
    LKS_TRY(lks_comm_barrier(c->comm));
    LKS_TRY(lks_memory_all_well(c, lks_memory_slots_make(c, 1), &well));
    c->on = well;
    if (well)
        lks_memory_slots_start(c);
    return LKS_OK;
}

static lks_status conclude(lks_memory_copies *c, bool whole)
{
    c->copying = c->failed = false;
    if (!whole) {
        ++c->stats.failed;
        return LKS_OK;
    }
    ++c->stats.whole;
    c->stats.last_step = c->header.step;
    c->whole = c->slot;
    return drop_former(c);
}

/* (collective) */
static lks_status agree(lks_memory_copies *c, copy_state *state)
{
    lks_comm_request *request;
    int64_t worst = 0;
    LKS_TRY(lks_memory_tick(c));
    int64_t mine = c->stage != LKS_MEMORY_READY ? COPY_BUSY : c->failed ? COPY_FAILED : COPY_WHOLE;
    LKS_TRY(lks_comm_max_start(c->comm, mine, &request));
    LKS_TRY(lks_comm_wait(c->comm, &request, &worst));
    *state = (copy_state)worst;
    return LKS_OK;
}

static lks_status look(lks_memory_copies *c)
{
    copy_state state;
    LKS_TRY(agree(c, &state));
    return state == COPY_BUSY ? LKS_OK : conclude(c, state == COPY_WHOLE);
}

lks_status lks_memory_copies_progress(lks_memory_copies *copies, uint64_t step)
{
    lks_memory_copies *c = copies;
    if (!c->on)
        return LKS_OK;
    LKS_TRY(lks_memory_tick(c));
    if (!c->copying || step < c->next_look)
        return LKS_OK;
    c->look_gap *= 2;
    c->next_look = step + c->look_gap;
    return look(c);
}

/* --- Taking one -------------------------------------------------------------------------- */

static lks_status withdraw(lks_memory_copies *c)
{
    for (int i = 0; i < c->series_count; ++i)
        LKS_TRY(lks_memory_slot_withdraw(c, &c->series[i].slots[c->slot]));
    return LKS_OK;
}

static lks_status receive_others(lks_memory_copies *c)
{
    for (int i = 1; i < c->series_count; ++i) {
        lks_memory_series *series = &c->series[i];
        LKS_TRY(lks_comm_receive(c->comm, series->rank, LKS_MEMORY_TAG, series->slots[c->slot].map,
                                 series->slots[c->slot].bytes, &series->receive));
    }
    return LKS_OK;
}

static void write_header(lks_memory_copies *c, uint64_t step, const char *note)
{
    c->header = c->identity.common;
    c->header.step = step;
    c->header.start = c->start;
    c->header.world_size = (uint32_t)lks_comm_size(c->comm);
    c->header.rank = (uint32_t)lks_comm_rank(c->comm);
    snprintf(c->header.note, sizeof c->header.note, "%s", note);
}

static lks_status take(lks_memory_copies *c, const lks_state_array *arrays, uint64_t step,
                       const char *note)
{
    const lks_memory_series *own = &c->series[0];
    c->slot = c->whole == 0 ? 1 : 0;
    if (withdraw(c) != LKS_OK) {
        c->failed = true;
        lks_log_warn("a copy in node memory is given up: %s; training goes on",
                     lks_status_message());
    }
    write_header(c, step, note);
    LKS_TRY(receive_others(c));
    lks_memory_fill(&c->identity, &own->shape, own->slots[c->slot].map, arrays);
    start_task(c, LKS_MEMORY_SEALING, seal_own);
    c->copying = true;
    c->look_gap = 1;
    c->next_look = step + 1;
    return LKS_OK;
}

/* (collective) Room that was just made is tried: all ranks have it, or copies end here. */
static lks_status try_room(lks_memory_copies *c)
{
    copy_state state;
    LKS_TRY(lks_memory_drain(c));
    LKS_TRY(agree(c, &state));
    c->untried = c->failed = false;
    c->on = state == COPY_WHOLE;
    if (!c->on)
        lks_memory_slots_close(c);
    return LKS_OK;
}

lks_status lks_memory_copies_take(lks_memory_copies *copies, const lks_state_array *arrays,
                                  uint64_t step, const char *note, double *seconds)
{
    lks_memory_copies *c = copies;
    uint64_t start_ns = lks_clock_ns();
    *seconds = 0;
    if (c->on && c->copying)
        LKS_TRY(look(c));
    if (c->on && c->copying) {
        ++c->stats.skipped;
        lks_log_root("warning: the copy of step %llu in node memory is skipped: that of step %llu "
                     "is still under way; raise checkpoint.memory_every_steps",
                     (unsigned long long)step, (unsigned long long)c->header.step);
        return LKS_OK;
    }
    if (c->on && c->untried)
        LKS_TRY(try_room(c));
    if (!c->on)
        return LKS_OK;
    uint64_t copy_ns = lks_clock_ns();
    LKS_TRY(take(c, arrays, step, note));
    c->stats.copy_seconds = lks_clock_seconds_since(copy_ns);
    *seconds = lks_clock_seconds_since(start_ns);
    return LKS_OK;
}
