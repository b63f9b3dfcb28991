/* Run under mpirun: a world saves, and any other world reads the same. */
#include "tests/unit/collectives/ranks.h"
#include "checkpoints/save.h"
#include "runtime/base/clock.h"
#include "runtime/base/files.h"
#include "runtime/base/memory.h"
#include "tests/unit/checkpoints/faults.h"
#include "tests/unit/checkpoints/fixture.h"

#include <errno.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* This rank's own blocks alone, in memory of exactly their size. */
typedef struct slice {
    lks_state_array arrays[FIXTURE_GROUPS];
    uint64_t base, elements;
} slice;

static void slice_make(lks_comm *comm, const fixture *f, slice *s)
{
    *s = (slice){0};
    if (f->spec.first_block < f->spec.end_block) {
        const lks_layout_block *last = &f->layout->blocks[f->spec.end_block - 1];
        s->base = f->layout->blocks[f->spec.first_block].offset;
        s->elements = last->offset + last->elements - s->base;
    }
    for (int g = 0; g < FIXTURE_GROUPS; ++g) {
        float *data = malloc((s->elements + 1) * sizeof *data);
        MUST(data != NULL);
        s->arrays[g] = (lks_state_array){fixture_groups[g], data, g > 0, s->base};
    }
}

static void slice_fill(fixture *f, slice *s, int salt)
{
    fixture_fill(f, salt);
    for (int g = 0; g < FIXTURE_GROUPS; ++g)
        memcpy(s->arrays[g].data, f->data[g] + s->base, s->elements * sizeof(float));
}

static void slice_free(slice *s)
{
    for (int g = 0; g < FIXTURE_GROUPS; ++g)
        free(s->arrays[g].data);
}

/* Every rank reads what rank r of w would own, for many w. */
static void check_readable(lks_comm *comm, const fixture *f, uint64_t step)
{
    lks_checkpoint *checkpoint;
    char have[65], want[65];
    MUST_OK(lks_checkpoint_find(&checkpoint, f->run, LKS_CHECK_ALL, false, false));
    MUST(checkpoint != NULL && lks_checkpoint_step(checkpoint) == step);
    MUST_OK(lks_checkpoint_digest(checkpoint, have));
    fixture_digest(f, (int)step, want);
    MUST(strcmp(have, want) == 0);
    for (int w = 1; w <= 8; ++w) {
        uint32_t first, end;
        lks_layout_owned(f->layout, lks_comm_rank(comm) % w, w, &first, &end);
        memset(f->data[1], 0, f->layout->flat_elements * sizeof(float));
        MUST_OK(lks_checkpoint_read(checkpoint, f->layout, &f->arrays[1], first, end));
        for (uint32_t b = first; b < end; ++b) {
            const lks_layout_block *block = &f->layout->blocks[b];
            const lks_layout_tensor *tensor = &f->layout->tensors[block->tensor];
            float value =
                fixture_value(1, block->tensor, block->offset - tensor->offset, (int)step);
            MUST(f->data[1][block->offset] == (tensor->role == LKS_ROLE_PARAMETER ? value : 0.0f));
        }
    }
    lks_checkpoint_close(checkpoint);
    MUST_OK(lks_comm_barrier(comm));
}

/* Saves while "training" goes on, ranks being at it for different times. */
static void check_saves(lks_comm *comm, fixture *f, slice *s, lks_checkpoints *checkpoints)
{
    double stall;
    bool saved;
    for (uint64_t step = 1; step <= 4; ++step) {
        lks_checkpoint_info info = fixture_info(step);
        slice_fill(f, s, (int)step);
        MUST_OK(lks_checkpoints_save(checkpoints, s->arrays, &info, LKS_CHECKPOINT_WAIT, &stall));
        slice_fill(f, s, 99);
        for (int i = 0; i < 1 + lks_comm_rank(comm); ++i)
            MUST_OK(lks_checkpoints_progress(checkpoints));
    }
    MUST_OK(lks_checkpoints_finish(checkpoints, &saved));
    MUST(saved);
    lks_checkpoints_stats stats = lks_checkpoints_get_stats(checkpoints);
    MUST(stats.saved == 4 && stats.failed == 0 && stats.last_step == 4);
    MUST(stats.last_bytes > f->layout->elements * sizeof(float) * 2);
    MUST_OK(lks_comm_barrier(comm));
    check_readable(comm, f, 4);
    MUST(fixture_count(f, "step-") == 3 && fixture_count(f, ".partial") == 0);
}

/* One rank's disk is full: all give that save up, all go on. */
static void check_failure(lks_comm *comm, fixture *f, slice *s, lks_checkpoints *checkpoints,
                          int culprit)
{
    double stall;
    bool saved;
    lks_checkpoint_info info = fixture_info(5);
    slice_fill(f, s, 5);
    if (lks_comm_rank(comm) == culprit)
        fault_set(FAULT_FAIL, culprit == 0 ? 4 : 1, ENOSPC);
    MUST_OK(lks_checkpoints_save(checkpoints, s->arrays, &info, LKS_CHECKPOINT_WAIT, &stall));
    MUST_OK(lks_checkpoints_finish(checkpoints, &saved));
    fault_set(FAULT_NONE, 0, 0);
    MUST(!saved);
    MUST_OK(lks_comm_barrier(comm));
    MUST(fixture_count(f, "step-00000005") == 0);
    check_readable(comm, f, 4);
}

static void check_skip(lks_comm *comm, fixture *f, slice *s, lks_checkpoints *checkpoints)
{
    double stall;
    bool saved;
    lks_checkpoint_info info = fixture_info(4);
    uint64_t before = lks_checkpoints_get_stats(checkpoints).saved;
    slice_fill(f, s, 4);
    MUST_OK(lks_checkpoints_save(checkpoints, s->arrays, &info, LKS_CHECKPOINT_WAIT, &stall));
    MUST_OK(lks_checkpoints_finish(checkpoints, &saved));
    MUST(saved && lks_checkpoints_get_stats(checkpoints).saved == before);
    check_readable(comm, f, 4);
}

/* One rank's disk stands still: what may be left out is, on every rank; training goes on. */
static void check_busy(lks_comm *comm, fixture *f, slice *s, lks_checkpoints *checkpoints)
{
    double stall;
    bool saved, slow = lks_comm_rank(comm) == lks_comm_size(comm) - 1;
    lks_checkpoints_stats before = lks_checkpoints_get_stats(checkpoints);
    if (slow)
        fault_hold();
    for (uint64_t step = 10; step < 14; ++step) {
        lks_checkpoint_info info = fixture_info(step);
        slice_fill(f, s, (int)step);
        MUST_OK(lks_checkpoints_save(checkpoints, s->arrays, &info, LKS_CHECKPOINT_SKIP, &stall));
    }
    MUST_OK(lks_comm_barrier(comm));
    if (slow)
        fault_let_go();
    MUST_OK(lks_checkpoints_finish(checkpoints, &saved));
    MUST(saved);
    lks_checkpoints_stats after = lks_checkpoints_get_stats(checkpoints);
    MUST(after.saved == before.saved + 2 && after.skipped == before.skipped + 2);
    MUST(after.last_step == 11); /* from the second buffer */
    check_readable(comm, f, 11);
}

/* The same, and the last one takes the place of what waits. */
static void check_replace(lks_comm *comm, fixture *f, slice *s, lks_checkpoints *checkpoints)
{
    double stall;
    bool saved, slow = lks_comm_rank(comm) == lks_comm_size(comm) - 1;
    lks_checkpoints_stats before = lks_checkpoints_get_stats(checkpoints);
    if (slow)
        fault_hold();
    for (uint64_t step = 20; step < 24; ++step) {
        lks_checkpoint_info info = fixture_info(step);
        slice_fill(f, s, (int)step);
        MUST_OK(
            lks_checkpoints_save(checkpoints, s->arrays, &info, LKS_CHECKPOINT_REPLACE, &stall));
    }
    slice_fill(f, s, 99);
    MUST_OK(lks_comm_barrier(comm));
    if (slow)
        fault_let_go();
    MUST_OK(lks_checkpoints_finish(checkpoints, &saved));
    MUST(saved);
    lks_checkpoints_stats after = lks_checkpoints_get_stats(checkpoints);
    MUST(after.saved == before.saved + 2 && after.skipped == before.skipped + 2);
    MUST(after.last_step == 23);
    check_readable(comm, f, 23);
}

/* A run directory that only the root has. */
static void check_not_shared(lks_comm *comm, fixture *f)
{
    lks_checkpoints *checkpoints;
    lks_checkpoints_spec spec = f->spec;
    if (lks_comm_size(comm) == 1)
        return;
    if (lks_comm_rank(comm) != 0)
        spec.run_directory = "/no/such/place";
    MUST(lks_checkpoints_open(&checkpoints, &spec) == LKS_ERR_IO);
    MUST((lks_status_message()[0] != '\0') == (lks_comm_rank(comm) == 1));
    MUST(lks_comm_rank(comm) != 1 ||
         strstr(lks_status_message(), "a file system that all hosts share") != NULL);
    MUST_OK(lks_comm_barrier(comm));
    MUST(fixture_count(f, ".partial") == 0);
}

static lks_status write_slowly(void *user)
{
    uint64_t start_ns = lks_clock_ns();
    while (lks_clock_seconds_since(start_ns) < 0.05)
        ;
    atomic_store((atomic_bool *)user, true);
    return LKS_OK;
}

/* After a peer was lost: with a send that cannot be given up the memory stays, and yet the writer's task has ended. */
static void check_broken_close(lks_comm *comm, fixture *f)
{
    enum { BYTES = 1 << 20 };
    lks_checkpoints *checkpoints;
    lks_comm_request *receive;
    atomic_bool ended = false;
    bool saved;
    char *bytes = calloc(1, BYTES);
    int rank = lks_comm_rank(comm);
    MUST(bytes != NULL);
    MUST_OK(lks_checkpoints_open(&checkpoints, &f->spec));
    MUST_OK(lks_checkpoints_finish(checkpoints, &saved));
    if (rank == 0) {
        MUST_OK(lks_comm_send(comm, 1, LKS_SAVE_TAG_PLAN, bytes, BYTES,
                              &checkpoints->plans.requests[0]));
        checkpoints->broken = true;
        lks_worker_start(checkpoints->worker, write_slowly, &ended);
    }
    lks_checkpoints_close(checkpoints);
    MUST(atomic_load(&ended) || rank != 0);
    if (rank == 1) {
        MUST_OK(lks_comm_receive(comm, 0, LKS_SAVE_TAG_PLAN, bytes, BYTES, &receive));
        MUST_OK(lks_comm_wait(comm, &receive, NULL));
    }
    MUST_OK(lks_comm_barrier(comm));
    free(bytes);
}

int main(void)
{
    fixture f;
    slice s;
    lks_checkpoints *checkpoints;
    if (fixture_open(&f, "mpi", "/tmp") != LKS_OK)
        return 1;
    lks_comm *comm = f.comm;
    slice_make(comm, &f, &s);
    MUST_OK(lks_checkpoints_open(&checkpoints, &f.spec));
    check_saves(comm, &f, &s, checkpoints);
    check_skip(comm, &f, &s, checkpoints);
    check_failure(comm, &f, &s, checkpoints, lks_comm_size(comm) - 1);
    check_failure(comm, &f, &s, checkpoints, 0);
    check_busy(comm, &f, &s, checkpoints);
    check_replace(comm, &f, &s, checkpoints);
    lks_checkpoints_close(checkpoints);
    if (lks_comm_size(comm) > 1)
        check_broken_close(comm, &f);
    check_not_shared(comm, &f);
    slice_free(&s);
    fixture_close(&f);
    return 0;
}
