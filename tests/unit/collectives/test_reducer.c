/* Run under mpirun: several steps of every link, against the tree computed alone.
 *
 *   test_reducer           the links that any host has, and the choice between them
 *   test_reducer LINK      this one, in fewer cases: it may run on an emulated processor
 *
 * Every rank makes the gradients of its lanes, and knows those of all: the wanted sums and
 * parameters are computed by each for itself, element by element in the order of the definition.
 */
#include "tests/unit/collectives/ranks.h"

#include "collectives/comm_driver.h"
#include "collectives/lane_tree.h"
#include "collectives/reducer.h"
#include "runtime/base/config.h"
#include "runtime/base/memory.h"
#include "runtime/base/rng.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 3 };

/* What is checked. */
typedef struct links {
    const char *names[2];
    int count;
    bool few; /* cases */
    const lks_verbs_options *verbs;
} links;

typedef struct world {
    lks_comm *comm;
    lks_device *device;
    const lks_layout *layout;
    lks_reducer *reducer;
    int lanes, first_lane, end_lane;
    uint64_t bucket_bytes;
    float **lane_gradients; /* [lanes] flat, of this step */
    float *wanted_sum;      /* flat */
    float *wanted_parameters;
} world;

static uint64_t seed_of(const world *w, int step, int lane)
{
    return lks_rng_key((uint64_t)w->lanes * 1000 + (uint64_t)step, LKS_RNG_TEST, (uint32_t)lane);
}

/* Magnitudes far apart, so that the order of a sum shows in its bits. */
static void make_gradient(const world *w, int step, int lane, float *out)
{
    uint64_t key = seed_of(w, step, lane);
    for (uint64_t i = 0; i < w->layout->flat_elements; i += 4) {
        lks_rng_block words = lks_rng_words(key, 0, i);
        for (uint64_t j = 0; j < 4 && i + j < w->layout->flat_elements; ++j) {
            uint32_t word = words.word[j];
            out[i + j] = (lks_rng_uniform(word) - 0.5f) * (float)(1 << (word & 15));
        }
    }
}

static float tree_sum(const world *w, int a, int b, uint64_t element)
{
    if (b - a == 1)
        return w->lane_gradients[a][element];
    int half = 1;
    for (int next = 1; next < b - a; next *= 2)
        half = next;
    return tree_sum(w, a, a + half, element) + tree_sum(w, a + half, b, element);
}

static float initial_parameter(uint64_t element)
{
    return (float)(element % 1000) * 0.01f;
}

static float updated(float parameter, float gradient)
{
    return parameter - 0.125f * gradient;
}

static void want_step(world *w, int step)
{
    for (int lane = 0; lane < w->lanes; ++lane)
        make_gradient(w, step, lane, w->lane_gradients[lane]);
    for (uint32_t b = 0; b < w->layout->block_count; ++b) {
        const lks_layout_block *block = &w->layout->blocks[b];
        for (uint64_t i = block->offset; i < block->offset + block->elements; ++i) {
            w->wanted_sum[i] = tree_sum(w, 0, w->lanes, i);
            w->wanted_parameters[i] = updated(w->wanted_parameters[i], w->wanted_sum[i]);
        }
    }
}

/* Bytes that leave early when all tensors but the first are final before lane_done. */
static uint64_t early_bytes(const world *w)
{
    uint64_t early = 0, bucket = 0, target = w->bucket_bytes ? w->bucket_bytes : 4u << 20;
    bool has_first = false;
    for (uint32_t b = 0; b < w->layout->block_count; ++b) {
        bucket += w->layout->blocks[b].elements * sizeof(float);
        has_first = has_first || w->layout->blocks[b].tensor == 0;
        if (bucket >= target || b + 1 == w->layout->block_count) {
            early += has_first ? 0 : bucket;
            bucket = 0;
            has_first = false;
        }
    }
    return early;
}

static void run_last_lane(world *w, float *gradient)
{
    lks_comm *comm = w->comm;
    const float *source = w->lane_gradients[w->end_lane - 1];
    for (uint32_t t = w->layout->tensor_count; t-- > 0;) {
        const lks_layout_tensor *tensor = &w->layout->tensors[t];
        memcpy(gradient + tensor->offset, source + tensor->offset,
               tensor->elements * sizeof *gradient);
        if (t > 0)
            lks_reducer_final(w->reducer, t);
        MUST_OK(lks_reducer_progress(w->reducer));
    }
}

static void run_lanes(world *w)
{
    lks_comm *comm = w->comm;
    MUST_OK(lks_reducer_begin(w->reducer));
    for (int lane = w->first_lane; lane < w->end_lane; ++lane) {
        float *gradient = lks_reducer_lane(w->reducer, lane);
        if (lane + 1 == w->end_lane)
            run_last_lane(w, gradient);
        else
            memcpy(gradient, w->lane_gradients[lane], w->layout->flat_elements * sizeof(float));
        MUST_OK(lks_reducer_lane_done(w->reducer, lane));
    }
}

static void check_stats(world *w)
{
    lks_comm *comm = w->comm;
    lks_reducer_stats stats = lks_reducer_get_stats(w->reducer);
    lks_lane_stack stack;
    lks_lane_partials(w->lanes, w->first_lane, w->end_lane, &stack);
    uint64_t partials = (uint64_t)stack.count;
    MUST(stats.bytes_total == partials * w->layout->elements * sizeof(float));
    MUST(stats.bytes_early == partials * early_bytes(w));
    if (w->bucket_bytes == 1 && w->layout->tensor_count > 2)
        MUST(stats.bytes_early > stats.bytes_total / 2);
    MUST(stats.wait_seconds >= 0 && stats.wait_seconds < 60);
    MUST(stats.shared_bytes + stats.private_bytes >= 2 * w->layout->flat_elements * sizeof(float));
}

static void check_own_blocks(world *w)
{
    lks_comm *comm = w->comm;
    uint32_t first = 0, end = 0;
    lks_reducer_owned(w->reducer, &first, &end);
    for (uint32_t b = first; b < end; ++b) {
        const lks_layout_block *block = &w->layout->blocks[b];
        lks_partial whole = {0, w->lanes, w->wanted_sum, 0};
        double wanted_square_sum = 0;
        MUST(memcmp(lks_reducer_sums(w->reducer) + block->offset, w->wanted_sum + block->offset,
                    block->elements * sizeof(float)) == 0);
        const lks_sum call = {
            block, block, 1, &whole, 1, w->lanes, w->wanted_sum, &wanted_square_sum};
        MUST_OK(lks_device_sum_blocks(w->device, &call));
        MUST(memcmp(&lks_reducer_square_sums(w->reducer)[b - first], &wanted_square_sum,
                    sizeof wanted_square_sum) == 0);
    }
}

static void update_own_blocks(world *w)
{
    uint32_t first = 0, end = 0;
    float *parameters = lks_reducer_parameters(w->reducer);
    lks_reducer_owned(w->reducer, &first, &end);
    for (uint32_t b = first; b < end; ++b) {
        const lks_layout_block *block = &w->layout->blocks[b];
        const float *sum = lks_reducer_sums(w->reducer) + block->offset;
        for (uint32_t i = 0; i < block->elements; ++i)
            parameters[block->offset + i] = updated(parameters[block->offset + i], sum[i]);
    }
}

static void check_parameters(world *w)
{
    lks_comm *comm = w->comm;
    const float *parameters = lks_reducer_parameters(w->reducer);
    for (uint32_t b = 0; b < w->layout->block_count; ++b) {
        const lks_layout_block *block = &w->layout->blocks[b];
        MUST(memcmp(parameters + block->offset, w->wanted_parameters + block->offset,
                    block->elements * sizeof *parameters) == 0);
    }
}

static void run_step(world *w, int step)
{
    lks_comm *comm = w->comm;
    want_step(w, step);
    run_lanes(w);
    MUST_OK(lks_reducer_sum(w->reducer));
    check_stats(w);
    check_own_blocks(w);
    MUST_OK(lks_comm_agree(comm, LKS_OK)); /* the exchange of norms */
    update_own_blocks(w);
    MUST_OK(lks_reducer_gather(w->reducer));
    check_parameters(w);
}

static void open_world(world *w)
{
    lks_comm *comm = w->comm;
    uint64_t elements = w->layout->flat_elements;
    lks_lanes_of(w->lanes, lks_comm_rank(comm), lks_comm_size(comm), &w->first_lane, &w->end_lane);
    MUST_OK(LKS_NEW_ARRAY(&w->lane_gradients, (size_t)w->lanes));
    for (int lane = 0; lane < w->lanes; ++lane)
        MUST_OK(LKS_NEW_ARRAY(&w->lane_gradients[lane], elements));
    MUST_OK(LKS_NEW_ARRAY(&w->wanted_sum, elements));
    MUST_OK(LKS_NEW_ARRAY(&w->wanted_parameters, elements));
    float *parameters = lks_reducer_parameters(w->reducer);
    for (uint64_t i = 0; i < elements; ++i)
        parameters[i] = w->wanted_parameters[i] = initial_parameter(i);
    MUST_OK(lks_comm_barrier(w->comm));
}

static void close_world(world *w)
{
    lks_reducer_close(w->reducer);
    for (int lane = 0; lane < w->lanes; ++lane)
        lks_memory_free(w->lane_gradients[lane]);
    lks_memory_free(w->lane_gradients);
    lks_memory_free(w->wanted_sum);
    lks_memory_free(w->wanted_parameters);
}

static void check_link(lks_comm *comm, lks_device *device, const lks_layout *layout,
                       const links *all, const char *link, int lanes, uint64_t bucket_bytes)
{
    world w = {.comm = comm,
               .device = device,
               .layout = layout,
               .lanes = lanes,
               .bucket_bytes = bucket_bytes};
    lks_reducer_spec spec = {.comm = comm,
                             .device = device,
                             .layout = layout,
                             .lanes = lanes,
                             .link = link,
                             .bucket_bytes = bucket_bytes,
                             .verbs = all->verbs};
    MUST_OK(lks_reducer_open(&w.reducer, &spec));
    MUST(strcmp(lks_reducer_link(w.reducer), link) == 0);
    open_world(&w);
    uint64_t allocations = 0;
    for (int step = 0; step < STEPS; ++step) {
        run_step(&w, step);
        if (step < 2)
            allocations = lks_memory_allocation_count();
        MUST(lks_memory_allocation_count() == allocations);
    }
    close_world(&w);
}

/* Odd sizes, a buffer, tensors of many blocks and of one element; from a seed. */
static void make_layout(lks_comm *comm, uint32_t seed, lks_layout **out)
{
    MUST_OK(lks_layout_create(out));
    for (uint32_t t = 0; t < 9; ++t) {
        uint32_t word = lks_rng_words(seed, 7, t).word[0];
        int64_t small = 1 + word % 400, large = LKS_BLOCK_ELEMENTS / 2 + word % 100000;
        int64_t elements = t == 0 ? 33 : t == 4 ? 2 * LKS_BLOCK_ELEMENTS : t % 3 ? small : large;
        char name[16];
        snprintf(name, sizeof name, "t%u", t);
        MUST_OK(lks_layout_add(*out, name, LKS_SHAPE(elements),
                               t % 4 == 2 ? LKS_ROLE_BUFFER : LKS_ROLE_PARAMETER, false, NULL));
    }
}

static void check_layouts(lks_comm *comm, lks_device *device, const links *all)
{
    static const int lanes[] = {5, 6, 8};
    static const uint64_t bucket_bytes[] = {1, 300000, 0};
    for (uint32_t i = 0; i < 3; ++i) {
        lks_layout *layout = NULL;
        if (all->few && i != (uint32_t)lks_comm_size(comm) % 3)
            continue;
        make_layout(comm, i + 1, &layout);
        for (int k = 0; k < all->count; ++k) {
            const char *link = all->names[k];
            check_link(comm, device, layout, all, link, lanes[i], bucket_bytes[i]);
            if (!all->few)
                check_link(comm, device, layout, all, link, lanes[(i + 1) % 3], bucket_bytes[i]);
        }
        lks_layout_destroy(layout);
    }
}

/* Fewer blocks than ranks: some own nothing. */
static void check_tiny(lks_comm *comm, lks_device *device, const links *all)
{
    lks_layout *layout = NULL;
    MUST_OK(lks_layout_create(&layout));
    MUST_OK(lks_layout_add(layout, "a", LKS_SHAPE(3), LKS_ROLE_PARAMETER, false, NULL));
    MUST_OK(lks_layout_add(layout, "b", LKS_SHAPE(1), LKS_ROLE_PARAMETER, false, NULL));
    for (int k = 0; k < all->count; ++k)
        check_link(comm, device, layout, all, all->names[k], 7, 1);
    lks_layout_destroy(layout);
}

static void check_refused(lks_comm *comm, const lks_reducer_spec *spec, const char *reason)
{
    lks_reducer *reducer = NULL;
    MUST(lks_reducer_open(&reducer, spec) == LKS_ERR_USAGE && !reducer);
    bool speaks = lks_comm_rank(comm) == 0;
    MUST((strstr(lks_status_message(), reason) != NULL) == speaks);
    MUST((lks_status_message()[0] != 0) == speaks);
}

static void check_choice(lks_comm *comm, lks_device *device)
{
    lks_layout *layout = NULL;
    make_layout(comm, 1, &layout);
    lks_reducer_spec spec = {
        .comm = comm, .device = device, .layout = layout, .lanes = 8, .link = "auto"};
    lks_reducer *reducer = NULL;
    bool one_node = lks_comm_node_count(comm) == 1;
    MUST_OK(lks_reducer_open(&reducer, &spec));
    MUST(strcmp(lks_reducer_link(reducer), one_node ? "shm" : "mpi") == 0);
    lks_reducer_close(reducer);
    reducer = NULL;
    spec.link = "shm";
    if (!one_node)
        check_refused(comm, &spec, "needs all ranks on one node");
    spec.link = "verbz";
    check_refused(comm, &spec, "there are auto, shm, ");
    spec.link = "auto";
    spec.lanes = 0;
    check_refused(comm, &spec, "train.lanes is 0");
    spec.lanes = lks_comm_size(comm) - 1;
    if (spec.lanes > 0)
        check_refused(comm, &spec, "lanes");
    lks_layout_destroy(layout);
}

/* A step that all ranks give up in the middle leaves nothing under way. */
static void check_given_up(lks_comm *comm, lks_device *device, const links *all, const char *link)
{
    lks_layout *layout = NULL;
    lks_reducer *reducer = NULL;
    make_layout(comm, 3, &layout);
    lks_reducer_spec spec = {.comm = comm,
                             .device = device,
                             .layout = layout,
                             .lanes = 6,
                             .link = link,
                             .verbs = all->verbs};
    MUST_OK(lks_reducer_open(&reducer, &spec));
    MUST_OK(lks_reducer_begin(reducer));
    MUST_OK(lks_reducer_progress(reducer));
    lks_reducer_close(reducer);
    MUST_OK(lks_comm_barrier(comm));
    lks_layout_destroy(layout);
}

static void check_split(lks_comm *comm, lks_device *device, const links *all)
{
    lks_layout *layout = NULL;
    lks_comm_set_message_limit(comm, 4099); /* not a multiple of an element */
    check_tiny(comm, device, all);
    make_layout(comm, 9, &layout);
    check_link(comm, device, layout, all, "mpi", 5, 300000);
    lks_layout_destroy(layout);
}

static links links_to_check(const lks_comm *comm, const char *named, const lks_verbs_options *verbs)
{
    if (named)
        return (links){.names = {named}, .count = 1, .few = true, .verbs = verbs};
    if (lks_comm_node_count(comm) > 1)
        return (links){.names = {"mpi"}, .count = 1, .verbs = verbs};
    return (links){.names = {"shm", "mpi"}, .count = 2, .verbs = verbs};
}

int main(int argc, char **argv)
{
    lks_comm *comm = NULL;
    lks_device *device = NULL;
    lks_config *config = NULL;
    lks_verbs_options verbs;
    lks_status status = lks_comm_open(&comm, "auto");
    if (status != LKS_OK) {
        lks_log_failure(status);
        return (int)status;
    }
    MUST_OK(lks_config_create(&config));
    MUST_OK(lks_config_use_environment(config, environ));
    MUST_OK(lks_config_bind(config, "verbs", lks_verbs_option_table, &verbs));
    /* on_nodes.sh gives the number of nodes, verbs' own tests the link. */
    const char *named = argc > 1 && !isdigit((unsigned char)argv[1][0]) ? argv[1] : NULL;
    links all = links_to_check(comm, named, &verbs);
    MUST_OK(lks_device_open(&device, "cpu", lks_comm_local_rank(comm)));
    if (!named)
        check_choice(comm, device);
    for (int k = 0; k < all.count; ++k)
        check_given_up(comm, device, &all, all.names[k]);
    check_tiny(comm, device, &all);
    check_layouts(comm, device, &all);
    if (!all.few)
        check_split(comm, device, &all);
    lks_config_destroy(config);
    lks_device_close(device);
    lks_comm_close(comm);
    return 0;
}
