#include "runtime/train/feed.h"
#include "runtime/base/memory.h"

/* One place for a micro-batch in device memory. */
typedef struct feed_slot {
    char *memory;
    const void *inputs[LKS_SCHEMA_FIELDS];
    const uint64_t *positions;
} feed_slot;

struct lks_feed {
    lks_loader *loader;
    lks_device *device;
    const lks_schema *schema;
    size_t field_bytes[LKS_SCHEMA_FIELDS], positions_bytes, slot_bytes;
    bool direct; /* a host device */
    bool pinned;
    feed_slot slots[LKS_UPLOAD_SLOTS];
    int slot; /* of the micro-batch given out last; -1: none yet */
};

static lks_status feed_place(lks_feed *feed, feed_slot *slot)
{
    LKS_TRY(lks_device_allocate(feed->device, feed->slot_bytes, (void **)&slot->memory));
    char *at = slot->memory;
    slot->positions = (const uint64_t *)(void *)at;
    at += lks_round_up(feed->positions_bytes, LKS_ALIGNMENT);
    for (int i = 0; i < feed->schema->field_count; ++i) {
        slot->inputs[i] = at;
        at += lks_round_up(feed->field_bytes[i], LKS_ALIGNMENT);
    }
    return LKS_OK;
}

static lks_status feed_allocate(lks_feed *feed)
{
    for (int i = 0; i < LKS_UPLOAD_SLOTS; ++i)
        LKS_TRY(feed_place(feed, &feed->slots[i]));
    LKS_TRY(lks_device_pin(feed->device, lks_loader_memory(feed->loader),
                           lks_loader_bytes(feed->loader)));
    feed->pinned = true;
    return LKS_OK;
}

lks_status lks_feed_open(lks_feed **out, lks_loader *loader, lks_device *device,
                         const lks_schema *schema, int64_t micro_batch)
{
    lks_feed *feed;
    *out = NULL;
    LKS_TRY(LKS_NEW(&feed));
    *feed = (lks_feed){.loader = loader, .device = device, .schema = schema, .slot = -1};
    feed->direct = lks_device_is_host(device);
    feed->positions_bytes = (size_t)micro_batch * sizeof(uint64_t);
    feed->slot_bytes = lks_round_up(feed->positions_bytes, LKS_ALIGNMENT);
    for (int i = 0; i < schema->field_count; ++i) {
        feed->field_bytes[i] = (size_t)micro_batch * lks_field_bytes(&schema->fields[i]);
        feed->slot_bytes += lks_round_up(feed->field_bytes[i], LKS_ALIGNMENT);
    }
    lks_status status = feed->direct ? LKS_OK : feed_allocate(feed);
    if (status != LKS_OK)
        lks_feed_close(feed);
    else
        *out = feed;
    return status;
}

void lks_feed_close(lks_feed *feed)
{
    if (!feed)
        return;
    if (!feed->direct && lks_device_synchronize(feed->device) != LKS_OK)
        feed->pinned = false; /* copies may still be under way: the memory stays pinned */
    if (feed->pinned)
        lks_device_unpin(feed->device, lks_loader_memory(feed->loader),
                         lks_loader_bytes(feed->loader));
    for (int i = 0; i < LKS_UPLOAD_SLOTS; ++i)
        if (feed->slots[i].memory)
            lks_device_free(feed->device, feed->slots[i].memory, feed->slot_bytes);
    lks_memory_free(feed);
}

size_t lks_feed_bytes(const lks_feed *feed)
{
    return feed->direct ? 0 : LKS_UPLOAD_SLOTS * feed->slot_bytes;
}

/* Kernels that read the last micro-batch have all been given; and the loader may use its memory again. */
static lks_status feed_let_go(lks_feed *feed)
{
    if (feed->slot < 0)
        return LKS_OK;
    LKS_TRY(lks_device_upload_release(feed->device, feed->slot));
    return lks_device_upload_wait(feed->device, feed->slot);
}

static lks_status feed_upload(lks_feed *feed, const lks_batch *batch)
{
    feed->slot = (feed->slot + 1) % LKS_UPLOAD_SLOTS;
    const feed_slot *slot = &feed->slots[feed->slot];
    LKS_TRY(lks_device_upload_begin(feed->device, feed->slot));
    LKS_TRY(lks_device_upload(feed->device, (void *)slot->positions, batch->positions,
                              feed->positions_bytes));
    for (int i = 0; i < feed->schema->field_count; ++i)
        LKS_TRY(lks_device_upload(feed->device, (void *)slot->inputs[i], batch->fields[i],
                                  feed->field_bytes[i]));
    return lks_device_upload_end(feed->device, feed->slot);
}

lks_status lks_feed_next(lks_feed *feed, lks_fed *out)
{
    if (!feed->direct)
        LKS_TRY(feed_let_go(feed));
    LKS_TRY(lks_loader_next(feed->loader, &out->batch));
    if (feed->direct) {
        out->inputs = (const void *const *)out->batch.fields;
        out->positions = out->batch.positions;
        return LKS_OK;
    }
    LKS_TRY(feed_upload(feed, &out->batch));
    out->inputs = feed->slots[feed->slot].inputs;
    out->positions = feed->slots[feed->slot].positions;
    return LKS_OK;
}
