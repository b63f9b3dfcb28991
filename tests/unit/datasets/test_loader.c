#include "fixture.h"
#include "suites.h"

#include "runtime/base/memory.h"
#include "runtime/datasets/loader.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT = 3 };

static lks_dataset *open_fixture(void)
{
    lks_dataset *dataset = NULL;
    assert_ok(lks_dataset_open(&dataset, fixture_directory, CONTEXT));
    return dataset;
}

/* The batch is what positions alone demand; counts the samples in `seen` by position. */
static void check_batch(const lks_loader_spec *spec, const lks_batch *batch, int *seen,
                        uint64_t end)
{
    uint64_t samples = lks_dataset_samples(spec->dataset), valid = 0;
    uint64_t lane_samples = (uint64_t)(spec->micro_batches * spec->micro_batch);
    const int32_t *tokens = batch->fields[0], *targets = batch->fields[1];
    uint64_t total = 0;
    ck_assert_uint_eq((uintptr_t)tokens % 64, 0);
    ck_assert_uint_eq((uintptr_t)targets % 64, 0);
    total = (uint64_t)json_integer_value(
        json_object_get(lks_dataset_manifest(spec->dataset), "records"));
    for (int64_t i = 0; i < spec->micro_batch; ++i) {
        uint64_t position = batch->step * lane_samples * (uint64_t)spec->lanes +
                            (uint64_t)batch->lane * lane_samples +
                            (uint64_t)(batch->index * spec->micro_batch + i);
        uint64_t sample = position < samples ? position : LKS_SAMPLE_NONE;
        if (spec->order != NULL)
            sample = lks_order_sample(spec->order, position);
        ck_assert_uint_eq(batch->positions[i], position);
        ck_assert_uint_eq(batch->samples[i], sample);
        ck_assert_uint_lt(position, end);
        ++seen[position];
        for (uint64_t j = 0; j < CONTEXT; ++j) {
            uint64_t at = sample * CONTEXT + j;
            bool masked = sample == LKS_SAMPLE_NONE;
            ck_assert_int_eq(*tokens++, masked || at >= total ? 0 : fixture_token(at));
            ck_assert_int_eq(*targets++, masked || at + 1 >= total ? -1 : fixture_token(at + 1));
            valid += !masked && at + 1 < total;
        }
    }
    ck_assert_uint_eq(batch->valid_targets, valid);
}

/* One rank's part of steps [first, end), in order. */
static void run_rank(const lks_loader_spec *spec, int *seen, uint64_t end)
{
    lks_loader *loader;
    lks_batch batch;
    assert_ok(lks_loader_open(&loader, spec));
    ck_assert_uint_gt(lks_loader_bytes(loader), 0);
    for (uint64_t step = spec->first_step; step < spec->end_step; ++step)
        for (int64_t lane = spec->first_lane; lane < spec->end_lane; ++lane)
            for (int64_t index = 0; index < spec->micro_batches; ++index) {
                assert_ok(lks_loader_next(loader, &batch));
                ck_assert_uint_eq(batch.step, step);
                ck_assert_int_eq(batch.lane, lane);
                ck_assert_int_eq(batch.index, index);
                check_batch(spec, &batch, seen, end);
            }
    assert_status(lks_loader_next(loader, &batch), LKS_ERR_INTERNAL);
    ck_assert(lks_loader_take_wait_seconds(loader) >= 0);
    ck_assert(lks_loader_take_wait_seconds(loader) == 0);
    lks_loader_close(loader);
}

/* `ranks` share the lanes; the job is cut in two at a step, as a resume does. */
static void run_job(lks_dataset *dataset, const lks_order *order, int64_t lanes, int64_t ranks,
                    int64_t micro_batches, int64_t micro_batch)
{
    uint64_t global = (uint64_t)(lanes * micro_batches * micro_batch);
    uint64_t steps = 2 * lks_dataset_samples(dataset) / global + 2, end = steps * global;
    int *seen = calloc(end, sizeof *seen);
    for (int part = 0; part < 2; ++part)
        for (int64_t rank = 0; rank < ranks; ++rank) {
            lks_loader_spec spec = {.dataset = dataset,
                                    .order = order,
                                    .lanes = lanes,
                                    .first_lane = rank * lanes / ranks,
                                    .end_lane = (rank + 1) * lanes / ranks,
                                    .micro_batches = micro_batches,
                                    .micro_batch = micro_batch,
                                    .first_step = part == 0 ? 0 : 1,
                                    .end_step = part == 0 ? 1 : steps,
                                    .threads = 1 + (int)(rank + micro_batch) % 3,
                                    .depth = 2 + (int)(lanes + rank) % 4};
            run_rank(&spec, seen, end);
        }
    for (uint64_t i = 0; i < end; ++i)
        ck_assert_int_eq(seen[i], 1);
    free(seen);
}

START_TEST(any_split_delivers_the_positions)
{
    fixture_layout layout = FIXTURE_LAYOUT(16, 30, 1, 38);
    fixture_text(LKS_U8, &layout);
    lks_dataset *dataset = open_fixture();
    ck_assert_uint_eq(lks_dataset_samples(dataset), 23);
    lks_order order = {23, 5, 4, 2};
    const int64_t lanes[] = {1, 2, 3, 4, 6, 8};
    for (size_t i = 0; i < sizeof lanes / sizeof *lanes; ++i)
        for (int64_t ranks = 1; ranks <= lanes[i]; ++ranks)
            for (int64_t micro_batches = 1; micro_batches <= 3; ++micro_batches)
                for (int64_t micro_batch = 1; micro_batch <= 5; micro_batch += 2)
                    run_job(dataset, (ranks + micro_batch) % 4 != 0 ? &order : NULL, lanes[i],
                            ranks, micro_batches, micro_batch);
    lks_dataset_close(dataset);
}
END_TEST

/* G does not divide N: a batch straddles epochs, yet each epoch is one permutation. */
START_TEST(epochs_are_permutations)
{
    enum { N = 23, EPOCHS = 3, LANES = 4, MICRO_BATCHES = 2, MICRO_BATCH = 2 };
    fixture_layout layout = FIXTURE_LAYOUT(16, 30, 40);
    fixture_text(LKS_U8, &layout);
    lks_dataset *dataset = open_fixture();
    ck_assert_uint_eq(lks_dataset_samples(dataset), N);
    lks_order order = lks_order_create(N, lks_dataset_sample_bytes(dataset), 77);
    lks_loader_spec spec = {dataset,     &order, LANES, 0, LANES, MICRO_BATCHES,
                            MICRO_BATCH, 0,      5,     2, 3};
    lks_loader *loader;
    int taken[EPOCHS][N] = {{0}}, total = 0;
    uint64_t first[EPOCHS][N];
    assert_ok(lks_loader_open(&loader, &spec));
    for (int i = 0; i < 5 * LANES * MICRO_BATCHES; ++i) {
        lks_batch batch;
        assert_ok(lks_loader_next(loader, &batch));
        for (int j = 0; j < MICRO_BATCH; ++j) {
            uint64_t epoch = batch.positions[j] / N;
            if (epoch >= EPOCHS)
                continue;
            ++taken[epoch][batch.samples[j]];
            first[epoch][batch.positions[j] % N] = batch.samples[j];
            ++total;
        }
    }
    ck_assert_int_eq(total, EPOCHS * N);
    for (int epoch = 0; epoch < EPOCHS; ++epoch)
        for (int i = 0; i < N; ++i)
            ck_assert_int_eq(taken[epoch][i], 1);
    ck_assert_int_ne(memcmp(first[0], first[1], sizeof first[0]), 0);
    ck_assert_int_ne(memcmp(first[1], first[2], sizeof first[0]), 0);
    lks_loader_close(loader);
    lks_dataset_close(dataset);
}
END_TEST

START_TEST(valid_targets_of_tables)
{
    int32_t classes = _i == 0 ? 0 : FIXTURE_CLASSES;
    fixture_layout layout = FIXTURE_LAYOUT(64, 10, 11);
    fixture_table(classes, &layout);
    lks_dataset *dataset = open_fixture();
    lks_loader_spec spec = {dataset, NULL, 2, 0, 2, 1, 8, 0, 2, 2, 2};
    lks_loader *loader;
    assert_ok(lks_loader_open(&loader, &spec));
    /* 3, 10 and 17 are masked in the file; 21 to 31 do not exist */
    const uint64_t wanted[] = {7, 7, 4, 0};
    for (int i = 0; i < 4; ++i) {
        lks_batch batch;
        assert_ok(lks_loader_next(loader, &batch));
        ck_assert_uint_eq(batch.valid_targets, wanted[i]);
    }
    lks_loader_close(loader);
    lks_dataset_close(dataset);
}
END_TEST

/* What a batch holds stays until the next call, however fast the readers are. */
START_TEST(batch_is_kept_until_next)
{
    fixture_layout layout = FIXTURE_LAYOUT(64, 301);
    fixture_text(LKS_U8, &layout);
    lks_dataset *dataset = open_fixture();
    lks_loader_spec spec = {dataset, NULL, 1, 0, 1, 1, 2, 0, 50, 4, 2};
    lks_loader *loader;
    assert_ok(lks_loader_open(&loader, &spec));
    uint64_t before = lks_memory_allocation_count();
    for (uint64_t n = 0; n < 50; ++n) {
        lks_batch batch;
        int32_t copy[2 * CONTEXT];
        assert_ok(lks_loader_next(loader, &batch));
        memcpy(copy, batch.fields[0], sizeof copy);
        for (int spin = 0; spin < 20000; ++spin)
            ck_assert_int_eq(((volatile int32_t *)batch.fields[0])[0],
                             fixture_token(n * 2 * CONTEXT));
        ck_assert_int_eq(memcmp(copy, batch.fields[0], sizeof copy), 0);
    }
    ck_assert_uint_eq(lks_memory_allocation_count(), before);
    lks_loader_close(loader);
    lks_dataset_close(dataset);
}
END_TEST

START_TEST(failure_arrives_in_its_turn)
{
    fixture_layout layout = FIXTURE_LAYOUT(16, 100, 101);
    fixture_text(LKS_U8, &layout);
    /* token 130: sample 43, micro-batch 21 */
    fixture_flip_byte("shard-00001.h5", fixture_offset("shard-00001.h5", "tokens") + 33);
    lks_dataset *dataset = open_fixture();
    lks_loader_spec spec = {dataset, NULL, 1, 0, 1, 1, 2, 0, 33, 1 + _i, 2 + _i * 3};
    lks_loader *loader;
    lks_batch batch;
    assert_ok(lks_loader_open(&loader, &spec));
    /* block 2 of shard 1 begins with token 132, the last target of sample 43 */
    for (int n = 0; n < 21; ++n)
        assert_ok(lks_loader_next(loader, &batch));
    for (int again = 0; again < 2; ++again) {
        assert_status(lks_loader_next(loader, &batch), LKS_ERR_CORRUPT);
        assert_message("/shard-00001.h5: dataset tokens, block 2: expected xxh3 ");
    }
    lks_loader_close(loader);
    lks_dataset_close(dataset);
}
END_TEST

/* Readers that wait for room, for nothing, or have not begun. */
START_TEST(close_at_any_time)
{
    fixture_layout layout = FIXTURE_LAYOUT(64, 301);
    fixture_text(LKS_U8, &layout);
    lks_dataset *dataset = open_fixture();
    for (int round = 0; round < 60; ++round) {
        lks_loader_spec spec = {
            dataset,       NULL,         2, 1, 2, 3, 2, 5, round % 3 == 0 ? 5 : 1000,
            1 + round % 5, 2 + round % 3};
        lks_loader *loader;
        lks_batch batch;
        assert_ok(lks_loader_open(&loader, &spec));
        for (int n = 0; n < round % 4 && round % 3 != 0; ++n)
            assert_ok(lks_loader_next(loader, &batch));
        lks_loader_close(loader);
    }
    lks_loader_close(NULL);
    lks_dataset_close(dataset);
}
END_TEST

START_TEST(wrong_specs)
{
    fixture_layout layout = FIXTURE_LAYOUT(64, 301);
    fixture_text(LKS_U8, &layout);
    lks_dataset *dataset = open_fixture();
    const lks_loader_spec right = {dataset, NULL, 2, 0, 2, 1, 1, 0, 1, 1, 2};
    lks_order other = {7, 1, 1, 1024};
    lks_loader_spec wrong[8];
    for (int i = 0; i < 8; ++i)
        wrong[i] = right;
    wrong[0].end_lane = 3;
    wrong[1].first_lane = 2;
    wrong[2].micro_batch = 0;
    wrong[3].threads = 0;
    wrong[4].depth = 1;
    wrong[5].order = &other;
    wrong[6].end_step = UINT64_MAX;
    wrong[7].micro_batch = INT64_MAX / 4;
    lks_loader *loader = NULL;
    for (int i = 0; i < 8; ++i)
        assert_status(lks_loader_open(&loader, &wrong[i]),
                      i < 6 ? LKS_ERR_INTERNAL : LKS_ERR_USAGE);
    ck_assert_ptr_null(loader);
    lks_dataset_close(dataset);
}
END_TEST

Suite *loader_suite(void)
{
    Suite *suite = suite_create("loader");
    TCase *group = tcase_create("loader");
    tcase_set_timeout(group, 60);
    tcase_add_checked_fixture(group, fixture_setup, fixture_teardown);
    tcase_add_test(group, any_split_delivers_the_positions);
    tcase_add_test(group, epochs_are_permutations);
    tcase_add_loop_test(group, valid_targets_of_tables, 0, 2);
    tcase_add_test(group, batch_is_kept_until_next);
    tcase_add_loop_test(group, failure_arrives_in_its_turn, 0, 4);
    tcase_add_test(group, close_at_any_time);
    tcase_add_test(group, wrong_specs);
    suite_add_tcase(suite, group);
    return suite;
}
