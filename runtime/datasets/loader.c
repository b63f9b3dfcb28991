#include "runtime/datasets/loader.h"

#include "runtime/base/clock.h"
#include "runtime/base/memory.h"
#include "runtime/base/threads.h"
#include "runtime/datasets/dataset_read.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One place of the ring; holds micro-batch n when n % depth is its index. */
typedef struct slot {
    lks_batch batch;
    void *fields[LKS_SCHEMA_FIELDS];
    uint64_t *positions, *samples;
    uint64_t filled; /* n + 1 once micro-batch n is in, or has failed */
    lks_status status;
    char *message; /* of a failure; malloc */
} slot;

typedef struct reader {
    lks_loader *loader;
    pthread_t thread;
    lks_shard_scratch scratch;
} reader;

struct lks_loader {
    lks_loader_spec spec;
    lks_order order;
    const lks_schema *schema;
    uint64_t batches; /* in all */
    void *ring;       /* what the slots point into */
    size_t ring_bytes;
    slot *slots;     /* [depth] */
    reader *readers; /* [threads] */
    int started;
    uint64_t wait_ns;

    pthread_mutex_t lock; /* of slots[].filled and what follows */
    pthread_cond_t filled, freed;
    uint64_t claimed;  /* micro-batches [0, claimed) are with readers or done */
    uint64_t handed;   /* [0, handed) have been handed out; the last of them is in use */
    uint64_t released; /* [0, released) may be overwritten */
    bool stop;
};

static uint64_t batches_per_step(const lks_loader_spec *spec)
{
    return (uint64_t)(spec->end_lane - spec->first_lane) * (uint64_t)spec->micro_batches;
}

/* Fills in everything about micro-batch n but its contents. */
static void describe_batch(const lks_loader *loader, uint64_t n, slot *into)
{
    const lks_loader_spec *spec = &loader->spec;
    uint64_t per_step = batches_per_step(spec), within = n % per_step;
    uint64_t lane = (uint64_t)spec->first_lane + within / (uint64_t)spec->micro_batches;
    uint64_t index = within % (uint64_t)spec->micro_batches;
    uint64_t step = spec->first_step + n / per_step;
    uint64_t lane_samples = (uint64_t)spec->micro_batches * (uint64_t)spec->micro_batch;
    uint64_t start =
        (step * (uint64_t)spec->lanes + lane) * lane_samples + index * (uint64_t)spec->micro_batch;
    for (int64_t i = 0; i < spec->micro_batch; ++i) {
        uint64_t position = start + (uint64_t)i;
        into->positions[i] = position;
        if (spec->order != NULL)
            into->samples[i] = lks_order_sample(&loader->order, position);
        else
            into->samples[i] = position < loader->order.samples ? position : LKS_SAMPLE_NONE;
    }
    into->batch.step = step;
    into->batch.lane = (int64_t)lane;
    into->batch.index = (int64_t)index;
}

static uint64_t count_valid_labels(const int32_t *labels, size_t count)
{
    uint64_t valid = 0;
    for (size_t i = 0; i < count; ++i)
        valid += labels[i] >= 0;
    return valid;
}

static uint64_t count_finite_rows(const float *rows, size_t count, size_t width)
{
    uint64_t valid = 0;
    for (size_t i = 0; i < count; ++i) {
        bool finite = true;
        for (size_t j = 0; j < width; ++j)
            finite = finite && isfinite(rows[i * width + j]);
        valid += finite;
    }
    return valid;
}

static uint64_t count_valid_targets(const lks_loader *loader, const slot *full)
{
    size_t samples = (size_t)loader->spec.micro_batch;
    uint64_t valid = 0;
    for (int i = 0; i < loader->schema->field_count; ++i) {
        const lks_field *field = &loader->schema->fields[i];
        size_t width = lks_shape_elements(&field->shape);
        if (field->target && field->dtype == LKS_I32)
            valid += count_valid_labels(full->fields[i], samples * width);
        else if (field->target)
            valid += count_finite_rows(full->fields[i], samples, width);
    }
    return valid;
}

static void fill_slot(reader *self, uint64_t n, slot *into)
{
    lks_loader *loader = self->loader;
    describe_batch(loader, n, into);
    into->status = lks_dataset_read_with(loader->spec.dataset, into->samples,
                                         loader->spec.micro_batch, into->fields, &self->scratch);
    if (into->status == LKS_OK)
        into->batch.valid_targets = count_valid_targets(loader, into);
    else
        into->message = strdup(lks_status_message());
}

static void *reader_run(void *argument)
{
    reader *self = argument;
    lks_loader *loader = self->loader;
    uint64_t depth = (uint64_t)loader->spec.depth;
    pthread_mutex_lock(&loader->lock);
    while (!loader->stop && loader->claimed < loader->batches) {
        if (loader->claimed >= loader->released + depth) {
            pthread_cond_wait(&loader->freed, &loader->lock);
            continue;
        }
        uint64_t n = loader->claimed++;
        slot *into = &loader->slots[n % depth];
        pthread_mutex_unlock(&loader->lock);
        fill_slot(self, n, into);
        pthread_mutex_lock(&loader->lock);
        into->filled = n + 1;
        loader->stop = loader->stop || into->status != LKS_OK;
        pthread_cond_signal(&loader->filled);
    }
    pthread_mutex_unlock(&loader->lock);
    return NULL;
}

/* Waits for micro-batch n; the lock is held. */
static void wait_for(lks_loader *loader, const slot *wanted, uint64_t n)
{
    if (wanted->filled == n + 1)
        return;
    uint64_t start = lks_clock_ns();
    while (wanted->filled != n + 1)
        pthread_cond_wait(&loader->filled, &loader->lock);
    loader->wait_ns += lks_clock_ns() - start;
}

lks_status lks_loader_next(lks_loader *loader, lks_batch *out)
{
    uint64_t n = loader->handed;
    if (n == loader->batches)
        return LKS_FAIL(LKS_ERR_INTERNAL,
                        "the loader was asked for more than its %" PRIu64 " micro-batches",
                        loader->batches);
    slot *wanted = &loader->slots[n % (uint64_t)loader->spec.depth];
    pthread_mutex_lock(&loader->lock);
    loader->released = n;
    pthread_cond_signal(&loader->freed);
    wait_for(loader, wanted, n);
    pthread_mutex_unlock(&loader->lock);
    if (wanted->status != LKS_OK)
        return LKS_FAIL(wanted->status, "%s",
                        wanted->message != NULL ? wanted->message : "a reader failed");
    loader->handed = n + 1;
    *out = wanted->batch;
    return LKS_OK;
}

double lks_loader_take_wait_seconds(lks_loader *loader)
{
    double seconds = (double)loader->wait_ns * 1e-9;
    loader->wait_ns = 0;
    return seconds;
}

size_t lks_loader_bytes(const lks_loader *loader)
{
    return loader->ring_bytes;
}

void *lks_loader_memory(const lks_loader *loader)
{
    return loader->ring;
}

static lks_status fail_spec(const char *what)
{
    return LKS_FAIL(LKS_ERR_INTERNAL, "the loader was opened with %s", what);
}

static lks_status check_spec(const lks_loader_spec *spec)
{
    if (spec->lanes < 1 || spec->first_lane < 0 || spec->first_lane >= spec->end_lane ||
        spec->end_lane > spec->lanes)
        return fail_spec("lanes out of range");
    if (spec->micro_batches < 1 || spec->micro_batch < 1 || spec->first_step > spec->end_step)
        return fail_spec("no micro-batch, or steps out of order");
    if (spec->threads < 1 || spec->depth < 2)
        return fail_spec("less than one thread or two places");
    if (spec->order != NULL && spec->order->samples != lks_dataset_samples(spec->dataset))
        return fail_spec("the order of another dataset");
    uint64_t positions = spec->end_step;
    if (__builtin_mul_overflow(positions, (uint64_t)spec->lanes, &positions) ||
        __builtin_mul_overflow(positions, (uint64_t)spec->micro_batches, &positions) ||
        __builtin_mul_overflow(positions, (uint64_t)spec->micro_batch, &positions))
        return LKS_FAIL(LKS_ERR_USAGE,
                        "%" PRIu64 " steps of this batch have more samples than "
                        "can be counted: lower the steps",
                        spec->end_step);
    return LKS_OK;
}

/* Adds count x bytes, rounded up to the alignment; false when it cannot be counted. */
static bool add_bytes(size_t *total, size_t count, size_t bytes)
{
    size_t size;
    return !__builtin_mul_overflow(count, bytes, &size) && size < SIZE_MAX / 2 &&
           !__builtin_add_overflow(*total, lks_round_up(size, LKS_ALIGNMENT), total);
}

static unsigned char *take_bytes(unsigned char **from, size_t count, size_t bytes)
{
    unsigned char *start = *from;
    *from += lks_round_up(count * bytes, LKS_ALIGNMENT);
    return start;
}

static void lay_out_slot(lks_loader *loader, slot *place, unsigned char **from)
{
    size_t samples = (size_t)loader->spec.micro_batch;
    place->positions = (uint64_t *)(void *)take_bytes(from, samples, sizeof(uint64_t));
    place->samples = (uint64_t *)(void *)take_bytes(from, samples, sizeof(uint64_t));
    for (int i = 0; i < loader->schema->field_count; ++i)
        place->fields[i] = take_bytes(from, samples, lks_field_bytes(&loader->schema->fields[i]));
    place->batch.fields = place->fields;
    place->batch.positions = place->positions;
    place->batch.samples = place->samples;
}

static lks_status ring_create(lks_loader *loader)
{
    size_t samples = (size_t)loader->spec.micro_batch, depth = (size_t)loader->spec.depth;
    size_t each = 0;
    bool fits =
        add_bytes(&each, samples, sizeof(uint64_t)) && add_bytes(&each, samples, sizeof(uint64_t));
    for (int i = 0; i < loader->schema->field_count; ++i)
        fits = fits && add_bytes(&each, samples, lks_field_bytes(&loader->schema->fields[i]));
    if (!fits || __builtin_mul_overflow(each, depth, &loader->ring_bytes))
        return LKS_FAIL(LKS_ERR_USAGE, "a micro-batch of %zu samples is too large", samples);
    LKS_TRY(LKS_NEW_ARRAY(&loader->slots, depth));
    LKS_TRY(lks_memory_map(&loader->ring, loader->ring_bytes));
    unsigned char *from = loader->ring;
    for (size_t i = 0; i < depth; ++i)
        lay_out_slot(loader, &loader->slots[i], &from);
    return LKS_OK;
}

static lks_status start_readers(lks_loader *loader)
{
    lks_status status = LKS_OK;
    LKS_TRY(LKS_NEW_ARRAY(&loader->readers, (size_t)loader->spec.threads));
    for (int i = 0; status == LKS_OK && i < loader->spec.threads; ++i) {
        reader *self = &loader->readers[i];
        self->loader = loader;
        status = lks_shards_scratch_allocate(loader->spec.dataset->shards, &self->scratch);
        if (status != LKS_OK)
            break;
        int error = lks_thread_start(&self->thread, reader_run, self);
        if (error != 0)
            status = LKS_FAIL(LKS_ERR_INTERNAL,
                              "cannot start reader thread %d of %d: %s: lower "
                              "data.threads",
                              i + 1, loader->spec.threads, strerror(error));
        else
            loader->started = i + 1;
    }
    return status;
}

static lks_status loader_init(lks_loader *loader, const lks_loader_spec *spec)
{
    loader->spec = *spec;
    loader->schema = lks_dataset_schema(spec->dataset);
    loader->order.samples = lks_dataset_samples(spec->dataset);
    if (spec->order != NULL)
        loader->order = *spec->order;
    loader->batches = (spec->end_step - spec->first_step) * batches_per_step(spec);
    LKS_TRY(ring_create(loader));
    return start_readers(loader);
}

lks_status lks_loader_open(lks_loader **out, const lks_loader_spec *spec)
{
    lks_loader *loader;
    LKS_TRY(check_spec(spec));
    LKS_TRY(LKS_NEW(&loader));
    pthread_mutex_init(&loader->lock, NULL);
    pthread_cond_init(&loader->filled, NULL);
    pthread_cond_init(&loader->freed, NULL);
    lks_status status = loader_init(loader, spec);
    if (status != LKS_OK) {
        lks_loader_close(loader);
        return status;
    }
    *out = loader;
    return LKS_OK;
}

static void join_readers(lks_loader *loader)
{
    pthread_mutex_lock(&loader->lock);
    loader->stop = true;
    pthread_cond_broadcast(&loader->freed);
    pthread_mutex_unlock(&loader->lock);
    for (int i = 0; i < loader->started; ++i)
        pthread_join(loader->readers[i].thread, NULL);
    for (int i = 0; loader->readers != NULL && i < loader->spec.threads; ++i)
        lks_shard_scratch_release(&loader->readers[i].scratch);
}

void lks_loader_close(lks_loader *loader)
{
    if (loader == NULL)
        return;
    join_readers(loader);
    for (int i = 0; loader->slots != NULL && i < loader->spec.depth; ++i)
        free(loader->slots[i].message);
    if (loader->ring != NULL)
        lks_memory_unmap(loader->ring, loader->ring_bytes);
    pthread_cond_destroy(&loader->freed);
    pthread_cond_destroy(&loader->filled);
    pthread_mutex_destroy(&loader->lock);
    lks_memory_free(loader->readers);
    lks_memory_free(loader->slots);
    lks_memory_free(loader);
}
