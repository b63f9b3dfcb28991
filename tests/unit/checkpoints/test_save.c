/* What is saved can be read, by any slice; which checkpoints stay. */
#include "runtime/base/files.h"
#include "runtime/base/json.h"
#include "runtime/base/memory.h"
#include "tests/unit/checkpoints/suites.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void save(uint64_t step)
{
    bool saved = false;
    ASSERT_OK(fixture_save(&self, step, NAN, &saved));
    ck_assert(saved);
}

/* Rank r of w reads its slice of a group; every element of an own block is as filled by `salt`. */
static void check_slice(lks_checkpoint *checkpoint, int g, int r, int w, int salt)
{
    uint32_t first, end;
    lks_layout_owned(self.layout, r, w, &first, &end);
    if (first == end)
        return;
    uint64_t base = self.layout->blocks[first].offset;
    float *data;
    ASSERT_OK(LKS_NEW_ARRAY(&data, self.layout->flat_elements - base));
    lks_state_array slice = {fixture_groups[g], data, g > 0, base};
    ASSERT_OK(lks_checkpoint_read(checkpoint, self.layout, &slice, first, end));
    for (uint32_t b = first; b < end; ++b) {
        const lks_layout_block *block = &self.layout->blocks[b];
        const lks_layout_tensor *tensor = &self.layout->tensors[block->tensor];
        bool there = g == 0 || tensor->role == LKS_ROLE_PARAMETER;
        for (uint32_t i = 0; i < block->elements; ++i) {
            uint64_t element = block->offset - tensor->offset + i;
            float want = there ? fixture_value(g, block->tensor, element, salt) : 0;
            if (data[block->offset - base + i] != want)
                ck_abort_msg("group %d, %s[%llu]", g, tensor->name, (unsigned long long)element);
        }
    }
    lks_memory_free(data);
}

START_TEST(test_round_trip)
{
    lks_checkpoint *checkpoint;
    save(100);
    ASSERT_OK(lks_checkpoint_open(&checkpoint, fixture_path(&self, "step-00000100", NULL),
                                  LKS_CHECK_ALL));
    ck_assert_uint_eq(lks_checkpoint_step(checkpoint), 100);
    ck_assert_str_eq(lks_checkpoint_path(checkpoint), fixture_path(&self, "step-00000100", NULL));
    for (int world = 1; world <= 9; ++world) {
        for (int rank = 0; rank < world; ++rank) {
            for (int g = 0; g < FIXTURE_GROUPS; ++g)
                check_slice(checkpoint, g, rank, world, 100);
        }
    }
    lks_checkpoint_close(checkpoint);
}
END_TEST

START_TEST(test_manifest_tells_all)
{
    lks_checkpoint *checkpoint;
    char want[65], have[65];
    save(100);
    ASSERT_OK(lks_checkpoint_open(&checkpoint, fixture_path(&self, "step-00000100", NULL),
                                  LKS_CHECK_MANIFEST));
    const json_t *manifest = lks_checkpoint_manifest(checkpoint);
    lks_checkpoint_info info = fixture_info(100);
    const char *text;
    int64_t number;
    ASSERT_OK(lks_json_get_string(manifest, "m", "run_id", &text));
    ck_assert_str_eq(text, info.run_id);
    ASSERT_OK(lks_json_get_string(manifest, "m", "config_yaml", &text));
    ck_assert_str_eq(text, info.config_yaml);
    ASSERT_OK(lks_json_get_integer(manifest, "m", "position", 0, INT64_MAX, &number));
    ck_assert_int_eq(number, 6400);
    ASSERT_OK(lks_json_get_integer(manifest, "m", "seed", -1, INT64_MAX, &number));
    ck_assert_uint_eq((uint64_t)number, info.seed);
    ASSERT_OK(lks_layout_fingerprint(self.layout, want));
    ASSERT_OK(lks_layout_fingerprint(lks_checkpoint_layout(checkpoint), have));
    ck_assert_str_eq(have, want);
    for (uint32_t t = 0; t < self.layout->tensor_count; ++t)
        ck_assert(lks_checkpoint_layout(checkpoint)->tensors[t].decay ==
                  self.layout->tensors[t].decay);
    lks_checkpoint_close(checkpoint);
}
END_TEST

START_TEST(test_changes_after_save)
{
    lks_checkpoints *checkpoints;
    lks_checkpoint *checkpoint;
    double stall;
    bool saved;
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    for (int step = 1; step <= 3; ++step) {
        fixture_fill(&self, step);
        lks_checkpoint_info info = fixture_info((uint64_t)step);
        ASSERT_OK(
            lks_checkpoints_save(checkpoints, self.arrays, &info, LKS_CHECKPOINT_WAIT, &stall));
        fixture_fill(&self, 99);
        ASSERT_OK(lks_checkpoints_progress(checkpoints));
    }
    ASSERT_OK(lks_checkpoints_finish(checkpoints, &saved));
    ck_assert(saved);
    lks_checkpoints_stats stats = lks_checkpoints_get_stats(checkpoints);
    ck_assert_uint_eq(stats.saved, 3);
    ck_assert_uint_eq(stats.failed, 0);
    ck_assert_uint_eq(stats.last_step, 3);
    ck_assert(stats.last_bytes > 3 * 280000 * sizeof(float) && stats.last_write_seconds > 0);
    ck_assert(stats.staging_bytes >= self.layout->elements * 3 * sizeof(float));
    lks_checkpoints_close(checkpoints);
    for (int step = 1; step <= 3; ++step) {
        char name[32], have[65], want[65];
        snprintf(name, sizeof name, "step-%08d", step);
        ASSERT_OK(lks_checkpoint_open(&checkpoint, fixture_path(&self, name, NULL), LKS_CHECK_ALL));
        ASSERT_OK(lks_checkpoint_digest(checkpoint, have));
        fixture_digest(&self, step, want);
        ck_assert_str_eq(have, want);
        lks_checkpoint_close(checkpoint);
    }
}
END_TEST

START_TEST(test_retention)
{
    bool saved;
    const double losses[] = {3.0, 1.0, 2.0, NAN, 1.5, 1.0};
    self.spec.keep = 2;
    self.spec.keep_best = true;
    for (uint64_t step = 1; step <= 6; ++step)
        ASSERT_OK(fixture_save(&self, step, losses[step - 1], &saved));
    ck_assert_uint_eq(fixture_count(&self, "step-"), 3);
    ck_assert(
        lks_files_exists(fixture_path(&self, "step-00000002", NULL))); /* the first of equals */
    ck_assert(lks_files_exists(fixture_path(&self, "step-00000005", NULL)));
    ck_assert(lks_files_exists(fixture_path(&self, "step-00000006", NULL)));
    self.spec.keep_best = false;
    self.spec.keep = 1;
    ASSERT_OK(fixture_save(&self, 7, NAN, &saved));
    ck_assert_uint_eq(fixture_count(&self, "step-"), 1);
    char *latest;
    size_t bytes;
    ASSERT_OK(lks_files_read(fixture_path(&self, "LATEST", NULL), 100, &latest, &bytes));
    ck_assert_str_eq(latest, "step-00000007\n");
    free(latest);
}
END_TEST

START_TEST(test_same_step_again)
{
    bool saved;
    struct stat before, after;
    save(10);
    const char *state = fixture_path(&self, "step-00000010", "state.h5");
    ck_assert_int_eq(stat(state, &before), 0);
    ASSERT_OK(fixture_save(&self, 10, NAN, &saved));
    ck_assert(saved);
    ck_assert_int_eq(stat(state, &after), 0);
    ck_assert_msg(before.st_ino == after.st_ino, "a whole checkpoint was written again");
    ck_assert_int_eq(truncate(state, 1000), 0);
    ASSERT_OK(fixture_save(&self, 10, NAN, &saved));
    ck_assert(saved);
    lks_checkpoint *checkpoint;
    ASSERT_OK(lks_checkpoint_find(&checkpoint, self.run, LKS_CHECK_ALL, false, false));
    lks_checkpoint_close(checkpoint);
    ck_assert_uint_eq(fixture_count(&self, "step-"), 1);
}
END_TEST

START_TEST(test_another_model)
{
    lks_checkpoint *checkpoint;
    lks_layout *other;
    save(1);
    ASSERT_OK(lks_checkpoint_find(&checkpoint, self.run, LKS_CHECK_MANIFEST, false, false));
    ASSERT_OK(lks_layout_create(&other));
    ASSERT_OK(lks_layout_add(other, "wte", LKS_SHAPE(300, 501), LKS_ROLE_PARAMETER, true, NULL));
    ASSERT_FAILS(lks_checkpoint_read(checkpoint, other, &self.arrays[0], 0, 1), LKS_ERR_USAGE,
                 "tensor 0 is wte 300x500 there and wte 300x501 here");
    lks_state_array momentum = {"optimizer/momentum", self.data[0], true, 0};
    ASSERT_FAILS(lks_checkpoint_read(checkpoint, self.layout, &momentum, 0, 1), LKS_ERR_USAGE,
                 "holds no optimizer/momentum");
    lks_layout_destroy(other);
    lks_checkpoint_close(checkpoint);
}
END_TEST

START_TEST(test_impossible_names)
{
    lks_layout *layout;
    ASSERT_OK(lks_layout_create(&layout));
    ASSERT_OK(lks_layout_add(layout, "h/0", LKS_SHAPE(3), LKS_ROLE_PARAMETER, true, NULL));
    self.spec.layout = layout;
    self.spec.first_block = 0;
    self.spec.end_block = 1;
    lks_checkpoints *checkpoints;
    ASSERT_FAILS(lks_checkpoints_open(&checkpoints, &self.spec), LKS_ERR_USAGE, "slash");
    lks_layout_destroy(layout);
}
END_TEST

START_TEST(test_unwritable_run)
{
    lks_checkpoints *checkpoints;
    char file[128];
    snprintf(file, sizeof file, "%s/file", self.run);
    ASSERT_OK(lks_files_write_atomically(file, "x", 1));
    self.spec.run_directory = file;
    ck_assert_int_eq(lks_checkpoints_open(&checkpoints, &self.spec), LKS_ERR_IO);
    self.spec.run_directory = "/proc"; /* even root cannot make a directory there */
    ck_assert_int_eq(lks_checkpoints_open(&checkpoints, &self.spec), LKS_ERR_IO);
}
END_TEST

/* Prepared for one step, saved at others, with another configuration at last. */
START_TEST(test_prepared)
{
    static const int steps[] = {3, 4};
    lks_checkpoints *checkpoints;
    lks_checkpoint_info info = fixture_info(1);
    ASSERT_OK(lks_checkpoints_open(&checkpoints, &self.spec));
    ASSERT_OK(lks_checkpoints_prepare(checkpoints, &info));
    for (int i = 0; i < 2; ++i) {
        double stall;
        info = fixture_info((uint64_t)steps[i]);
        if (i == 1)
            info.config_yaml = "train: {steps: 5}\n";
        fixture_fill(&self, steps[i]);
        ASSERT_OK(
            lks_checkpoints_save(checkpoints, self.arrays, &info, LKS_CHECKPOINT_WAIT, &stall));
    }
    lks_checkpoints_close(checkpoints);
    for (int i = 0; i < 2; ++i) {
        lks_checkpoint *checkpoint;
        char name[32], have[65], want[65];
        snprintf(name, sizeof name, "step-%08d", steps[i]);
        ASSERT_OK(lks_checkpoint_open(&checkpoint, fixture_path(&self, name, NULL), LKS_CHECK_ALL));
        ASSERT_OK(lks_checkpoint_digest(checkpoint, have));
        fixture_digest(&self, steps[i], want);
        ck_assert_str_eq(have, want);
        lks_checkpoint_close(checkpoint);
    }
}
END_TEST

TCase *case_save(void)
{
    TCase *c = tcase_create("save");
    tcase_add_test(c, test_prepared);
    tcase_add_test(c, test_round_trip);
    tcase_add_test(c, test_manifest_tells_all);
    tcase_add_test(c, test_changes_after_save);
    tcase_add_test(c, test_retention);
    tcase_add_test(c, test_same_step_again);
    tcase_add_test(c, test_another_model);
    tcase_add_test(c, test_impossible_names);
    tcase_add_test(c, test_unwritable_run);
    return c;
}
