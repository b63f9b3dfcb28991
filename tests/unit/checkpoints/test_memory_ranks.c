/* Run under mpirun: copies that any world has left are read by this one, from whichever node holds them; and
 * this world's own copies are taken, kept and removed. Each node has a directory of its own. */
#include "checkpoints/memory_state.h"
#include "runtime/base/files.h"
#include "runtime/base/memory.h"
#include "tests/unit/checkpoints/fixture.h"
#include "tests/unit/collectives/ranks.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH_SIZE = 300 };

static const char run_id[] = "00112233445566ff";

typedef struct world {
    lks_comm *comm;
    fixture *f;
    char memory[PATH_SIZE]; /* this node's */
    lks_memory_spec spec;
} world;

static const char *node_path(const world *w, int node, char out[PATH_SIZE])
{
    snprintf(out, PATH_SIZE, "%s/node%d", w->f->run, node);
    return out;
}

static void world_make(world *w, fixture *f)
{
    lks_comm *comm = f->comm;
    lks_checkpoint_info info = fixture_info(1);
    *w = (world){.comm = comm, .f = f};
    node_path(w, lks_comm_node(comm), w->memory);
    MUST_OK(lks_files_make_directories(w->memory));
    w->spec = (lks_memory_spec){.directory = w->memory,
                                .run_directory = f->run,
                                .run_id = run_id,
                                .model_fingerprint = info.model_fingerprint,
                                .dataset_digest = info.dataset_digest,
                                .arithmetic = info.arithmetic,
                                .seed = info.seed,
                                .layout = f->layout,
                                .arrays = f->arrays,
                                .array_count = FIXTURE_GROUPS,
                                .first_block = f->spec.first_block,
                                .end_block = f->spec.end_block,
                                .comm = comm};
    MUST_OK(lks_comm_barrier(comm));
}

static size_t count_files(const world *w, const char *part)
{
    lks_comm *comm = w->comm;
    lks_file_list list;
    size_t count = 0;
    MUST_OK(lks_files_list(w->memory, &list));
    for (size_t i = 0; i < list.count; ++i)
        count += strstr(list.names[i], part) != NULL;
    lks_file_list_release(&list);
    return count;
}

/* What rank `rank` of `size` would have left in `node`'s memory. */
static void leave_copy(const world *w, uint64_t step, uint64_t start, int size, int rank, int node)
{
    lks_comm *comm = w->comm;
    lks_memory_identity identity;
    uint32_t first, end;
    char directory[PATH_SIZE], path[2 * PATH_SIZE];
    lks_memory_identity_init(&identity, &w->spec);
    lks_layout_owned(w->f->layout, rank, size, &first, &end);
    lks_memory_shape shape = lks_memory_shape_of(&identity, first, end);
    char *map = calloc(1, shape.bytes);
    MUST(map != NULL);
    lks_memory_header header = identity.common;
    header.step = step;
    header.start = start;
    header.world_size = (uint32_t)size;
    header.rank = (uint32_t)rank;
    snprintf(header.note, sizeof header.note, "note of %llu", (unsigned long long)step);
    fixture_fill(w->f, (int)step);
    lks_memory_fill(&identity, &shape, map, w->f->arrays);
    lks_memory_seal(&identity, &shape, map, &header);
    snprintf(path, sizeof path, "%s/lockstep-%s-%016llx-step-%08llu-rank-%d-of-%d-at-%d",
             node_path(w, node, directory), run_id, (unsigned long long)header.run_hash,
             (unsigned long long)step, rank, size, node);
    MUST_OK(lks_files_write_atomically(path, map, shape.bytes));
    free(map);
}

/* Own blocks of all arrays are those of `step`. */
static void check_state(const world *w, uint64_t step)
{
    lks_comm *comm = w->comm;
    const fixture *f = w->f;
    for (int g = 0; g < FIXTURE_GROUPS; ++g) {
        for (uint32_t b = f->spec.first_block; b < f->spec.end_block; ++b) {
            const lks_layout_block *block = &f->layout->blocks[b];
            const lks_layout_tensor *tensor = &f->layout->tensors[block->tensor];
            if (g > 0 && tensor->role != LKS_ROLE_PARAMETER)
                continue;
            for (uint32_t i = 0; i < block->elements; ++i)
                MUST(
                    f->data[g][block->offset + i] ==
                    fixture_value(g, block->tensor, block->offset - tensor->offset + i, (int)step));
        }
    }
}

static void check_found(const world *w, lks_memory_copies *copies, uint64_t step)
{
    lks_comm *comm = w->comm;
    char note[LKS_MEMORY_NOTE];
    lks_memory_found found = lks_memory_copies_find(copies);
    snprintf(note, sizeof note, "note of %llu", (unsigned long long)step);
    MUST(found.there && found.step == step && strcmp(found.note, note) == 0);
    MUST(strcmp(found.arithmetic, "cpu test") == 0 && !found.disk_is_newer);
    fixture_fill(w->f, 77);
    MUST_OK(lks_memory_copies_read(copies, w->f->arrays));
    check_state(w, step);
}

/* `size` ranks have left step 40 whole, and step 50 without its last rank's blocks. */
static void check_left_by(world *w, int size)
{
    lks_comm *comm = w->comm;
    lks_memory_copies *copies;
    int nodes = lks_comm_node_count(comm);
    if (lks_comm_rank(comm) == 0) {
        for (int r = 0; r < size; ++r) {
            leave_copy(w, 40, 1, size, r, r % nodes);
            leave_copy(w, 30, 1, size, r, 0);
            if (r < size - 1)
                leave_copy(w, 50, 2, size, r, 0);
            else /* of another start, and so no part of that set */
                leave_copy(w, 50, 3, size + 1, r, 0);
        }
        if (size > 1) /* both have it */
            leave_copy(w, 40, 1, size, 0, nodes - 1);
    }
    MUST_OK(lks_comm_barrier(comm));
    MUST_OK(lks_memory_copies_open(&copies, &w->spec));
    check_found(w, copies, 40);
    MUST_OK(lks_memory_copies_begin(copies, true));
    MUST(count_files(w, "-step-00000050-") == 0 && count_files(w, "-step-00000030-") == 0);
    MUST(lks_comm_node(comm) >= size || count_files(w, "-step-00000040-") > 0);
    MUST_OK(lks_memory_copies_discard(copies));
    lks_memory_copies_close(copies);
    MUST_OK(lks_comm_barrier(comm));
    MUST(count_files(w, "lockstep-") == 0);
    MUST_OK(lks_comm_barrier(comm));
}

/* Steps go by until the copy under way is whole everywhere. */
static void pass_steps(const world *w, lks_memory_copies *copies, uint64_t *step, uint64_t whole)
{
    lks_comm *comm = w->comm;
    for (int64_t worst = 1; worst != 0;) {
        lks_comm_request *request;
        MUST_OK(lks_memory_copies_progress(copies, ++*step));
        MUST_OK(
            lks_comm_max_start(comm, lks_memory_copies_get_stats(copies).whole < whole, &request));
        MUST_OK(lks_comm_wait(comm, &request, &worst));
    }
}

static void take(const world *w, lks_memory_copies *copies, uint64_t *step, uint64_t whole)
{
    lks_comm *comm = w->comm;
    double seconds;
    char note[LKS_MEMORY_NOTE];
    uint64_t at = ++*step;
    snprintf(note, sizeof note, "note of %llu", (unsigned long long)at);
    fixture_fill(w->f, (int)at);
    MUST_OK(lks_memory_copies_take(copies, w->f->arrays, at, note, &seconds));
    fixture_fill(w->f, 99); /* the optimizer is at it again */
    MUST_OK(lks_memory_copies_progress(copies, at));
    pass_steps(w, copies, step, whole);
    MUST(lks_memory_copies_get_stats(copies).last_step == at && seconds > 0);
}

/* A start takes copies and ends without a word; the next finds the last; two generations are all there is. */
static void check_life(world *w)
{
    lks_comm *comm = w->comm;
    lks_memory_copies *copies;
    uint64_t step = 100, last = 0;
    size_t kept = 0;
    for (int start = 0; start < 3; ++start) {
        MUST_OK(lks_memory_copies_open(&copies, &w->spec));
        MUST(lks_memory_copies_find(copies).there == (start > 0));
        if (start > 0)
            check_found(w, copies, last);
        MUST_OK(lks_memory_copies_begin(copies, start > 0));
        MUST_OK(lks_memory_copies_reserve(copies));
        MUST(lks_memory_copies_get_stats(copies).bytes > 0);
        for (uint64_t i = 1; i <= 3; ++i) {
            take(w, copies, &step, i);
            last = lks_memory_copies_get_stats(copies).last_step;
            MUST_OK(lks_comm_barrier(comm));
            kept = (size_t)lks_comm_local_size(comm) * (lks_comm_node_count(comm) > 1 ? 2 : 1);
            /* On two uneven nodes a rank has more or fewer neighbours. */
            MUST(lks_comm_node_count(comm) > 1 ||
                 count_files(w, "-step-") == (i == 1 ? kept : 2 * kept));
            MUST(count_files(w, "-step-") + count_files(w, "-partial-") <= 4 * kept + 4);
            MUST_OK(lks_comm_barrier(comm));
        }
        lks_memory_stats stats = lks_memory_copies_get_stats(copies);
        MUST(stats.whole == 3 && stats.failed == 0 && stats.skipped == 0);
        lks_memory_copies_close(copies);
        MUST_OK(lks_comm_barrier(comm));
        MUST(count_files(w, "-partial-") == 0 && count_files(w, "-lock") == 1);
        MUST_OK(lks_comm_barrier(comm));
    }
}

/* Every node but the first loses its memory, and the first has its own blocks and its neighbour's. */
static void check_lost_node(world *w)
{
    lks_comm *comm = w->comm;
    lks_memory_copies *copies;
    if (lks_comm_node_count(comm) == 2) {
        if (lks_comm_node(comm) == 1 && lks_comm_local_rank(comm) == 0)
            MUST_OK(lks_files_remove_tree(w->memory));
        if (lks_comm_node(comm) == 1)
            MUST_OK(lks_files_make_directories(w->memory));
        MUST_OK(lks_comm_barrier(comm));
        MUST_OK(lks_memory_copies_open(&copies, &w->spec));
        lks_memory_found found = lks_memory_copies_find(copies);
        MUST(found.there && found.nodes == 1);
        check_found(w, copies, found.step);
        lks_memory_copies_close(copies);
        MUST_OK(lks_comm_barrier(comm));
    }
    MUST_OK(lks_memory_copies_open(&copies, &w->spec));
    MUST_OK(lks_memory_copies_begin(copies, false));
    MUST_OK(lks_memory_copies_discard(copies));
    lks_memory_copies_close(copies);
    MUST_OK(lks_comm_barrier(comm));
    MUST(count_files(w, "lockstep-") == 0);
}

/* One node's memory is not there: all go on without. */
static void check_no_memory(world *w)
{
    lks_comm *comm = w->comm;
    lks_memory_copies *copies;
    lks_memory_spec spec = w->spec;
    double seconds = 1;
    if (lks_comm_rank(comm) == lks_comm_size(comm) - 1)
        spec.directory = "/no/such/place";
    MUST_OK(lks_memory_copies_open(&copies, &spec));
    MUST(!lks_memory_copies_find(copies).there);
    MUST_OK(lks_memory_copies_begin(copies, false));
    MUST_OK(lks_memory_copies_reserve(copies));
    MUST_OK(lks_memory_copies_take(copies, w->f->arrays, 5, "", &seconds));
    MUST_OK(lks_memory_copies_progress(copies, 6));
    MUST(seconds == 0 && lks_memory_copies_get_stats(copies).whole == 0);
    MUST_OK(lks_memory_copies_discard(copies));
    lks_memory_copies_close(copies);
    MUST_OK(lks_comm_barrier(comm));
    MUST(count_files(w, "lockstep-") == 0);
}

int main(void)
{
    fixture f;
    world w;
    if (fixture_open(&f, "mpi", "/tmp") != LKS_OK)
        return 1;
    world_make(&w, &f);
    for (int size = 1; size <= 5; ++size)
        check_left_by(&w, size);
    check_life(&w);
    check_lost_node(&w);
    check_no_memory(&w);
    fixture_close(&f);
    return 0;
}
